"""Sources that a caller names: a weights file, a file of sizes, random numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.sources.base import Blueprint, Source, Tensors, WholeModel
from edgecl.backbones.sources.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Checkpoint(WholeModel):
    """A safetensors file or torch checkpoint."""

    path: Path

    kind = "checkpoint"
    origin = "is a weights file"

    @property
    def where(self) -> str:
        return str(self.path)

    def raw(self) -> Tensors:
        return read_checkpoint(self.path)


@dataclass(frozen=True)
class SizesFile(WholeModel):
    """A JSON file in open_clip's format: the sizes of a CLIP, without weights."""

    path: Path

    kind = "file"
    origin = "is a file"

    @property
    def where(self) -> str:
        return str(self.path)

    def raw(self) -> Tensors:
        raise BackboneError(
            f"The weights of {self.path} must be given, as it is a file of sizes only. "
            "Give weights=FILE, or random_seed=0 for a test."
        )

    def model_config(self) -> tuple[str, Mapping[str, Any]]:
        return str(self.path), read_sizes(self.path)[0]


@dataclass(frozen=True)
class RandomWeights(Source):
    """No weights: what a tower begins with, from a seed. For tests and benchmarks."""

    seed: int

    kind = "random"
    origin = "has random weights"

    def image_tower(self, blueprint: Blueprint) -> Tensors:
        return blueprint.initial(self.seed)

    def text_tower(self, blueprint: Blueprint) -> Tensors:
        return blueprint.initial(self.seed)


def read_sizes(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's configuration and its preprocessing, which may be absent.

    Raises:
        BackboneError: the file cannot be read or is not in open_clip's format.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"A configuration must be a JSON file in open_clip's format, got {path}: {error}. "
            "Check the path, or write the file again."
        ) from error
    whole = whole if isinstance(whole, dict) else {}
    config = whole.get("model_cfg", whole)  # open_clip_config.json has sections
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise BackboneError(
            f"A configuration must hold embed_dim, vision_cfg and text_cfg, got {path} without "
            "them. Write it as open_clip's files in its folder model_configs are."
        )
    preprocessing = whole.get("preprocess_cfg", {})
    return config, preprocessing if isinstance(preprocessing, dict) else {}
