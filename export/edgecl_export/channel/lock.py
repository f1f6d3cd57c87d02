"""One writer of a site at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecl_deploy.manifest import lock
from edgecl_export.errors import ChannelError

LOCK_FILE = ".lock"  # web servers and copies leave it out


@contextmanager
def locked(site: Path, wait: int | float) -> Iterator[None]:
    """Hold the lock of a site.

    Args:
        wait: Seconds to wait for another writer.

    Raises:
        ChannelError: if the other writer takes longer, or this system has no such locks.
    """
    try:
        with lock.locked(site / LOCK_FILE, wait=wait) as held:
            if not held:
                raise ChannelError(
                    "Publishing needs a system with POSIX locks, found none. Use Linux or macOS, "
                    "and a file system that has locks."
                )
            yield
    except lock.HeldError as error:
        raise ChannelError(
            f"One command at a time must change {site}, found another one at work. "
            "Try again when it has ended."
        ) from error
