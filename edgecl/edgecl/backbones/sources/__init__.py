"""Where the weights of a backbone come from: one class per kind of source.

A preset names its source in JSON; `read_source` parses it once. `weights=FILE` and `random_seed`
of `load_backbone` replace it by a `Checkpoint` or by `RandomWeights`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.sources.base import Blueprint, Source
from edgecl.backbones.sources.delta import Delta
from edgecl.backbones.sources.files import Checkpoint, RandomWeights, SizesFile
from edgecl.backbones.sources.hubs import Hub, OpenClip, Timm
from edgecl.backbones.sources.package import Package

SourceOf = Callable[[str], Source]  # of another preset
KINDS: dict[str, Callable[[str, Mapping[str, Any], SourceOf], Source]] = {
    kind.kind: kind.from_json for kind in (Package, Timm, OpenClip, Delta)
}


def read_source(name: str, preset: Mapping[str, Any], source_of: SourceOf) -> Source:
    """Parse the source of a preset.

    Args:
        name: of the preset.
        preset: its JSON; `source` holds `kind`, one of `KINDS`, and the fields of that class.
        source_of: returns the source of another preset, which a `Delta` changes.

    Raises:
        BackboneError: the kind is unknown, or a field is missing, unknown or of another type.
    """
    data = preset.get("source")
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise BackboneError(
            f"The source of {name} must be an object whose kind is one of {', '.join(KINDS)}, got "
            f"{data!r}. Mend the preset."
        )
    return KINDS[kind](name, preset, source_of)


__all__ = [
    "KINDS",
    "Blueprint",
    "Checkpoint",
    "Delta",
    "Hub",
    "OpenClip",
    "Package",
    "RandomWeights",
    "SizesFile",
    "Source",
    "Timm",
    "read_source",
]
