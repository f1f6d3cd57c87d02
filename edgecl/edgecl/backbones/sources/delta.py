"""A model that ships inside the package as a change of another preset's weights.

It is a pack (docs/format.md) in `deltas/PRESET`, whose manifest the preset pins. Its tensors bear
the names of the weights, `__` standing for the dot: those of the image tower as they are, those of
the text tower behind `text__`. `NAME__a` and `NAME__b` change the weight NAME by b @ a. Of the
token embedding there are the rows of the tokens `text__tokens`; all others are fixed numbers that
say nothing (docs/adr), so that two words that were never trained on are two words.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._presets import Preset
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
KIND = "delta"  # of a preset's source
DELTAS = Path(__file__).parents[1] / "deltas"
TEXT, TOKENS, EMBEDDING = "text.", "tokens", "token_embedding.weight"


def read_delta(preset: Preset) -> dict[str, Tensor]:
    """Return the tensors under the names of the weights, floats as float32.

    Raises:
        BackboneError: a file is missing or is not the pinned one.
    """
    folder = DELTAS / preset.name
    pinned = preset.source["pack"]
    weights: dict[str, Tensor] = {}
    try:
        manifest = read_file(folder / PACKS / f"{pinned}.json", MANIFEST)
        verify(manifest, pinned, None, "the manifest")
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
            f"The delta of {preset.name} in {folder} must be the one that edgecl ships, but: "
            f"{error}. Install edgecl again: pip install --force-reinstall --no-deps edgecl."
        ) from error
    return weights


def visual_delta(preset: Preset) -> dict[str, Tensor]:
    """Return what changes of the image tower; see `merged`."""
    return {name: value for name, value in read_delta(preset).items() if not _of_text(name)}


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the products NAME.b @ NAME.a to the weights NAME; without any, return the weights."""
    changed = [name.removesuffix(".a") for name in weights if name.endswith(".a")]
    pairs = {f"{name}.{part}" for name in changed for part in "ab"}
    whole = {name: value for name, value in weights.items() if name not in pairs}
    for name in changed:
        whole[name] = whole[name] + weights[f"{name}.b"] @ weights[f"{name}.a"]
    return whole


def text_delta(preset: Preset) -> dict[str, Tensor]:
    """Return the text tower and the temperature."""
    weights = {
        name.removeprefix(TEXT): value
        for name, value in read_delta(preset).items()
        if _of_text(name)
    }
    rows, tokens = weights[EMBEDDING], weights.pop(TOKENS)
    table = untrained_rows(preset.text["vocab_size"], rows.shape[1])
    weights[EMBEDDING] = table.index_copy(0, tokens.long(), rows)
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def untrained_rows(count: int, width: int) -> Float[Tensor, "v d"]:
    """Return a row for every token: even in [-1/8, 1/8], the same on every machine and version."""
    data = hashlib.shake_128(b"edgecl untrained tokens").digest(count * width)
    steps = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, width)
    return (steps.float() - 127.5) / 1024  # exact in float16


def _of_text(name: str) -> bool:
    return name.startswith(TEXT)


def write_delta(folder: Path, name: str, base: str, weights: Mapping[str, Tensor]) -> str:
    """Write a pack of the tensors, floats as float16; return what a preset pins.

    Args:
        folder: gets the folders of packs and blobs.
        name: of the preset.
        base: digest of the backbone that is changed.
        weights: under the names that `read_delta` gives.
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
