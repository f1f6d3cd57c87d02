"""IDX files, the format of MNIST and Fashion-MNIST: uint8 images and labels, with gzip or without.

A file is a header (0, 0, type, axes; then one big-endian uint32 per axis) and the data. The sizes
are checked before data of that size are read, so a hostile file takes little memory.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecl.streams._errors import StreamError

MAX_BYTES = 512 * 1024 * 1024  # of one decoded file
UINT8 = 0x08


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read a file of uint8 with this many axes.

    Raises:
        StreamError: the file is not one, is truncated, has bytes left over, or is too large.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return _read(file, axes)
        with path.open("rb") as plain:
            return _read(plain, axes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise StreamError(
            f"{path} must be a whole IDX file of uint8 with {axes} axes; it is not "
            f"({error}). Install or download it again."
        ) from error


def _read(file: io.BufferedIOBase, axes: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * axes)
    if header[:4] != bytes((0, 0, UINT8, axes)):
        raise ValueError(f"magic is {header[:4].hex()}, not {bytes((0, 0, UINT8, axes)).hex()}")
    if len(header) != 4 + 4 * axes:
        raise ValueError("the header is truncated")
    sizes = struct.unpack(f">{axes}I", header[4:])
    count = math.prod(sizes)  # Python's integers do not overflow
    if not 0 < count <= MAX_BYTES:
        raise ValueError(f"sizes {sizes} give {count} bytes, allowed are 1 to {MAX_BYTES}")
    data = file.read(count + 1)
    if len(data) != count:
        raise ValueError(f"sizes {sizes} need {count} bytes, there are {len(data)} or more")
    return np.frombuffer(data, np.uint8).reshape(sizes)
