"""Locks between processes: the system releases them when a process ends, however it ends."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_POLL = 0.02  # seconds
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_GRACE = 0.1  # seconds: a look at who holds a lock takes it for a moment
_LONGEST = 200  # characters of what a holder wrote of itself
_held: set[int] = set()  # handles, which a child of a fork must not keep locked


class HeldError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: What it wrote of itself, such as `process 4711`.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(
    path: Path,
    *,
    shared: bool = False,
    wait: float = float("inf"),
    waiting: Callable[[str], None] | None = None,
) -> Iterator[bool]:
    """Hold a lock.

    Args:
        path: A file for it; it stays, and holds the number of the process that had it last.
        shared: Several may hold it, as long as nobody holds it alone.
        wait: Seconds to wait for another process.
        waiting: Called once with the holder when there is something to wait for.

    Yields:
        Whether it is held: not on a system without such locks, nor shared where nobody can write.

    Raises:
        HeldError: It takes longer.
    """
    handle = _open(path, shared)
    if handle is None:
        yield False
        return
    try:
        if (held := _try(handle, shared)) is False:
            until = time.monotonic() + max(wait, _GRACE)
            say_at = time.monotonic() + _GRACE
            while (held := _try(handle, shared)) is False:
                now = time.monotonic()
                if now >= until:
                    raise HeldError(holder(path))
                if waiting is not None and now >= say_at:
                    waiting(holder(path))
                    waiting = None
                time.sleep(_POLL)
        if held is not None and not shared:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
        _held.add(handle)
        yield held is not None
    finally:
        _held.discard(handle)
        os.close(handle)


def holder(path: Path) -> str:
    """Return what the last holder wrote of itself."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:_LONGEST].strip()
    except OSError:
        text = ""
    return text if text.isprintable() and text else "another process"


def held_by(path: Path) -> str | None:
    """Return who holds a lock alone right now; None if nobody does."""
    try:
        with locked(path, shared=True, wait=0):
            return None
    except HeldError as error:
        return error.holder


def _open(path: Path, shared: bool) -> int | None:
    """Open a lock's file.

    Returns:
        None where the system has no locks, or this process may not write and nobody has locked.

    Raises:
        OSError: It cannot be made, and is to be held alone.
    """
    if fcntl is None:
        return None
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if not shared or error.errno not in _READ_ONLY:
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # nobody has locked it, and this process cannot make it
        return None


def _try(handle: int, shared: bool) -> bool | None:
    """Return whether the lock was taken; None if the file system has none.

    Raises:
        OSError: Something else fails.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def _forget() -> None:
    """Close what a fork has inherited: the lock ends with the process that took it."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
