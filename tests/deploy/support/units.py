"""A process as the units of systemd in `deploy/systemd` run it."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def restricted_unit(local: Path) -> Iterator[None]:
    """Have a local folder as `init` makes it, the umask of a unit, and `RestrictSUIDSGID=yes`.

    It refuses the bit of the group in any chmod; a folder inherits the bit from its parent.
    """
    local.mkdir()
    local.chmod(0o2770)
    chmod, before = os.chmod, os.umask(0o007)

    def restricted(path: Path, mode: int, **options: Any) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        chmod(path, mode, **options)

    try:
        with mock.patch("os.chmod", restricted):
            yield
    finally:
        os.umask(before)


def folder_modes(local: Path) -> dict[str, int]:
    """Return the permission bits of the folders in one."""
    return {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in local.iterdir() if path.is_dir()
    }
