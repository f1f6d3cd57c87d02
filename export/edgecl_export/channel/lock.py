"""One writer of a site at a time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecl_export.errors import ChannelError

LOCK_FILE = ".lock"  # empty; web servers and copies leave it out
_POLL = 0.02  # seconds


@contextmanager
def locked(site: Path, wait: int | float) -> Iterator[None]:
    """Hold the lock of a site.

    Args:
        wait: Seconds to wait for another writer.

    Raises:
        ChannelError: if the other writer takes longer, or this system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ChannelError(
            "Publishing needs a system with POSIX locks, found none. Use Linux or macOS."
        ) from error
    handle = os.open(site / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise ChannelError(
                        f"One command at a time must change {site}, found another one at work. "
                        "Try again when it has ended."
                    ) from error
                time.sleep(_POLL)
        yield
    finally:
        os.close(handle)
