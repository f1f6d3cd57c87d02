"""The lock of a folder's one writer; the kernel frees it if the process dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK = 0.02  # seconds between two tries
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def lock_file(path: Path, mode: int) -> int:
    """Open the file of a lock, and make it if it is not there; a link is an OSError."""
    return os.open(path, _FLAGS, mode)


@contextmanager
def closed(handle: int) -> Iterator[int]:
    """Close an open file after the block, which frees its lock."""
    try:
        yield handle
    finally:
        os.close(handle)


def taken(handle: int) -> bool:
    """Take the lock of a file if nobody has it; return whether it is ours."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
