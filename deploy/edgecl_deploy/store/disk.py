"""The file operations of a store: every write is one of them, and durable.

Laws: a published file is never changed, only replaced by a rename within its own folder; a rename
is made only of a file that is synced; a name counts when its folder is synced. Nothing here
relies on what a file system does beyond POSIX (docs/adr/0012-*.md).
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from edgecl_deploy.errors import NoSpaceError
from edgecl_deploy.manifest.whole import TEMPORARY, sync


class Disk:
    """The operations; a test replaces them one by one."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file; not durable until `sync`.

        Args:
            path: A name that must be free.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
            file.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file, and make it durable.

        Args:
            path: The file; it is made if it is not there.
        """
        new = not path.exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "ab") as file:
            file.write(data)
        self.sync(path)
        if new:
            self.sync(path.parent)

    def sync(self, path: Path) -> None:
        """Make the bytes of a file, or the names in a folder, durable.

        A failure is final: the file counts as lost and must be written again from scratch.
        """
        sync(path)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file in one step; a file that had the new name is gone.

        Args:
            source: The name that it has.
            target: The name that it gets, in the same folder or one of the same file system.
        """
        os.replace(source, target)

    def link(self, text: str, path: Path) -> None:
        """Make a symbolic link.

        Args:
            text: The path that it points to.
            path: A name that must be free.
        """
        os.symlink(text, path)

    def remove(self, path: Path) -> None:
        """Remove a name; one that is not there is no error."""
        with suppress(FileNotFoundError):
            os.unlink(path)

    def folder(self, path: Path) -> None:
        """Make a folder; not durable until its parent is synced. One that is there is no error.

        Args:
            path: The folder; its parent must be there.
        """
        if not path.is_dir():
            os.mkdir(path)

    # -- made of the operations above ---------------------------------------------------------

    def publish(self, source: Path, target: Path) -> None:
        """Move a finished file to its place: read-only, synced. The caller syncs the folder."""
        os.chmod(source, 0o444)
        self.sync(source)
        self.rename(source, target)

    def replace(self, path: Path, data: bytes) -> None:
        """Write a file whole and durably.

        It does what `write_whole` does, but of the operations above, which the crash model records
        and fails one by one, and under a temporary name that `sweep` and `create` know.
        """
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        self.remove(temporary)
        self.write(temporary, data)
        self.sync(temporary)
        self.rename(temporary, path)
        self.sync(path.parent)

    def point(self, path: Path, text: str) -> None:
        """Replace a symbolic link, in one step and durably.

        Args:
            text: The path that it points to.
        """
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        self.remove(temporary)
        self.link(text, temporary)
        self.rename(temporary, path)
        self.sync(path.parent)

    def sync_tree(self, folder: Path) -> None:
        """Make everything under a folder durable: the files first, then the folders upwards."""
        for parent, _, names in os.walk(folder, topdown=False):
            for name in names:
                path = Path(parent, name)
                if not path.is_symlink():
                    self.sync(path)
            self.sync(Path(parent))

    def sweep(self, folder: Path) -> None:
        """Remove what an interrupted writer left in a folder."""
        for path in folder.glob(f"{TEMPORARY}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                self.remove(path)

    def reserve(self, folder: Path, needed: int) -> None:
        """Check that the file system has room, and keeps 3 % or 32 MB.

        Args:
            folder: A folder on it.
            needed: Bytes that will be written.

        Raises:
            NoSpaceError: It has not enough.
        """
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        spare = max(status.f_blocks * status.f_frsize * 3 // 100, 32 * 1024 * 1024)
        if needed + spare > free:
            raise NoSpaceError(
                f"the disk must have {needed + spare} bytes free: {needed} for the update and "
                f"{spare} to spare",
                f"{free}",
                "Remove files, or run `edgecl-device gc`; the next poll tries again.",
            )
