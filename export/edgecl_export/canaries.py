"""Canaries: an image of each task, small enough to travel, by which a device tests a release."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecl_deploy.files import BLOBS, INDEX_FILE
from edgecl_deploy.format import Hidden, parse_index, read_tensors, verify
from edgecl_deploy.images import enlarge
from edgecl_deploy.manifest.fields import Fields

CANARY_SIDE = 24  # pixels: 2 KB an image, where 112 of them would be 37 KB
CANARIES = "canaries"  # in index.json: the canary blob of every pack
FORGOTTEN = "forgotten"  # in index.json: what the run has forgotten


def shrink(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make canaries small to send: the mean of squares of pixels, in the fewest squares allowed.

    Args:
        images: uint8 `[n, side, side, 3]`.

    Returns:
        uint8 `[n, small, small, 3]`; `small` is the least divisor of the side of at least
        `CANARY_SIDE`. The device repeats each pixel (`edgecl_deploy.images.enlarge`).
    """
    side = images.shape[1]
    small = next(size for size in range(min(CANARY_SIDE, side), side + 1) if side % size == 0)
    square = side // small
    means = images.reshape(-1, small, square, small, square, 3).mean(axis=(2, 4))
    return np.asarray(means.round(), np.uint8)


def read_canaries(packs: Path, ids: Sequence[str]) -> dict[str, bytes]:
    """Read the canary blobs of these packs, by digest."""
    listed = parse_index((packs / INDEX_FILE).read_bytes()).extra.get(CANARIES, {})
    found: dict[str, bytes] = {}
    for name in ids:
        if name in listed:
            data = (packs / BLOBS / f"{listed[name]}.safetensors").read_bytes()
            verify(data, listed[name], None, f"the canary of pack {name[:12]}")
            found[listed[name]] = data
    return found


def read_forgotten(packs: Path) -> Hidden | None:
    """Read what the run of some packs has forgotten."""
    found = parse_index((packs / INDEX_FILE).read_bytes()).extra.get(FORGOTTEN)
    if not isinstance(found, dict):
        return None
    return Hidden.read(Fields(found, f"{INDEX_FILE}.{FORGOTTEN}"))


def enlarged(blobs: Iterable[bytes], side: int) -> NDArray[np.uint8]:
    """Return the images of canary blobs in the size that a program takes.

    Returns:
        uint8 `[n, side, side, 3]`.
    """
    return enlarge(np.concatenate([read_tensors(data)["images"] for data in blobs]), side)
