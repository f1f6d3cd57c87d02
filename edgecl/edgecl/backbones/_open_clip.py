"""CLIP models as open_clip describes them: by name and tag, or by a JSON file in its format.

A tower with a setting that has no field in `ViTConfig` or `TextConfig` is refused.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._libraries import import_open_clip
from edgecl.backbones._presets import Preset
from edgecl.backbones.preprocess import declared_preprocess
from edgecl.backbones.sources import OpenClip, SizesFile, Source
from edgecl.backbones.sources.files import read_sizes
from edgecl.backbones.text import TextConfig

NORM_EPS = 1e-5
BPE_SIZE = 49408  # entries of CLIP's byte-pair vocabulary
MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"}
SIZES = {"layers", "width", "mlp_ratio", "ls_init_value"}
VISION = SIZES | {"head_width", "image_size", "patch_size", "patch_dropout"}
TEXT = SIZES | {"heads", "context_length", "vocab_size", "pad_id", "eos_id"}  # ids: other poolings
OPTIONAL = {"ls_init_value", "patch_dropout", "pad_id", "eos_id"}  # not used in a forward pass
RESIZE_MODES = {"shortest": "crop", "squash": "squash"}  # "longest" has bars that are not ours
ADVICE = "Pick one of open_clip.list_models() such as ViT-B-32, ViT-B-16 or ViT-L-14."


def open_clip_preset(name: str, tag: str | None) -> Preset:
    """Describe the image tower of `open_clip:MODEL[/TAG]`; needs no network.

    Raises:
        BackboneError: open_clip has no such model, or its image tower is not a plain ViT.
    """
    open_clip = import_open_clip()
    model, _, inner = name.partition(":")[2].partition("/")
    tag = tag or inner or None
    config = open_clip.get_model_config(model)
    if config is None:
        raise BackboneError(f"open_clip: must name a model of open_clip, got {model}. {ADVICE}")
    remote = dict(open_clip.get_pretrained_cfg(model, tag or "") or {})
    quick = config.get("quick_gelu", False) or remote.get("quick_gelu", False)
    source = OpenClip(name, model, tag)
    return _preset(f"open_clip:{model}", {**config, "quick_gelu": quick}, remote, source)


def file_preset(path: Path) -> Preset:
    """Describe the image tower of a JSON file in open_clip's format, which has no weights."""
    config, preprocessing = read_sizes(path)
    return _preset(str(path), config, preprocessing, SizesFile(path.stem, path))


def text_config(preset: Preset) -> TextConfig:
    """Return the sizes of the text tower of a preset's CLIP model.

    Raises:
        BackboneError: the preset is not a CLIP, or its text tower is not CLIP's own transformer
            on its byte-pair encoding.
    """
    if preset.text:
        return TextConfig(**preset.text)
    what, config = preset.source.model_config()
    others = sorted(set(config) - MODEL)
    if others:
        raise BackboneError(
            f"{what} must be a plain CLIP, but its configuration sets {', '.join(others)}. {ADVICE}"
        )
    text = _tower(import_open_clip().CLIPTextCfg, config["text_cfg"], TEXT, what, "text")
    if text.vocab_size < BPE_SIZE:
        raise BackboneError(
            f"The vocab_size of {what} must be at least {BPE_SIZE}, the size of CLIP's byte-pair "
            f"vocabulary, got {text.vocab_size}. Pad token_embedding.weight with zeros."
        )
    return TextConfig(
        width=text.width,
        depth=text.layers,
        heads=text.heads,
        mlp_ratio=text.mlp_ratio,
        layer_scale=text.ls_init_value is not None,
        activation=preset.config["activation"],
        norm_eps=NORM_EPS,
        projection=config["embed_dim"],
        context_length=text.context_length,
        vocab_size=text.vocab_size,
    )


def _preset(
    what: str, config: Mapping[str, Any], preprocessing: Mapping[str, Any], source: Source
) -> Preset:
    open_clip = import_open_clip()
    _check_numbers({"embed_dim": config["embed_dim"]}, what)
    vision = _tower(open_clip.CLIPVisionCfg, config["vision_cfg"], VISION, what, "image")
    if vision.width % vision.head_width:
        raise BackboneError(
            f"The width of the image tower of {what} must be a multiple of its head_width, got "
            f"{vision.width} and {vision.head_width}. {ADVICE}"
        )
    quick = config.get("quick_gelu", False)
    interpolation = preprocessing.get("interpolation", "bicubic")
    if type(quick) is not bool or not isinstance(interpolation, str):
        raise BackboneError(
            f"quick_gelu of {what} must be true or false and its interpolation a name, got "
            f"{quick!r} and {interpolation!r}. {ADVICE}"
        )
    sizes = {
        "image_size": vision.image_size,
        "patch": vision.patch_size,
        "width": vision.width,
        "depth": vision.layers,
        "heads": vision.width // vision.head_width,
        "mlp_ratio": vision.mlp_ratio,
        "layer_scale": vision.ls_init_value is not None,
        "pre_norm": True,
        "activation": "quick_gelu" if quick else "gelu",
        "norm_eps": NORM_EPS,
        "patch_bias": False,
        "projection": config["embed_dim"],
    }
    resize_mode = preprocessing.get("resize_mode", "shortest")
    if resize_mode not in RESIZE_MODES:
        raise BackboneError(
            f"Images must be resized by one of {', '.join(RESIZE_MODES)}, but {what} has the "
            f"resize mode {resize_mode!r}. Pick another tag, or write a JSON file without it, give "
            "weights=FILE, and choose the fit yourself."
        )
    preprocess = declared_preprocess(
        vision.image_size,
        vision.image_size,
        interpolation,
        preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN),
        preprocessing.get("std", open_clip.OPENAI_DATASET_STD),
    )
    preprocess = preprocess.with_options(RESIZE_MODES[resize_mode], None, None)
    return Preset(source.name, "vit", sizes, preprocess, source, "see the model's card")


def _tower(kind: Any, given: Any, ours: set[str], what: str, tower: str) -> Any:
    """Read the section of one tower.

    Args:
        ours: settings that the tower may have; all others must have open_clip's default.

    Raises:
        BackboneError: another setting is unknown or not the default, or one of ours is no number.
    """
    known = {field.name: field.default for field in fields(kind)}
    given = given if isinstance(given, Mapping) else {tower: given}
    others = [
        key for key in given if key not in ours and (key not in known or given[key] != known[key])
    ]
    if others:
        raise BackboneError(
            f"The {tower} tower of {what} must be the plain transformer of CLIP, but its "
            f"configuration sets {', '.join(others)}. {ADVICE}"
        )
    section = kind(**{key: value for key, value in given.items() if key in known})
    where = f"the {tower} tower of {what}"
    _check_numbers({name: getattr(section, name) for name in ours}, where)
    if section.width * section.mlp_ratio < 1:
        raise BackboneError(
            f"The MLP of {where} must have a hidden width of at least 1, got {section.width} times "
            f"{section.mlp_ratio}. {ADVICE}"
        )
    return section


def _check_numbers(values: Mapping[str, Any], where: str) -> None:
    for name in sorted(set(values) - OPTIONAL):
        value = values[name]
        kinds = {int, float} if name == "mlp_ratio" else {int}
        if type(value) not in kinds or value <= 0:
            raise BackboneError(
                f"{name} of {where} must be a number above 0, got {value!r}. {ADVICE}"
            )
