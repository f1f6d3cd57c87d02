"""Frozen features: computed once per image, stored on disk, or in memory where that fails.

The key is the content of the image's file (or its stored pixels), the taps and the view; a folder
of the cache is of one backbone (weights and preprocessing) and one way to compute: processor,
precision, and the libraries that decode and multiply.
"""

import hashlib
import logging
import math
import shutil
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones.feature_files import (
    COLUMNS,
    FORMAT,
    KEY_BYTES,
    DamagedShardError,
    Row,
    Shard,
    folder_of,
    former,
    note_use,
    remove_oldest,
    shards_in,
    write_shard,
)
from edgecl.backbones.vit import Features
from edgecl.cache import feature_bytes
from edgecl_deploy.images import workstation_pixels

SHARD_BYTES = 16 << 20  # of features that wait in memory to become a file
OPEN = 64  # shards that are mapped at once
NOTED = 600  # seconds after which the use of a shard is noted again
log = logging.getLogger("edgecl")


class FeatureCache:
    """Features of the plain backbone, by `feature_key`.

    At the start the keys of all shards are read, and no features. A shard that cannot be read is
    removed and its features are computed again. A folder that fails is named once, in a warning,
    and from then on features are stored in memory only. Several processes may share a folder: each
    finds what was there when it began.

    Args:
        root: the cache folder, or None to store features in memory only.
        digest: the backbone's.
        processor: features of different processors differ in their last bits and are not mixed.
        limit: bytes of the features of all backbones on disk, beyond which those that were not used
            for the longest time are removed, and those that this run needs after all others; None:
            `feature_bytes`.
    """

    def __init__(
        self, root: Path | None, digest: str, processor: str = "cpu", limit: int | None = None
    ):
        self._root = root
        self._about = {
            "format": FORMAT,
            "backbone": digest,
            "processor": processor,
            "precision": "float32",
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "max_pixels": workstation_pixels(),
        }
        self._limit = feature_bytes() if limit is None else limit
        self._waiting: dict[bytes, tuple[int, Row]] = {}  # rows that are in no shard
        self._waiting_bytes = 0
        self._shards: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}  # shard, row
        self._constant: set[bytes] = set()
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._used: dict[int, float] = {}  # shards of this run, and when that was noted
        self.hits = 0
        self.misses = 0
        try:
            self._begin()
        except OSError as error:
            self._give_up(error)

    def _begin(self) -> None:
        if self._root is None:
            return
        for folder in former(self._root):
            log.warning("%s: features of an earlier release are of no use, removed", folder)
            shutil.rmtree(folder, ignore_errors=True)
        for path in shards_in(folder_of(self._root, self._about)):
            try:
                self._add(Shard(path))
            except FileNotFoundError:  # another process removed it
                continue
            except DamagedShardError:
                path.unlink(missing_ok=True)

    def _add(self, shard: Shard) -> None:
        at = len(self._shards)
        self._shards.append(shard.path)
        raw = shard.keys.tobytes()
        for row, constant in enumerate(shard.constant.tolist()):
            key = raw[row * KEY_BYTES : (row + 1) * KEY_BYTES]
            self._places[key] = at, row
            if constant:
                self._constant.add(key)

    def _give_up(self, error: OSError) -> None:
        """Store in memory only from now on."""
        assert self._root is not None
        log.warning(
            "the cache %s cannot be used, features are stored in memory only (%s): set "
            "EDGECL_CACHE to a folder of yours",
            folder_of(self._root, self._about),
            error,
        )
        self._root = None

    def __contains__(self, key: bytes) -> bool:
        if key in self._waiting:
            return True
        place = self._places.get(key)
        if place is not None:
            self._note_use(place[0])
        return place is not None

    def _note_use(self, at: int) -> None:
        """Note that the run needs a shard, for itself and for other processes."""
        now = time.monotonic()
        if now >= self._used.get(at, -math.inf) + NOTED:
            self._used[at] = now
            note_use(self._shards[at])

    def is_constant(self, key: bytes) -> bool:
        """Return whether the image of a known key has one colour."""
        return key in self._constant

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the features of those images that are known."""
        found = {key: self._waiting[key][1] for key in keys if key in self._waiting}
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for key in dict.fromkeys(keys):
            if key not in found and key in self._places:
                shard, row = self._places[key]
                wanted.setdefault(shard, []).append((row, key))
        for shard, places in wanted.items():
            found |= self._read(shard, sorted(places))
        missing = len(set(keys) - found.keys())  # equal images are computed once
        self.misses += missing
        self.hits += len(keys) - missing
        return found

    def _read(self, at: int, places: list[tuple[int, bytes]]) -> dict[bytes, Row]:
        """Return rows of a shard; of one that is damaged or gone nothing, and it is forgotten."""
        found: dict[bytes, Row] = {}
        try:
            shard = self._opened(at)
            first = 0
            for last in range(1, len(places) + 1):
                if last < len(places) and places[last][0] == places[last - 1][0] + 1:
                    continue
                rows = shard.rows(places[first][0], places[last - 1][0] + 1)
                found |= zip((key for _, key in places[first:last]), rows, strict=True)
                first = last
        except FileNotFoundError:
            self._forget(at)
            return {}
        except (DamagedShardError, OSError):
            with suppress(OSError):
                self._shards[at].unlink(missing_ok=True)
            self._forget(at)
            return {}
        return found

    def _opened(self, at: int) -> Shard:
        self._note_use(at)
        if at not in self._open:
            self._open[at] = Shard(self._shards[at])
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(at)
        return self._open[at]

    def _forget(self, at: int) -> None:
        self._open.pop(at, None)
        self._used.pop(at, None)
        self._places = {key: place for key, place in self._places.items() if place[0] != at}

    def put(self, keys: Sequence[bytes], rows: Sequence[Row], constant: Sequence[bool]) -> None:
        """Store the features of images; `flush` writes the last of them.

        Args:
            rows: as `rows_of` returns them.
            constant: whether each image has one colour.
        """
        for key, row, one in zip(keys, rows, constant, strict=True):
            self._waiting[key] = int(one), row
            self._waiting_bytes += sum(column.nbytes for column in row)
            if one:
                self._constant.add(key)
        if self._waiting_bytes > SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits in memory; it stays there where the cache has no folder."""
        if self._root is None or not self._waiting:
            return
        widths: dict[int, dict[bytes, tuple[int, Row]]] = {}  # a shard is with taps, or without
        for key, held in self._waiting.items():
            widths.setdefault(len(held[1]), {})[key] = held
        try:
            for rows in widths.values():
                path = write_shard(folder_of(self._root, self._about), self._about, rows)
                at = len(self._shards)
                self._shards.append(path)
                self._places |= {key: (at, row) for row, key in enumerate(rows)}
                self._note_use(at)
            remove_oldest(self._root, self._limit, [self._shards[at] for at in list(self._used)])
        except OSError as error:
            self._give_up(error)
            return
        self._waiting, self._waiting_bytes = {}, 0


def rows_of(features: Features) -> list[Row]:
    """Return the features of each image as the cache stores them.

    The plain backbone has no prompts, so their rows are zeros and are not stored.
    """
    assert not features.prompt.any()
    named = features.named()
    columns = [named[name].numpy() for name in COLUMNS if name in named]
    return list(zip(*columns, strict=True))


def feature_key(content: bytes, taps: int = 0, view: int = 0) -> bytes:
    """Return the key of an image.

    Args:
        content: the digest of its file, or of its pixels.
        taps: that are stored beside the features.
        view: of the image, 0 the plain one.
    """
    what = f"taps {taps} view {view} ".encode()
    return hashlib.sha256(what + content).digest()[:KEY_BYTES]


def contents_of(images: NDArray[np.uint8]) -> list[bytes]:
    """Return one digest per preprocessed image [n, h, w, 3], of images that are in no file."""
    shape = f"prepared {images.shape[1:]}".encode()
    return [hashlib.sha256(shape + image.tobytes()).digest() for image in images]


def padded(batch: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "size h w 3"]:
    """Fill a last batch with black images: no image's bits may depend on how many there are."""
    missing = size - batch.shape[0]
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch
