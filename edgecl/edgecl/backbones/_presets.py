"""Presets: sizes, preprocessing and source of the named backbones, read from `presets/*.json`."""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.preprocess import Preprocess
from edgecl.backbones.sources import Source, read_source
from edgecl.config import nearest


@dataclass(frozen=True)
class Preset:
    """One backbone as data.

    Attributes:
        config: the fields of `ViTConfig` for the weights file, or `model` and `image_size` of a
            CNN.
        use: the defaults of `image_size` and `depth` where they differ from those of the file.
        text: the fields of `TextConfig`, of a delta that is a CLIP; other sources describe theirs.
        templates: texts in which the CLIP was trained to read class names; (): CLIP's own.
    """

    name: str
    architecture: Literal["vit", "cnn"]
    config: dict[str, Any]
    preprocess: Preprocess
    source: Source
    licence: str
    about: str = ""
    use: dict[str, int] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    templates: tuple[str, ...] = ()


def list_backbones() -> list[str]:
    """Return the names of the presets; models of timm and open_clip are not among them."""
    folder = files("edgecl.backbones") / "presets"
    return sorted(
        item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")
    )


def read_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        BackboneError: no preset has this name; the message has the nearest one.
    """
    names = list_backbones()
    if name not in names:
        raise BackboneError(
            f"A backbone must be one of {', '.join(names)}, timm:NAME[.TAG] or "
            f"open_clip:MODEL[/TAG], got {name!r}. {nearest(name, names)}"
        )
    text = (files("edgecl.backbones") / "presets" / f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    made = {
        "preprocess": Preprocess.from_json(data.pop("preprocessing")),
        "templates": tuple(data.pop("templates", ())),
        "source": read_source(name, data, lambda base: read_preset(base).source),
    }
    return Preset(name=name, **{**data, **made})
