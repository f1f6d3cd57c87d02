"""A model that ships inside the package as a change of another preset's weights.

It is a pack (docs/format.md) in `deltas/PRESET`, whose manifest the preset pins. Its tensors have
the names of the weights, with `__` for the dot; those of the text tower begin with `text__`.
`NAME__a` and `NAME__b` change the weight NAME by b @ a. The token embedding is stored for the
tokens `text__tokens` only. All others get untrained constants (ADR 0018), which differ from token
to token, so that the tower tells apart two words that it was never trained on.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.sources.base import Blueprint, Source, Tensors, read_fields
from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import BLOBS, PACKS, read_file
from edgecl_deploy.format import (
    Pack,
    PackTensor,
    digest,
    parse_pack,
    read_tensors,
    verify,
    write_tensors,
)

MANIFEST = 64 * 1024  # bytes at most
DELTAS = Path(__file__).parents[1] / "deltas"
TEXT, TOKENS, EMBEDDING = "text.", "tokens", "token_embedding.weight"


@dataclass(frozen=True)
class Delta(Source):
    """A change of another preset's image tower, and a text tower.

    Attributes:
        base: the source of the weights that are changed.
        pack: sha256 of the manifest.
    """

    base: Source
    pack: str

    kind = "delta"
    origin = "comes from a Python package"

    @classmethod
    def from_json(
        cls, name: str, preset: Mapping[str, Any], source_of: Callable[[str], Source]
    ) -> "Delta":
        """Build from the JSON of a preset; see `read_source`."""
        fields = read_fields(name, preset, ("base", "pack"))
        return cls(name, source_of(fields["base"]), fields["pack"])

    def fetch(self, say: Callable[[str], None], *, force: bool = False) -> Path:
        return self.base.fetch(say, force=force)

    def read(self) -> Tensors:
        """Return the tensors under the names of the weights, floats as float32.

        Raises:
            BackboneError: a file is missing or is not the pinned one.
        """
        folder = DELTAS / self.name
        weights: Tensors = {}
        try:
            manifest = read_file(folder / PACKS / f"{self.pack}.json", MANIFEST)
            verify(manifest, self.pack, None, "the manifest")
            for name, size in parse_pack(manifest).blobs.items():
                blob = read_file(folder / BLOBS / f"{name}.safetensors", size)
                verify(blob, name, size, "the blob")
                for key, array in read_tensors(blob).items():
                    tensor = torch.from_numpy(array.copy())
                    weights[key.replace("__", ".")] = (
                        tensor.float() if tensor.is_floating_point() else tensor
                    )
        except (DeployError, OSError) as error:
            raise BackboneError(
                f"The delta of {self.name} in {folder} must be the one that edgecl ships, but: "
                f"{error}. Install edgecl again: pip install --force-reinstall --no-deps edgecl."
            ) from error
        return weights

    def image_tower(self, blueprint: Blueprint) -> Tensors:
        changes = {name: value for name, value in self.read().items() if not name.startswith(TEXT)}
        return self.base.image_tower(blueprint) | changes

    def merged(self, weights: Tensors) -> Tensors:
        return merged(weights)

    def text_tower(self, blueprint: Blueprint) -> Tensors:
        weights = {
            name.removeprefix(TEXT): value
            for name, value in self.read().items()
            if name.startswith(TEXT)
        }
        trained, tokens = weights[EMBEDDING], weights.pop(TOKENS)
        table = untrained_embedding(blueprint.shapes[EMBEDDING][0], trained.shape[1])
        weights[EMBEDDING] = table.index_copy(0, tokens.long(), trained)
        weights["logit_scale"] = weights["logit_scale"].reshape(())
        return weights


def merged(weights: Mapping[str, Tensor]) -> Tensors:
    """Add the products NAME.b @ NAME.a to the weights NAME; without any, return the weights."""
    changed = [name.removesuffix(".a") for name in weights if name.endswith(".a")]
    pairs = {f"{name}.{part}" for name in changed for part in "ab"}
    whole = {name: value for name, value in weights.items() if name not in pairs}
    for name in changed:
        whole[name] = whole[name] + weights[f"{name}.b"] @ weights[f"{name}.a"]
    return whole


def untrained_embedding(count: int, width: int) -> Float[Tensor, "v d"]:
    """Return constants, even in [-1/8, 1/8], the same on every machine and for every version."""
    data = hashlib.shake_128(b"edgecl untrained tokens").digest(count * width)
    steps = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, width)
    return (steps.float() - 127.5) / 1024  # exact in float16


def write_delta(folder: Path, name: str, base: str, weights: Mapping[str, Tensor]) -> str:
    """Write a pack of the tensors, floats as float16; return what a preset pins.

    Args:
        folder: gets the folders of packs and blobs.
        name: of the preset.
        base: digest of the backbone that is changed.
        weights: under the names that `Delta.read` returns.
    """
    arrays = {key.replace(".", "__"): _stored(value) for key, value in weights.items()}
    blob = write_tensors(arrays)
    described = {
        key: PackTensor(
            dtype=array.dtype.name,
            shape=array.shape,
            axes=("i", "j", "k")[: array.ndim],
            concat_axis=None,
            blob=digest(blob),
        )
        for key, array in sorted(arrays.items())
    }
    interface = digest("\n".join(described).encode())
    pack = Pack(0, name, name, interface, base, (), (), described, {digest(blob): len(blob)})
    manifest = pack.to_bytes()
    for part, file, data in (
        (BLOBS, f"{digest(blob)}.safetensors", blob),
        (PACKS, f"{digest(manifest)}.json", manifest),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / file).write_bytes(data)
    return digest(manifest)


def _stored(value: Tensor) -> NDArray[np.generic]:
    if not value.is_floating_point():
        return value.to(torch.int32).numpy()
    assert bool(torch.isfinite(value.half()).all()), "beyond float16"
    return value.half().numpy()
