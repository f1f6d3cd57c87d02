"""Load a frozen backbone by name; its weights come from a file, the cache or the hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._open_clip import file_preset, open_clip_preset
from edgecl.backbones._presets import Preset, read_preset
from edgecl.backbones._timm import timm_preset
from edgecl.backbones.cnn import CNN
from edgecl.backbones.digest import Identity, fingerprints
from edgecl.backbones.preprocess import Preprocess
from edgecl.backbones.rounding import read_weights, round_blocks, spelled
from edgecl.backbones.sources import Blueprint, Checkpoint, RandomWeights, Source
from edgecl.backbones.sources.checkpoint import check_shapes
from edgecl.backbones.vit import ViT, ViTConfig
from edgecl_deploy.format import INT8

HUBS: dict[str, Callable[[str, str | None], Preset]] = {  # by what a name begins with
    "timm": timm_preset,
    "open_clip": open_clip_preset,
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen encoder and what identifies it.

    Attributes:
        model: takes normalised pixels and an injection; in eval mode, without gradients.
        identity: weights and sizes; with the preprocessing it gives the digest.
        width: of the features.
        sites: where it can be injected into; empty for a CNN.
        rounded: the matrices of its blocks have the values of int8.
        spec: as JSON; `load_backbone(**spec)` loads the same again.
    """

    name: str
    model: ViT | CNN
    preprocess: Preprocess
    identity: Identity
    width: int
    sites: frozenset[str]
    spec: dict[str, Any]
    rounded: bool = False

    @property
    def vit(self) -> ViTConfig | None:
        """Return the sizes of a ViT, None for a CNN."""
        return self.model.config if isinstance(self.model, ViT) else None

    @cached_property
    def digest(self) -> str:
        """Return the sha256 over weights, sizes and preprocessing."""
        return self.identity.digest(self.preprocess)

    def with_window(self, window: tuple[float, float]) -> "Backbone":
        """Return the same with a window of levels for images of more than 8 bits."""
        preprocess = replace(self.preprocess, window=window)
        return replace(self, preprocess=preprocess, spec={**self.spec, "window": list(window)})


def load_backbone(
    name: str = "vit-s14",
    *,
    weights: Path | str | None = None,
    image_size: int | None = None,
    depth: int | None = None,
    tag: str | None = None,
    random_seed: int | None = None,
    fit: str | None = None,
    window: Sequence[float] | None = None,
    background: Sequence[int] | None = None,
    decode: str | None = None,
    pixels: str | Mapping[str, Any] | None = None,
) -> Backbone:
    """Load a backbone.

    Args:
        name: a preset (`list_backbones()`), `timm:NAME[.TAG]`, `open_clip:MODEL[/TAG]`, or a JSON
            file in open_clip's format, of which the image tower is loaded.
        weights: a safetensors file or torch checkpoint under timm's or open_clip's names, instead
            of the preset's source; `int8`, or `int8:FILE`, rounds the matrices of a ViT's blocks.
        image_size: pixels; the position embedding is resampled to it, and the size before the crop
            changes in proportion.
        depth: use only so many blocks, the first ones.
        tag: other weights of a timm or open_clip model than the preset's.
        random_seed: random weights, for tests and benchmarks.
        fit: how an image becomes a square: "crop" cuts the longer sides, "pad" adds bars of the
            background, "squash" changes proportions. By default as the preset says: crop.
        window: the levels (low, high) that become 0 and 255, of images of more than 8 bits.
        background: red, green and blue, 0 to 255, under transparent pixels and in the bars.
        decode: "full", the default, or "draft2": JPEG files at the smallest scale whose shorter
            side has twice the pixels of the resize, which is many times faster for photographs.
        pixels: another resize and normalisation than that of the weights: "pilot", "coda",
            "hide", "imagenet" (`edgecl.backbones.pixels`), or a mapping with `mean`, `std`,
            `interpolation`, `shorter` or `fit`.

    Raises:
        BackboneError: the name is unknown, the weights cannot be loaded or do not fit, or a size is
            out of range.
    """
    preset = find_preset(name, tag)
    file, rounded = read_weights(weights)
    source = choose_source(preset, file, random_seed)
    native = preset.use.get("image_size", preset.config["image_size"])
    size = native if image_size is None else image_size
    if size < 1:
        raise BackboneError(
            f"image_size must be at least 1 pixel, got {size}. Leave it out for {native}."
        )
    preprocess = preset.preprocess if image_size is None else preset.preprocess.at(size)
    preprocess = preprocess.with_options(fit, window, background, decode, pixels)
    load = _load_vit if preset.architecture == "vit" else _load_cnn
    model, identity = load(preset, size, depth, source, rounded)
    return Backbone(
        name=Path(name).stem if is_file(name) else name,
        model=model.eval().requires_grad_(False),
        preprocess=preprocess,
        identity=identity,
        width=model.width,
        sites=model.sites,
        spec={
            "name": str(Path(name).absolute()) if is_file(name) else name,
            "weights": spelled(weights),
            "image_size": image_size,
            "depth": depth,
            "tag": tag,
            "random_seed": random_seed,
            "fit": fit,
            "window": None if window is None else list(preprocess.window or ()),
            "background": None if background is None else list(preprocess.background),
            **({} if decode is None else {"decode": decode}),
            **({} if pixels is None else {"pixels": pixels}),
        },
        rounded=rounded,
    )


