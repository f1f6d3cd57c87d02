"""Reads and writes tensors in safetensors files: as views, after a header check of our own.

Laws: nothing is allocated before the header is checked; the tensors fill the rest of the file
without a hole or an overlap; every dtype is one of `DTYPES`; the arrays are read-only.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NoReturn, TypeAlias

import numpy as np
from safetensors.numpy import save

from edgecl_deploy.errors import TensorDtypeError, TensorFileError, shown
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import load_object

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int64", "int32", "int8", "uint8")
}
_CODES = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
}
_PREFIX = 8  # bytes: the header's length, little-endian
HEAD = _PREFIX + limits.MAX_HEADER  # bytes of a file that `check_tensors` reads
_Entry: TypeAlias = tuple["np.dtype[Any]", tuple[int, ...], int, int]  # dtype, shape, begin, end
_LARGEST = 2**40  # elements or bytes: far above every limit, far below an overflow


def _refuse(must: str, found: str) -> NoReturn:
    action = "Copy the blob again; if it stays so, export the pack again."
    raise TensorFileError(f"a safetensors file must {must}", found, action)


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Read a safetensors file; TensorFileError if its header does not hold.

    Args:
        data: The whole file; the arrays are views of it and keep it in memory.

    Returns:
        Read-only arrays by name, in the order of the file.
    """
    start, entries = _table(data, len(data))
    return {
        name: _view(data, dtype, shape, start + begin)
        for name, (dtype, shape, begin, _) in entries.items()
    }


def check_tensors(head: bytes, size: int) -> None:
    """Check a safetensors file by its beginning; TensorFileError if its header does not hold.

    Args:
        head: Its first `HEAD` bytes, or all of them if it has less.
    """
    _table(head, size)


def _table(head: bytes, size: int) -> tuple[int, dict[str, _Entry]]:
    """Read the header; return where the data begins and the entries in it."""
    if size < _PREFIX:
        _refuse("begin with 8 bytes of header length", f"{size} bytes")
    length = int.from_bytes(head[:_PREFIX], "little")
    if length > limits.MAX_HEADER:
        _refuse(f"have a header of at most {limits.MAX_HEADER} bytes", f"{length} declared")
    start = _PREFIX + length
    if start > size:
        _refuse("hold its whole header", f"{size} of {start} bytes")
    header = load_object(head[_PREFIX:start], "safetensors header", limits.MAX_HEADER)
    header.pop("__metadata__", None)  # text for people; nothing here reads it
    if len(header) > limits.MAX_TENSORS:
        _refuse(f"hold at most {limits.MAX_TENSORS} tensors", str(len(header)))
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    position = 0
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        nbytes = prod(shape) * dtype.itemsize
        if begin != position or end - begin != nbytes:
            _refuse(
                f"hold {shown(name)} in {nbytes} bytes from {position}, without hole or overlap",
                f"data_offsets [{begin}, {end}]",
            )
        position = end
    if position != size - start:
        _refuse(f"end with its last tensor, {position} bytes", f"{size - start} bytes")
    return start, entries


def _entry(name: str, entry: object) -> _Entry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse("describe each tensor by dtype, shape and data_offsets", shown(name))
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _CODES:
        raise TensorDtypeError(
            f"the dtype of {shown(name)} must be one of {', '.join(_CODES)}",
            shown(code),
            "Export the pack again with --dtype float16 or float32.",
        )
    for what, values, most in (("shape", shape, limits.MAX_RANK), ("data_offsets", offsets, 2)):
        if (
            not isinstance(values, list)
            or len(values) > most
            or any(type(value) is not int or not 0 <= value <= _LARGEST for value in values)
        ):
            _refuse(f"give {shown(name)} a {what} of whole numbers", shown(str(values)))
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        _refuse(f"give {shown(name)} data_offsets [begin, end]", shown(str(offsets)))
    if prod(max(size, 1) for size in shape) > _LARGEST:  # [0, 2**40, 2**40] is empty, but no array
        _refuse(f"give {shown(name)} a shape within {_LARGEST} elements", shown(str(shape)))
    return DTYPES[_CODES[code]], tuple(shape), offsets[0], offsets[1]


def _view(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    count = prod(shape)
    if count == 0:
        array = np.empty(shape, dtype)
    else:
        array = np.frombuffer(data, dtype, count, offset).reshape(shape)
    array.flags.writeable = False
    return array


def write_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Write a safetensors file; equal tensors give equal bytes.

    Args:
        tensors: Arrays by name, of the dtypes of `DTYPES`.

    Raises:
        TensorDtypeError: An array has another dtype.
    """
    for name, array in tensors.items():
        if array.dtype.name not in DTYPES:
            raise TensorDtypeError(
                f"the dtype of {name} must be one of {', '.join(DTYPES)}",
                array.dtype.name,
                "Convert it, for example with array.astype(numpy.float32).",
            )
    # safetensors reads raw memory: an array that is not C-contiguous would be written scrambled.
    return save({name: np.require(array, None, "C") for name, array in tensors.items()})
