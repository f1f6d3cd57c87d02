"""Weights of timm's and open_clip's models, which their libraries download from a hub."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._libraries import import_open_clip, import_timm
from edgecl.backbones.sources.base import Source, Tensors, WholeModel, read_fields
from edgecl.backbones.sources.checkpoint import checked, read_checkpoint

HubT = TypeVar("HubT", bound="Hub")


@dataclass(frozen=True)
class Hub(WholeModel):
    """A model of a library and, by its tag, one of the model's weights."""

    model: str
    tag: str | None

    origin = "comes from a hub"

    @classmethod
    def from_json(
        cls: type[HubT], name: str, preset: Mapping[str, Any], source_of: Callable[[str], Source]
    ) -> HubT:
        """Build from the JSON of a preset; see `read_source`."""
        return cls(name, **read_fields(name, preset, ("model",), optional=("tag",)))

    def with_tag(self, tag: str) -> str | None:
        return None if tag == self.tag else f"{self.kind}:{self.model}"

    def raw(self) -> Tensors:
        try:
            return self.download()
        except BackboneError:
            raise
        except Exception as error:  # whatever the hub's client raises: network, proxy, 404, disk
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"The weights of {self.name} must come from the hub of {self.kind}, but it gave: "
                f"{reason[:300]}. Check the network, or download the file elsewhere and give it: "
                f"load_backbone({self.name!r}, weights=FILE)."
            ) from error

    @abstractmethod
    def download(self) -> Tensors:
        """Return the tensors under the library's names; raises what the library raises."""


@dataclass(frozen=True)
class Timm(Hub):
    """A model of timm."""

    kind = "timm"

    def download(self) -> Tensors:
        full = ".".join(filter(None, [self.model, self.tag]))
        with torch.random.fork_rng(devices=[]):
            network = import_timm().create_model(full, pretrained=True, num_classes=0)
        return checked(network.state_dict(), full)


@dataclass(frozen=True)
class OpenClip(Hub):
    """A CLIP of open_clip."""

    kind = "open_clip"

    def download(self) -> Tensors:
        open_clip = import_open_clip()
        remote = open_clip.get_pretrained_cfg(self.model, self.tag or "")
        if not remote:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(self.model))
            raise BackboneError(
                f"open_clip:{self.model} must have a tag of {tags}, got {self.tag}. "
                f"Give one: open_clip:{self.model}/TAG, or weights=FILE."
            )
        return read_checkpoint(Path(open_clip.download_pretrained(remote)))

    def model_config(self) -> tuple[str, Mapping[str, Any]]:
        config: Mapping[str, Any] = import_open_clip().get_model_config(self.model)
        return f"open_clip:{self.model}", config
