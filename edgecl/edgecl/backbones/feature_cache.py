"""Frozen features: computed once per image, stored in memory and on disk.

The key is the backbone's digest (weights and preprocessing) and the digest of the preprocessed
pixels.
"""

import hashlib
import logging
import secrets
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edgecl.backbones.vit import Features
from edgecl_deploy.manifest.whole import write_whole

KEY_BYTES = 32
log = logging.getLogger("edgecl")


class FeatureCache:
    """Features of the plain backbone, keyed by image (and taps).

    Files are shards `<digest>-<device>/<random>.safetensors`, written whole; one that cannot be
    read is removed and its features are computed again. A folder that fails is named once, in a
    warning, and from then on features are stored in memory only.

    Args:
        root: the folder, or None to store features in memory only.
        digest: the backbone's.
        device: features of different processors differ in their last bits and are not mixed.
    """

    def __init__(self, root: Path | None, digest: str, device: str = "cpu"):
        self._folder = None if root is None else root / "features" / f"{digest}-{device}"
        self._features: dict[bytes, tuple[Tensor, ...]] = {}
        self.hits = 0
        self.misses = 0
        try:
            if self._folder is not None and self._folder.is_dir():
                for shard in sorted(self._folder.glob("*.safetensors")):
                    self._read(shard)
        except OSError as error:
            self._give_up(error)

    def _read(self, shard: Path) -> None:
        try:
            tensors = load_file(shard)
            columns = [tensors["cls"], *(tensors[name] for name in ("taps",) if name in tensors)]
            images = list(zip(tensors["keys"].numpy(), *columns, strict=True))
        except (SafetensorError, KeyError, ValueError):
            shard.unlink(missing_ok=True)
            return
        for key, *features in images:
            self._features[key.tobytes()] = tuple(features)

    def _give_up(self, error: OSError) -> None:
        """Store in memory only from now on."""
        log.warning(
            "the cache %s cannot be used, features are stored in memory only (%s): set "
            "EDGECL_CACHE to a folder of yours",
            self._folder,
            error,
        )
        self._folder = None

    def missing(self, keys: list[bytes]) -> list[int]:
        """Return the positions of images whose features must be computed, equal images once."""
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        unknown = sorted(index for key, index in first.items() if key not in self._features)
        self.misses += len(unknown)
        self.hits += len(keys) - len(unknown)
        return unknown

    def get(self, keys: list[bytes]) -> Features:
        """Return the features of images that are all known."""
        columns = zip(*(self._features[key] for key in keys), strict=True)
        cls, *taps = (torch.stack(column) for column in columns)
        return Features(cls, torch.zeros_like(cls), *taps)

    def put(self, keys: list[bytes], features: Features) -> None:
        """Store the features, on disk too where the cache has a folder.

        The plain backbone has no prompts, so their rows are zeros and are not stored.
        """
        assert not features.prompt.any()
        named = features.named()
        del named["prompt"]
        for key, *image in zip(keys, *named.values(), strict=True):
            self._features[key] = tuple(image)
        if self._folder is None or not keys:
            return
        raw = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        columns = {name: column.contiguous() for name, column in named.items()}
        shard = save({"keys": torch.from_numpy(raw.copy()), **columns})
        path = self._folder / f"{secrets.token_hex(8)}.safetensors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, shard, durable=False)
        except OSError as error:
            self._give_up(error)


def image_keys(images: NDArray[np.uint8], taps: int = 0) -> list[bytes]:
    """Return one digest per preprocessed image [n, h, w, 3], and number of taps."""
    shape = (str(images.shape[1:]) + (f" taps {taps}" if taps else "")).encode()
    return [hashlib.sha256(shape + image.tobytes()).digest() for image in images]


def padded(batch: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "size h w 3"]:
    """Fill a last batch with black images: no image's bits may depend on how many there are."""
    missing = size - batch.shape[0]
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch
