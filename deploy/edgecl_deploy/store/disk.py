"""The file operations of a store: every write is one of them, and durable.

Laws: a published file is never changed, only replaced by a rename within its own folder; a rename
is made only of a file that is synced; a name counts when its folder is synced. Nothing here
relies on what a file system does beyond POSIX (docs/adr/0012-*.md).
"""

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from edgecl_deploy.errors import NoSpaceError
from edgecl_deploy.manifest.whole import TEMPORARY, sync

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILE, _FOLDER = 0o644, 0o755  # the bits of what is written, whatever the umask; the store's own
_LEAST, _SHARE, _MOST = 32 * 1024**2, 3, 1024**3  # bytes, percent, bytes: kept free on the disk
_LEAST_FILES = 64  # inodes that are kept free


def is_full(error: BaseException) -> bool:
    """Return whether an error is that of a full disk, or of a quota that is used up."""
    return isinstance(error, OSError) and error.errno in _FULL


class Disk:
    """The operations; a test replaces them one by one."""

    def file_mode(self) -> int:
        """Return the permission bits of a file that is written, whatever the umask."""
        return _FILE

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file; not durable until `sync`.

        Args:
            path: A name that must be free.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self.file_mode()), "wb") as file:
            os.fchmod(file.fileno(), self.file_mode())
            file.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file, and make it durable.

        Args:
            path: The file; it is made if it is not there.

        Raises:
            OSError: It cannot be written; then it is as it was.
        """
        new = not path.exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self.file_mode()), "ab", buffering=0) as file:
            if new:
                os.fchmod(file.fileno(), self.file_mode())
            size = os.fstat(file.fileno()).st_size
            written = file.write(data)
            if written != len(data):  # the disk is full
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
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
            kept = path.stat().st_mode & stat.S_ISGID  # as the parent gave it
            os.chmod(path, kept | _FOLDER)

    # -- made of the operations above ---------------------------------------------------------

    def publish(self, source: Path, target: Path) -> None:
        """Move a finished file to its place: read-only, synced. The caller syncs the folder."""
        os.chmod(source, 0o444)
        self.sync(source)
        self.rename(source, target)

    def put(self, path: Path, data: bytes) -> None:
        """Write a file whole, and publish it. The caller syncs the folder."""
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        self.remove(temporary)
        self.write(temporary, data)
        self.publish(temporary, path)

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
        """Make everything under a folder durable and readable: the files, then the folders."""
        for parent, _, names in os.walk(folder, topdown=False):
            for name in names:
                path = Path(parent, name)
                if not path.is_symlink():
                    if path.stat().st_mode & 0o777 != self.file_mode():
                        os.chmod(path, self.file_mode())  # python-tuf writes for its user alone
                    self.sync(path)
            self.sync(Path(parent))

    def sweep(self, folder: Path) -> None:
        """Remove what an interrupted writer left in a folder."""
        for path in folder.glob(f"{TEMPORARY}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                self.remove(path)

    def reserve(self, folder: Path, needed: int, files: int = 0) -> None:
        """Check that the file system has room, and keeps some: 3 %, but 32 MB to 1 GB; 64 inodes.

        Args:
            folder: A folder on it.
            needed: Bytes that will be written.
            files: Files that will be made.

        Raises:
            NoSpaceError: It has not enough.
        """
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        share = status.f_blocks * status.f_frsize * _SHARE // 100
        spare = min(max(share, _LEAST), _MOST)
        action = "Remove files, or run `edgecl-device gc`; the next poll tries again."
        if needed + spare > free:
            raise NoSpaceError(
                f"the disk must have {needed + spare} bytes free: {needed} for the update and "
                f"{spare} to spare",
                f"{free}",
                action,
            )
        # a file system that makes inodes as it needs them says 0 of both
        if status.f_files and files + _LEAST_FILES > status.f_favail:
            raise NoSpaceError(
                f"the disk must have {files + _LEAST_FILES} inodes free: {files} for the update "
                f"and {_LEAST_FILES} to spare",
                f"{status.f_favail}",
                action,
            )
