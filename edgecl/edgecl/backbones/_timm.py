"""timm's models as presets: sizes and preprocessing from the library, weights from its hub."""

from typing import Any

import torch

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._libraries import import_timm
from edgecl.backbones._presets import Preset
from edgecl.backbones.preprocess import declared_preprocess
from edgecl.backbones.sources import Timm
from edgecl.backbones.vit import ViT, ViTConfig


def timm_preset(name: str, tag: str | None) -> Preset:
    """Describe `timm:NAME[.TAG]`; needs no network.

    Raises:
        BackboneError: timm does not know the name, or the model is a ViT with other parts than
            ours.
    """
    timm = import_timm()
    model, _, inner = name.partition(":")[2].partition(".")
    tag = tag or inner or None
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
    source = Timm(name, model, remote.tag or None)
    licence = remote.license or "unknown"
    if type(network).__name__ != "VisionTransformer":
        config: dict[str, Any] = {"image_size": size, "model": model}
        return Preset(name, "cnn", config, preprocess, source, licence)
    return Preset(name, "vit", _config_of(network, model), preprocess, source, licence)


def _config_of(network: Any, model: str) -> dict[str, Any]:
    """Return the sizes of a timm ViT.

    Raises:
        BackboneError: a `ViT` of these sizes is another network.
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
