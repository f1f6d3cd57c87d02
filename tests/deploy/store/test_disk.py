"""The file operations of a store, and its log."""

import errno
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

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    Disk().reserve(tmp_path, 8 * 1024 * 1024)
    with pytest.raises(NoSpaceError, match="edgecl-device gc"):
        Disk().reserve(tmp_path, 8 * 1024 * 1024 + 1)


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
