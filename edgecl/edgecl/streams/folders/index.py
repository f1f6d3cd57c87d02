"""What was read of a folder's files, in the user's cache: a file that did not change is not read.

Lines of JSON, each with many files. An index that is damaged or of another release is read as none;
a cache that cannot be written is a note, never an error.
"""

import gzip
import hashlib
import json
import os
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgecl.cache import cache_dir
from edgecl.streams.folders.reading import Look, Reading, read_all
from edgecl.streams.folders.tree import File
from edgecl_deploy.images import workstation_pixels
from edgecl_deploy.manifest.whole import whole_file
from edgecl_deploy.progress import Reporter

FORMAT = "edgecl-folder-index/2"
ROWS = 1000  # files of a line
FEW = 500  # files of a folder without an index
FRESH = 2_000_000_000  # nanoseconds: a file younger than this may change again within its time
TRAINED = "trained.bin"  # digests, 16 bytes each


class Index:
    """The readings of one folder.

    Attributes:
        note: why the cache cannot be used; nothing where it can.
    """

    def __init__(self, root: Path) -> None:
        self.note = ""
        self._root = root
        self._folder = cache_dir() / "folders"
        name = hashlib.blake2b(os.fsencode(os.path.realpath(root)), digest_size=16).hexdigest()
        self._path = self._folder / f"{name}.jsonl.gz"

    def readings(self, files: Sequence[File], *, decode: bool, reporter: Reporter) -> list[Reading]:
        """Return what is in the files, reading those that are new or changed."""
        known = self._load() if len(files) >= FEW else {}
        found: list[Reading | None] = []
        for file in files:
            state, reading = known.get(file.name, (None, None))
            if reading is not None and (
                state != (file.size, *file.changed)
                or (decode and reading.look is None and reading.usable)
            ):
                reading = None
            found.append(reading)
        open_ = [index for index, reading in enumerate(found) if reading is None]
        if open_:
            began = time.time_ns()
            paths = [os.path.join(self._root, files[index].name) for index in open_]
            title = "reading images" if decode else "reading headers"
            news = read_all(paths, decode=decode, reporter=reporter, title=title)
            for index, reading in zip(open_, news, strict=True):
                found[index] = reading
            if len(files) >= FEW:
                self._store(files, found, began)
        return [reading for reading in found if reading is not None]

    def trained(self) -> set[bytes]:
        """Return the digests of images that were trained though the seed would hold them out."""
        try:
            data = (self._folder / TRAINED).read_bytes()
        except FileNotFoundError:
            return set()
        except OSError as error:
            self._fails(error)
            return set()
        return {data[start : start + 16] for start in range(0, len(data) - 15, 16)}

    def remember(self, trained: set[bytes]) -> None:
        """Add digests to those of `trained`."""
        if not trained:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / TRAINED).open("ab", buffering=0) as file:
                file.write(b"".join(sorted(trained)))  # one write: no other is inside it
        except OSError as error:
            self._fails(error)

    def _load(self) -> dict[str, tuple[tuple[int, ...], Reading]]:
        known = {}
        try:
            with gzip.open(self._path, "rt", encoding="ascii") as file:
                if json.loads(file.readline()) != _header():
                    return {}
                for line in file:
                    for name, state, digest, usable, look in json.loads(line):
                        reading = Reading(digest, usable, look and Look(*look))
                        known[name] = (tuple(state), reading)
        except FileNotFoundError:
            return {}
        except (OSError, EOFError, ValueError, TypeError) as error:
            self._fails(error)
            return {}
        return known

    def _store(self, files: Sequence[File], found: Sequence[Reading | None], began: int) -> None:
        rows = [
            [file.name, [file.size, *file.changed], *reading]
            for file, reading in zip(files, found, strict=True)
            if reading is not None and max(file.changed) < began - FRESH
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with (
                whole_file(self._path, durable=False) as file,
                gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
            ):
                packed.write(json.dumps(_header()).encode("ascii") + b"\n")
                for start in range(0, len(rows), ROWS):
                    packed.write(json.dumps(rows[start : start + ROWS]).encode("ascii") + b"\n")
        except OSError as error:
            self._fails(error)

    def _fails(self, error: Exception) -> None:
        self.note = (
            f"the cache {self._folder} cannot be used ({error}); the images are read again each "
            "time. Make it writable, or name another folder in EDGECL_CACHE"
        )


def _header() -> dict[str, str]:
    """Return what the verdicts depend on."""
    found = {"format": FORMAT, "max_pixels": str(workstation_pixels())}
    for name in ("edgecl", "edgecl-deploy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
