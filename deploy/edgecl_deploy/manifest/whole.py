"""Files and folders that are written whole: a reader finds the old content or the new, no part.

Laws: new bytes go to a temporary name in the same folder, so the last step is one rename; they are
synced before the rename, and the folder after it, so a power cut leaves the old or the new content
too; a failure removes the temporary. Only a process that is killed leaves one behind: its name
begins with `TEMPORARY`, and nothing here reads it.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"  # begins the name of every file that is not whole yet
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}  # a mount that cannot sync, such as some network ones


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, mode: int | None = None, durable: bool = True
) -> None:
    """Write a file whole.

    Args:
        path: The file; a link of this name is replaced, not followed. Its folder must be there.
        data: The new content.
        mode: Its permission bits; None keeps those of the file that is replaced, or takes the
            default of the process.
        durable: Sync, so that a power cut cannot undo it. False is for hints that are written
            often and may be lost.
    """
    with whole_file(path, mode=mode, durable=durable) as file:
        file.write(data)


@contextmanager
def whole_file(
    path: str | os.PathLike[str], *, mode: int | None = None, durable: bool = True
) -> Iterator[BinaryIO]:
    """Write a file whole, piece by piece; it gets its name when the block ends without an error.

    Args:
        path: The file, as in `write_whole`.
        mode: As in `write_whole`.
        durable: As in `write_whole`.

    Yields:
        The open file, for writing.
    """
    target = Path(path)
    temporary = _temporary(target)
    mode = _mode(target) if mode is None else mode
    handle = os.open(temporary, _flags(), 0o666 if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as file:
            if mode is not None:
                os.chmod(temporary, mode)  # the open took the process's mask off
            yield file
            file.flush()
            if durable:
                _sync(file.fileno())
        os.replace(temporary, target)
        if durable:
            sync(target.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a new folder whole; it gets its name when the block ends without an error.

    Args:
        path: The folder, which must not be there yet. Missing parents are made.

    Yields:
        A folder to fill, under a temporary name.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    temporary.mkdir()
    try:
        yield temporary
        for parent, _, names in os.walk(temporary, topdown=False):
            for each in [*(Path(parent, name) for name in names), Path(parent)]:
                if not each.is_symlink():
                    sync(each)
        temporary.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable.

    A failure is final: the file counts as lost and must be written again from scratch.
    """
    if os.name != "posix" and path.is_dir():  # elsewhere a folder cannot be opened, nor need be
        return
    access = os.O_RDONLY if os.name == "posix" else os.O_RDWR
    handle = os.open(path, access | getattr(os, "O_CLOEXEC", 0))
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _temporary(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")


def _mode(target: Path) -> int | None:
    """Return the permission bits of the file that is replaced; None if there is none."""
    if not target.is_file() or target.is_symlink():
        return None
    return target.stat().st_mode & 0o777


def _flags() -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return flags
