"""Room for arrays: in memory up to a bound, then in files that leave nothing."""

import errno
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecl.errors import EdgeclError
from edgecl.reading.scratch import Scratch

KILLED = """
import os, signal, sys
from pathlib import Path
from edgecl.reading.scratch import Scratch
array = Scratch(0, Path(sys.argv[1])).empty((1 << 20,), "uint8")
array[:] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_mapped(array: np.ndarray) -> bool:
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_memory_is_used_up_to_the_bound_and_again_when_it_is_free(tmp_path: Path) -> None:
    scratch = Scratch(100, tmp_path / "scratch")
    first = scratch.empty((8, 10), np.uint8)
    beyond = scratch.empty((3, 10), np.uint8)
    assert [is_mapped(each) for each in (first, beyond)] == [False, True]
    assert not is_mapped(scratch.empty((2, 10), np.uint8)), "the rest of it"
    view = first[2:]
    del first
    gc.collect()
    assert scratch.used == 80, "a part of it is in use"
    del view
    gc.collect()
    assert scratch.used == 0
    assert not is_mapped(scratch.empty((100,), np.uint8))


def test_a_mapped_array_is_an_array_without_a_name(tmp_path: Path) -> None:
    array = Scratch(0, tmp_path).empty((3, 4), np.float32)
    array[:] = np.arange(12).reshape(3, 4)
    assert type(array) is np.ndarray
    assert torch.from_numpy(array)[torch.tensor([2, 0])].sum() == 8 + 9 + 10 + 11 + 0 + 1 + 2 + 3
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_by_a_process_that_is_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EdgeclError, match=r"room for 12 bytes.*give --image-memory more"):
        Scratch(0, tmp_path).empty((12,), np.uint8)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(EdgeclError, match=r"Too many open files.*ulimit -n 4096"):
        Scratch(0, tmp_path).empty((12,), np.uint8)


@pytest.mark.parametrize("there", [True, False])
def test_a_file_system_that_reserves_nothing_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if there:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    else:
        monkeypatch.delattr(os, "posix_fallocate")
    assert Scratch(0, tmp_path).empty((3, 4), np.uint8).sum() == 0


def test_an_empty_array_takes_no_file(tmp_path: Path) -> None:
    assert Scratch(0, tmp_path / "none").empty((0, 8, 8, 3), np.uint8).shape == (0, 8, 8, 3)
    assert not (tmp_path / "none").exists()
