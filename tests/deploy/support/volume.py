"""A file system of one's own, in a file, whose power can be cut: Linux, root and loop devices."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
NOLOGFLUSH = 2  # as a power cut: neither the data nor the log is written
SIZES = {"ext4": 64, "xfs": 320}  # MB; xfs takes no less than 300


class Volume:
    """One file system, mounted over a loop device.

    Args:
        folder: Where the image and the mount point lie.
        kind: `ext4` or `xfs`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.image, self.path = folder / f"{kind}.img", folder / kind
        self.path.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZES[kind] * 2**20)
        run(f"mkfs.{kind}", "-q", str(self.image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.path))

    def unmount(self) -> None:
        run("umount", str(self.path))

    def sync(self) -> None:
        """Let everything be on the disk."""
        run("sync", "-f", str(self.path))

    def cut(self) -> None:
        """Cut the power; whatever is done on it then fails, until `restart`."""
        self.assert_own()
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, NOLOGFLUSH.to_bytes(4, "little"))
        finally:
            os.close(handle)

    def restart(self) -> None:
        """Let the kernel recover the file system, as after a start."""
        self.unmount()
        self.mount()

    def assert_own(self) -> None:
        """Make sure that it is this volume that would be cut, and not the machine's own disk."""
        assert os.path.ismount(self.path)
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        entries = [line.split() for line in lines]
        sources = [each[each.index("-") + 2] for each in entries if each[4] == str(self.path)]
        assert len(sources) == 1, sources
        device = Path(sources[0])
        assert device.parent == Path("/dev")
        assert device.name.startswith("loop")
        backing = Path("/sys/block", device.name, "loop", "backing_file").read_text().strip()
        assert os.path.samefile(backing, self.image)
        number = os.stat(device).st_rdev
        assert os.stat(self.path).st_dev == number != os.stat(self.path.parent).st_dev


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def missing(kind: str) -> str | None:
    """Say why there can be no such volume here, or None."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root"
    for tool in ("mount", "umount", f"mkfs.{kind}"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    return None
