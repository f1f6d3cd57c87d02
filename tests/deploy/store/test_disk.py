"""The file operations of a store, and its log."""

import errno
import io
import os

import pytest
from tests.deploy.support.sources import (
    Quick,
)

from edgecl_deploy.errors import NoSpaceError
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.log import LOG, OLDER, Log

# -- log -------------------------------------------------------------------------------------------


def test_the_log_is_rotated_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.store.log.LARGEST", 2000)
    log = Log(tmp_path, Quick())
    for number in range(100):
        log.write("tick", 1.23456, number=number)
    assert (tmp_path / LOG).stat().st_size <= 2000
    assert (tmp_path / OLDER).stat().st_size <= 2000
    numbers = [event["number"] for event in log.read()]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) > 40
    assert next(log.read())["time"] == 1.235


def test_torn_and_foreign_lines_are_skipped(tmp_path):
    log = Log(tmp_path, Quick())
    log.write("one", 1.0)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"event": "to\n\xff\xfe\n[1]\n{}\n\n')
    log.write("two", 2.0)
    assert [event["event"] for event in log.read()] == ["one", "two"]


# -- disk ------------------------------------------------------------------------------------------


def test_a_full_disk_is_seen_before_it_is_full(tmp_path, monkeypatch):
    class Full:
        f_bavail, f_frsize, f_blocks = 40 * 1024, 1024, 100 * 1024
        f_files, f_favail = 1000, 70

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    Disk().reserve(tmp_path, 8 * 1024 * 1024)
    with pytest.raises(NoSpaceError, match="edgecl-device gc"):
        Disk().reserve(tmp_path, 8 * 1024 * 1024 + 1)
    Disk().reserve(tmp_path, 0, files=6)
    with pytest.raises(NoSpaceError, match="71 inodes free: 7 for the update"):
        Disk().reserve(tmp_path, 0, files=7)
    Full.f_files = Full.f_favail = 0  # a file system that makes inodes as it needs them
    Disk().reserve(tmp_path, 0, files=7)


def test_a_large_disk_need_not_keep_three_percent(tmp_path, monkeypatch):
    class Large:  # 1 TB with 24 GB free
        f_bavail, f_frsize, f_blocks = 24 * 10**9 // 4096, 4096, 10**12 // 4096
        f_files, f_favail = 10**7, 10**7

    monkeypatch.setattr(os, "statvfs", lambda folder: Large)
    Disk().reserve(tmp_path, 46_000)
    Large.f_bavail = (2**30 + 46_000) // 4096
    with pytest.raises(NoSpaceError, match="1073741824 to spare"):
        Disk().reserve(tmp_path, 46_000 + 4096)


def test_what_is_written_does_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        disk = Disk()
        disk.folder(tmp_path / "folder")
        disk.replace(tmp_path / "file", b"new")
        disk.append(tmp_path / "log", b"line")
        tmp_path.joinpath("folder", "private").write_bytes(b"python-tuf's")
        disk.sync_tree(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"folder": 0o755, "file": 0o644, "log": 0o644, "private": 0o644}


def test_a_line_that_does_not_fit_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    log = Log(tmp_path, Quick())
    log.write("one", 1.0)
    before = (tmp_path / LOG).read_bytes()
    real = io.FileIO.write

    class Short(io.FileIO):
        def write(self, data):
            return real(self, data[: len(data) // 2])

    monkeypatch.setattr(os, "fdopen", lambda handle, *_, **__: Short(handle, "ab"))
    log.write("two", 2.0)
    monkeypatch.undo()
    assert (tmp_path / LOG).read_bytes() == before
    log.write("three", 3.0)
    assert [event["event"] for event in log.read()] == ["one", "three"]


@pytest.mark.parametrize("how", ["file", "link"])
def test_a_file_is_only_written_under_a_free_name(tmp_path, how):
    path, outside = tmp_path / "file", tmp_path / "outside"
    outside.write_bytes(b"mine")
    if how == "file":
        path.write_bytes(b"mine")
    else:
        path.symlink_to(outside)
    with pytest.raises(FileExistsError):
        Disk().write(path, b"other")
    Disk().replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert outside.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "outside"]


@pytest.mark.parametrize(("code", "raises"), [("EINVAL", False), ("ENOTSUP", False), ("EIO", True)])
def test_a_mount_that_cannot_sync_is_no_error(tmp_path, monkeypatch, code, raises):
    def fails(handle: int) -> None:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "fsync", fails)
    if raises:
        with pytest.raises(OSError, match=code):
            Disk().sync(tmp_path)
    else:
        Disk().sync(tmp_path)
