"""How the files of a site are written: a web server can read them, whatever the umask is."""

import os
from pathlib import Path

from edgecl_deploy.store.disk import Disk

EVERYONE = 0o755  # the mode of a site that is made here


def mode_of(site: Path) -> int:
    """Return who may read a site: those who may read its folder."""
    return site.stat().st_mode & 0o777 | 0o700


class SiteDisk(Disk):
    """Gives every file and folder of a site the permissions of the site's own folder."""

    def __init__(self, site: Path) -> None:
        self._site = site

    def file_mode(self) -> int:
        return mode_of(self._site) & 0o666

    def folder(self, path: Path) -> None:
        made = not path.is_dir()
        super().folder(path)
        if made:
            os.chmod(path, mode_of(self._site))


def open_to_readers(folder: Path, mode: int) -> None:
    """Give everything under a folder, and the folder, the permissions of a site.

    Args:
        mode: That of a folder of it.
    """
    for parent, _, names in os.walk(folder):
        os.chmod(parent, mode)
        for name in names:
            os.chmod(Path(parent, name), mode & 0o666)
