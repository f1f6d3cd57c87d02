"""Backbones by the names of timm and open_clip: sizes from the library, weights from the hub."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._open_clip import import_open_clip, open_clip_preset
from edgecl.backbones._presets import Preset
from edgecl.backbones._torchvision import prepare_torchvision
from edgecl.backbones.preprocess import declared_preprocess
from edgecl.backbones.sources.checkpoint import checked, read_checkpoint
from edgecl.backbones.vit import ViT, ViTConfig


def hub_preset(name: str, tag: str | None) -> Preset:
    """Describe `timm:NAME[.TAG]` or `open_clip:MODEL[/TAG]`; needs no network.

    A name that the library does not know, or a model that is no plain ViT or pooled network, is a
    `BackboneError`.
    """
    kind, _, rest = name.partition(":")
    if kind == "timm":
        model, _, inner = rest.partition(".")
        return _timm_preset(name, model, tag or inner or None)
    model, _, inner = rest.partition("/")
    return open_clip_preset(name, model, tag or inner or None)


def hub_weights(preset: Preset) -> dict[str, Tensor]:
    """Return the weights of a preset whose source is a hub.

    Raises:
        BackboneError: the hub cannot be reached or has no such weights.
    """
    source = preset.source
    full = ".".join(filter(None, [source["model"], source["tag"]]))
    try:
        if source["kind"] == "timm":
            with torch.random.fork_rng(devices=[]):
                network: nn.Module = _timm().create_model(full, pretrained=True, num_classes=0)
            return checked(network.state_dict(), full)
        open_clip = import_open_clip()
        remote = open_clip.get_pretrained_cfg(source["model"], source["tag"] or "")
        if not remote:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(source["model"]))
            raise BackboneError(
                f"open_clip:{source['model']} must have a tag of {tags}, got {source['tag']}. "
                f"Give one: open_clip:{source['model']}/TAG, or weights=FILE."
            )
        path: Any = open_clip.download_pretrained(remote)
    except BackboneError:
        raise
    except Exception as error:  # whatever the hub's client raises: network, proxy, 404, disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"The weights of {preset.name} must come from the hub of {source['kind']}, but it "
            f"gave: {reason[:300]}. Check the "
            f"network, or download the file elsewhere and give it: load_backbone({preset.name!r}, "
            "weights=FILE)."
        ) from error
    return read_checkpoint(Path(path))


def _timm() -> Any:
    prepare_torchvision()
    import timm

    return timm


def _timm_preset(name: str, model: str, tag: str | None) -> Preset:
    timm = _timm()
    full = ".".join(filter(None, [model, tag]))
    try:
        remote = timm.get_pretrained_cfg(full, allow_unregistered=False)
        with torch.device("meta"):
            network = timm.create_model(model, num_classes=0)
    except RuntimeError as error:
        raise BackboneError(
            f"timm: must name a model and a tag that timm knows, got {full}: {error} "
            f"timm.list_models('*{model[:8]}*', pretrained=True) lists them."
        ) from error
    size = remote.input_size[-1]
    preprocess = declared_preprocess(
        size, int(size / remote.crop_pct), remote.interpolation, remote.mean, remote.std
    )
    source = {"kind": "timm", "model": model, "tag": remote.tag or None}
    licence = remote.license or "unknown"
    if type(network).__name__ != "VisionTransformer":
        config: dict[str, Any] = {"image_size": size, "model": model}
        return Preset(name, "cnn", config, preprocess, source, licence)
    return Preset(name, "vit", _config_of(network, model), preprocess, source, licence)


def _config_of(network: Any, model: str) -> dict[str, Any]:
    """Read the sizes off a timm ViT and make sure that ours is the same network.

    Raises:
        BackboneError: it is not.
    """
    block, state = network.blocks[0], network.state_dict()
    config = {
        "image_size": network.patch_embed.img_size[0],
        "patch": network.patch_embed.patch_size[0],
        "width": network.embed_dim,
        "depth": len(network.blocks),
        "heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / network.embed_dim,
        "layer_scale": "blocks.0.ls1.gamma" in state,
        "pre_norm": "norm_pre.weight" in state,
        "activation": {"GELU": "gelu", "QuickGELU": "quick_gelu"}.get(
            type(block.mlp.act).__name__, ""
        ),
        "norm_eps": getattr(network.norm, "eps", 0.0),
        "patch_bias": network.patch_embed.proj.bias is not None,
        "projection": None,
    }
    with torch.device("meta"):
        ours = ViT(ViTConfig(**config)).state_dict()
    same = {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in state.items()
    }
    if not same or network.global_pool != "token" or not config["activation"]:
        raise BackboneError(
            f"timm:{model} must be a plain ViT with a [CLS] token, but it has other parts or "
            "another pooling. "
            "Pick a vit_*_patch*_* model without registers, relative positions or average pooling."
        )
    return config
