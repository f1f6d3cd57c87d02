"""Files of frozen features: whole, never changed, removed when they are damaged or not used.

`CACHE/features/<folder>/about.json` is what the features of a folder depend on; its other files
are shards `<random>.safetensors` of rows: `keys` uint8 [n, 16], `constant` uint8 [n], the columns
of the features float32 [n, ...], and `checks` uint32 [n], the CRC-32 of all of these of a row. What
a shard holds is read without its features, and a row of features without the other rows.
"""

import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgecl_deploy.manifest.canonical import canonical, digest
from edgecl_deploy.manifest.whole import TEMPORARY, write_whole

FORMAT = "edgecl-features/2"  # another one where the preparation of images changes a pixel
KEY_BYTES = 16
ABOUT = "about.json"
COLUMNS = ("cls", "taps")
FORMER = re.compile(r"[0-9a-f]{64}-[a-z0-9-]+")  # folders of a release that keyed by pixels
STALE = 3600  # seconds; a temporary file that is older is of a process that was killed

Row = tuple[NDArray[np.float32], ...]  # one image's, of `COLUMNS`


class DamagedShardError(Exception):
    """A shard that does not hold what was written."""


def check_of(key: bytes, constant: int, row: Row) -> int:
    """Return the checksum of a row."""
    found = zlib.crc32(bytes([constant]), zlib.crc32(key))
    for column in row:
        found = zlib.crc32(np.ascontiguousarray(column).data, found)
    return found


class Shard:
    """A shard that is open: its features are mapped, not read.

    A file that is no shard is a DamagedShardError, one that is gone an OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            names = set(self._file.keys())
            self.keys: NDArray[np.uint8] = self._file.get_tensor("keys")
            self.constant: NDArray[np.uint8] = self._file.get_tensor("constant")
            self._checks: NDArray[np.uint32] = self._file.get_tensor("checks")
            self._columns = [self._file.get_slice(name) for name in COLUMNS if name in names]
        except OSError:
            raise
        except Exception as error:  # whatever the library makes of garbage
            raise DamagedShardError(str(error)) from error
        shapes = [column.get_shape() for column in self._columns]
        if (
            not shapes
            or self.keys.ndim != 2
            or self.keys.shape[1] != KEY_BYTES
            or {each[0] for each in shapes} != {len(self.keys)}
            or not len(self.keys) == len(self.constant) == len(self._checks)
        ):
            raise DamagedShardError("its columns are not of one length")

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, first: int, last: int) -> list[Row]:
        """Return neighbouring rows.

        Raises:
            DamagedShardError: if one is not what was written.
        """
        try:
            columns = [column[first:last] for column in self._columns]
        except (SafetensorError, ValueError) as error:
            raise DamagedShardError(str(error)) from error
        found = []
        for place, row in enumerate(zip(*columns, strict=True), start=first):
            check = check_of(self.keys[place].tobytes(), int(self.constant[place]), row)
            if check != self._checks[place]:
                raise DamagedShardError(f"row {place} has another checksum")
            found.append(row)
        return found


def note_use(path: Path) -> None:
    """Note that a shard is in use, so that others are removed first."""
    with suppress(OSError):
        os.utime(path)


def write_shard(
    folder: Path, about: Mapping[str, Any], rows: Mapping[bytes, tuple[int, Row]]
) -> Path:
    """Write rows, by key, each with whether its image has one colour; return the new file.

    A folder that cannot be written is an OSError.
    """
    checks = [check_of(key, constant, row) for key, (constant, row) in rows.items()]
    columns = zip(*(row for _, row in rows.values()), strict=True)
    shard = save({
        "keys": np.frombuffer(b"".join(rows), np.uint8).reshape(-1, KEY_BYTES),
        "constant": np.array([constant for constant, _ in rows.values()], np.uint8),
        "checks": np.array(checks, np.uint32),
        **{name: np.stack(column) for name, column in zip(COLUMNS, columns, strict=False)},
    })
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ABOUT).is_file():
        write_whole(folder / ABOUT, canonical(dict(about)), durable=False)
    path = folder / f"{secrets.token_hex(8)}.safetensors"
    write_whole(path, shard, durable=False)
    return path


def folder_of(root: Path, about: Mapping[str, Any]) -> Path:
    """Return the folder of the features that depend on this."""
    return root / "features" / digest(canonical(dict(about)))[:32]


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder, none where it is not there."""
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


@dataclass(frozen=True)
class Stored:
    """The features of one backbone, as they are computed in one way.

    Attributes:
        backbone: its digest.
        processor: that computed them.
        images: rows.
        bytes: of the files.
        used: seconds since 1970 when one was last read or written.
    """

    backbone: str
    processor: str
    images: int
    bytes: int
    used: float


def stored(root: Path) -> list[Stored]:
    """Return what is in the cache, the newest use first; damaged shards hold no image."""
    found = []
    for folder in _folders(root):
        about = _about(folder)
        rows, size, used = 0, 0, 0.0
        for path in shards_in(folder):
            with suppress(OSError):
                status = path.stat()
                size += status.st_size
                used = max(used, status.st_mtime)
                with suppress(DamagedShardError):
                    rows += len(Shard(path))
        found.append(Stored(about["backbone"], about["processor"], rows, size, used))
    return sorted(found, key=lambda each: -each.used)


def clear(root: Path) -> tuple[int, int]:
    """Remove all features; return how many bytes and files that were.

    A folder that cannot be changed is an OSError.
    """
    folders = [*_folders(root), *former(root)]
    files = [file for folder in folders for file in folder.iterdir()]
    size = sum(file.stat().st_size for file in files)
    for folder in folders:
        shutil.rmtree(folder)
    return size, sum(file.suffix == ".safetensors" for file in files)


def former(root: Path) -> list[Path]:
    """Return the folders of features that this release cannot use."""
    features = root / "features"
    if not features.is_dir():
        return []
    return [each for each in features.iterdir() if FORMER.fullmatch(each.name) and each.is_dir()]


def remove_oldest(root: Path, limit: int, needed: Collection[Path] = ()) -> None:
    """Remove the shards whose last use is the longest ago until the rest has `limit` bytes.

    Temporary files that a kill left are removed, too.

    Args:
        needed: shards that go after all others.
    """
    last = set(map(os.fspath, needed))
    features = []
    for folder in _folders(root):
        for entry in _entries(folder):
            with suppress(OSError):
                status = entry.stat()
                if entry.name.startswith(TEMPORARY):
                    if status.st_mtime < time.time() - STALE:
                        os.unlink(entry.path)
                elif entry.name.endswith(".safetensors"):
                    use = entry.path in last, status.st_mtime
                    features.append((use, entry.path, status.st_size))
    over = sum(size for *_, size in features) - limit
    for _, path, size in sorted(features):
        if over <= 0:
            return
        with suppress(OSError):  # another process was first, or has it open
            os.unlink(path)
            over -= size


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _folders(root: Path) -> list[Path]:
    features = root / "features"
    if not features.is_dir():
        return []
    return sorted(each for each in features.iterdir() if (each / ABOUT).is_file())


def _about(folder: Path) -> dict[str, Any]:
    """Return what the features of a folder depend on, question marks where it cannot be read."""
    unknown = {"backbone": "?", "processor": "?"}
    with suppress(OSError, ValueError):
        found = json.loads((folder / ABOUT).read_bytes())
        if isinstance(found, dict):
            return unknown | found
    return unknown