def find_preset(name: str, tag: str | None = None) -> Preset:
    """Return the preset of a name, or of its hub model with another tag.

    An unknown name, and a tag for weights that come from no hub, are a `BackboneError`.
    """
    prefix, colon, _ = name.partition(":")
    if colon and prefix in HUBS:
        return HUBS[prefix](name, tag)
    preset = file_preset(Path(name)) if is_file(name) else read_preset(name)
    # Another tag may need another normalisation or activation, which the hub's library knows.
    other = None if tag is None else preset.source.with_tag(tag)
    return preset if other is None else find_preset(other, tag)


def is_file(name: str) -> bool:
    """Return whether the name of a backbone is that of a configuration file."""
    return name.endswith(".json")


def choose_source(preset: Preset, weights: Path | str | None, random_seed: int | None) -> Source:
    """Return the source that the caller chose, else the preset's.

    Raises:
        BackboneError: the caller chose two.
    """
    if weights is not None and random_seed is not None:
        raise BackboneError(
            f"weights and random_seed exclude each other, got {weights} and {random_seed}. Give "
            "one of them."
        )
    if weights is not None:
        return Checkpoint(preset.name, Path(weights))
    return preset.source if random_seed is None else RandomWeights(preset.name, random_seed)


def _load_vit(
    preset: Preset, image_size: int, depth: int | None, source: Source, rounded: bool
) -> tuple[ViT, Identity]:
    native = preset.config["depth"]
    depth = depth if depth is not None else preset.use.get("depth", native)
    if not 1 <= depth <= native:
        raise BackboneError(
            f"depth of {preset.name} must be in [1, {native}], got {depth}. Give a smaller depth, "
            "or leave it out."
        )
    config = ViTConfig(**{**preset.config, "image_size": image_size, "depth": depth})
    with torch.device("meta"):  # takes no memory and no random numbers
        model = ViT(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights = source.image_tower(Blueprint(shapes, lambda seed: random_weights(shapes, seed)))
    unused = tuple(f"blocks.{index}." for index in range(depth, native))
    weights = {key: value for key, value in weights.items() if not key.startswith(unused)}
    prints = fingerprints(weights)
    weights = source.merged(weights)
    identity = Identity(prints, dict(vars(config)) | ({"weights": INT8} if rounded else {}))
    if rounded:
        weights = round_blocks(weights)
    position = weights.get("pos_embed")
    grid = _grid_of(position)
    wanted = dict(shapes)
    if position is not None and grid:
        wanted["pos_embed"] = torch.Size([1, 1 + grid * grid, config.width])
    check_shapes(weights, wanted, source.where)
    weights["pos_embed"] = resample_position(weights["pos_embed"], image_size // config.patch)
    model.load_state_dict(weights, assign=True)
    return model, identity


def _load_cnn(
    preset: Preset, image_size: int, depth: int | None, source: Source, rounded: bool
) -> tuple[CNN, Identity]:
    if rounded:
        raise BackboneError(
            f"Weights can be {INT8} in the blocks of a ViT, got {preset.name}, which is a CNN. "
            f"Leave {INT8} out."
        )
    if depth is not None:
        raise BackboneError(
            f"depth must be left out for {preset.name}, which has no blocks to count, got {depth}. "
            "Leave it out."
        )

    def build(seed: int) -> CNN:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CNN(preset.config["model"])

    model = build(0)
    shapes = {name: value.shape for name, value in model.network.state_dict().items()}
    blueprint = Blueprint(shapes, lambda seed: dict(build(seed).network.state_dict()))
    weights = source.image_tower(blueprint)
    check_shapes(weights, shapes, source.where)
    model.network.load_state_dict(weights)
    config = {**preset.config, "image_size": image_size}
    return model, Identity(fingerprints(model.network.state_dict()), config)


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
    """Return the side g of a position embedding [1, 1 + g * g, d], 0 for another shape."""
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
