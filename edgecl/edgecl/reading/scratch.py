"""Room for arrays with a row per image: in memory up to a bound, beyond it in mapped files.

A mapped file has no name, so the system removes it with the last array that is in it, and when the
process is killed.
"""

import errno
import math
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgecl.cache import cache_dir
from edgecl.errors import EdgeclError

MEMORY = 2 * 10**9  # bytes


class Scratch:
    """Arrays of which the first `memory` bytes are in memory.

    Args:
        memory: bytes of all arrays that are in use.
        folder: of the mapped files; None: in the cache.
    """

    def __init__(self, memory: int = MEMORY, folder: Path | None = None):
        self.memory = memory
        self.used = 0
        self._folder = folder

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of any values; no room for it on disk either is an EdgeclError."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.used + size > self.memory:
            return self._mapped(shape, np.dtype(dtype), size)
        array = np.empty(shape, dtype)
        self.used += size
        weakref.finalize(array, self._free, size)
        return array

    def _free(self, size: int) -> None:
        self.used -= size

    def _mapped(self, shape: tuple[int, ...], dtype: "np.dtype[Any]", size: int) -> NDArray[Any]:
        """Return an array in a file.

        Raises:
            EdgeclError: if the folder has no room for it, or the process may open no more files.
        """
        folder = cache_dir() / "scratch" if self._folder is None else self._folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                _reserve(file.fileno(), size)
                return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise EdgeclError(
                    f"Images beyond {self.memory} bytes are in files that stay open, and no more "
                    f"may be ({error}). Allow more open files, as `ulimit -n 4096` does, or give "
                    "--image-memory more."
                ) from error
            raise EdgeclError(
                f"Images beyond {self.memory} bytes need a folder with room for {size} bytes, got "
                f"{folder} ({error}). Free some, name another folder in EDGECL_CACHE, or give "
                "--image-memory more."
            ) from error


def _reserve(file: int, size: int) -> None:
    """Give a file its size, and room for it: a full disk is an error now, not a signal later.

    Raises:
        OSError: if there is no room; a file system that cannot tell is trusted.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    os.truncate(file, size)
