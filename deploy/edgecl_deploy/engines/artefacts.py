"""What engines compile, kept on the device that compiled it.

Laws: such a file is executable content, so only one that this user wrote where nobody else can
write is read; it is written whole; its bytes are checked before use; it counts only for the graph,
library, hardware and settings that it was made for. Whatever is in doubt is removed and compiled
again: nothing here is an error of the process.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgecl_deploy.engines._types import Graph
from edgecl_deploy.manifest.canonical import canonical, digest
from edgecl_deploy.manifest.whole import TEMPORARY, write_whole

MAX_FILES, MAX_BYTES = 32, 4 * 1024**3  # the oldest files make room
MAX_INSIDE = 256  # files of one folder
ENDING, FOLDER = ".artefact", ".files"
_HEAD = 64 * 1024  # bytes of the key
_DIGEST = hashlib.sha256().digest_size
_LOG = logging.getLogger(__name__)

Key = Mapping[str, str | int]


def key_of(engine: str, version: str, hardware: str, graph: Graph, **more: str | int) -> Key | None:
    """Return all that a compiled graph depends on, None if the graph has no digest.

    Args:
        engine: Its name.
        version: Of the library.
        hardware: What it was compiled for.
        graph: The graph, and how it shall run.
        more: Settings of this engine.
    """
    if not graph.digest:
        return None
    return {
        "engine": engine,
        "version": version,
        "hardware": hardware,
        "graph": graph.digest,
        "precision": graph.precision,
        "group": graph.group,
        "batch": graph.batch or 0,
        **more,
    }


@dataclass
class Artefacts:
    """A folder of compiled graphs.

    Attributes:
        folder: It is made when something is put in, for this user alone.
    """

    folder: Path
    _told: bool = field(default=False, init=False)

    def get(self, key: Key) -> bytes | None:
        """Return what was compiled for a key, None if there is nothing that can be trusted."""
        if not self._is_ours():
            return None
        path = self._path(key)
        try:
            data = _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(str(error))
            return None
        content = None if data is None else _content(data, key)
        if content is None:
            self._tell(f"{path.name} is damaged, foreign or of another key")
            with suppress(OSError):
                path.unlink()
        else:
            with suppress(OSError):
                os.utime(path)  # the oldest are removed first
        return content

    def put(self, key: Key, content: bytes) -> None:
        """Keep what was compiled for a key; a failure is one line in the log.

        Args:
            key: All that it depends on.
            content: The compiled graph.
        """
        head = canonical(dict(key))
        if len(head) > _HEAD or len(content) > MAX_BYTES:
            return
        parts = (len(head).to_bytes(4, "big"), head, hashlib.sha256(content).digest(), content)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_ours():
                write_whole(self._path(key), b"".join(parts), mode=0o600)
                self._make_room()
        except OSError as error:
            self._tell(str(error))

    def get_folder(self, key: Key) -> Path | None:
        """Return a folder with what a library compiled for a key, None if it cannot be trusted.

        The digests of its files are an artefact of their own.
        """
        folder = self._path(key, FOLDER)
        digests = self.get(_of_files(key))
        if digests is not None and _digests(folder) == digests:
            with suppress(OSError):
                os.utime(folder)
            return folder
        if digests is not None:
            self._tell(f"{folder.name} is damaged or foreign")
        self.drop_folder(key)
        return None

    def new_folder(self) -> Path | None:
        """Return an empty folder of this user alone, for a library that writes files."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.folder))
        except OSError as error:
            self._tell(str(error))
            return None

    def put_folder(self, key: Key, folder: Path) -> None:
        """Keep what a library wrote for a key; a failure is one line in the log.

        Args:
            key: All that it depends on.
            folder: From `new_folder`; it is gone afterwards.
        """
        target = self._path(key, FOLDER)
        try:
            for path in folder.iterdir():
                path.chmod(0o600)
            digests = _digests(folder)
            if self._is_ours() and digests is not None:
                self.drop_folder(key)
                folder.rename(target)
                self.put(_of_files(key), digests)
        except OSError as error:
            self._tell(str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def drop_folder(self, key: Key) -> None:
        """Remove what a library wrote for a key."""
        with suppress(OSError):
            self._path(_of_files(key)).unlink()
        shutil.rmtree(self._path(key, FOLDER), ignore_errors=True)

    def _path(self, key: Key, ending: str = ENDING) -> Path:
        return self.folder / (digest(canonical(dict(key))) + ending)

    def _is_ours(self) -> bool:
        """Return whether only this user can write in the folder."""
        try:
            found = os.lstat(self.folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._tell(str(error))
            return False
        ours = stat.S_ISDIR(found.st_mode) and _is_private(found)
        if not ours:
            self._tell(f"{self.folder} must be a folder of this user, closed to all others")
        return ours

    def _make_room(self) -> None:
        files = []
        for path in self.folder.iterdir():
            if path.name.startswith(TEMPORARY) or path.suffix in {ENDING, FOLDER}:
                files.append((path.lstat().st_mtime, _size(path), path))
        total = 0
        for count, (_, size, path) in enumerate(sorted(files, reverse=True), 1):
            total += size
            if count > MAX_FILES or total > MAX_BYTES:
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            _LOG.warning("a compiled graph is not used, and is compiled again: %s", why)


def _of_files(key: Key) -> Key:
    return {**key, "files": "digests"}


def _size(path: Path) -> int:
    if stat.S_ISDIR(path.lstat().st_mode):
        return sum(each.lstat().st_size for each in path.iterdir())
    return path.lstat().st_size


def _digests(folder: Path) -> bytes | None:
    """Return the digests of the files of a folder; None unless this user alone wrote them."""
    try:
        found = os.lstat(folder)
        names = sorted(os.listdir(folder))
        if not stat.S_ISDIR(found.st_mode) or not _is_private(found) or len(names) > MAX_INSIDE:
            return None
        digests = {}
        for name in names:
            content = _read(folder / name)
            if content is None:
                return None
            digests[name] = digest(content)
    except OSError:
        return None
    return canonical(digests) if digests else None


def _is_private(found: os.stat_result) -> bool:
    if os.name != "posix":  # owners and modes say nothing there
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _read(path: Path) -> bytes | None:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or not _is_private(found):
            return None
        if found.st_size > MAX_BYTES + _HEAD + _DIGEST:
            return None
        return file.read()


def _content(data: bytes, key: Key) -> bytes | None:
    length = int.from_bytes(data[:4], "big")
    if length > _HEAD:
        return None
    begin = 4 + length + _DIGEST
    try:
        same = json.loads(data[4 : 4 + length]) == dict(key)
    except ValueError:
        same = False
    if (
        not same
        or hashlib.sha256(memoryview(data)[begin:]).digest() != data[begin - _DIGEST : begin]
    ):
        return None
    return data[begin:]
