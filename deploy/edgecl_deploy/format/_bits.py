"""Reads and writes tensors in bits: whole steps from where a tensor started (docs/format.md).

A value is start + k step in float32, |k| below 2^22, so what BLIP has rounded comes back to the
bit. The class of k is its length in bits and its zeros at the end: one byte, compressed. Of the
others a sign and the bits between the first one and the last one travel, as they are.

Laws: nothing is decoded before the size of the tensor is known to be within the limits; the bytes
hold one value for each weight and nothing else.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from edgecl_deploy.errors import TensorFileError, TensorShapeError
from edgecl_deploy.format._generated import check_made
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import Fields

LONGEST = 22  # bits of |k|
_HEAD = 4  # bytes: the length of the compressed classes, little-endian
_CHUNK = 1 << 16  # weights decoded at once: bounds the memory besides the result
_SMALLEST, _LARGEST = 1e-30, 1e30  # of a step
_MUST = "the bits of a tensor must hold one whole number of steps for each weight"
_ACTION = "Do not use this pack; export the task again with `edgecl export pack`."
# By class: 0 is k = 0, then (1, 0), (2, 0), (2, 1), (3, 0), ... of length and zeros.
_PAIRS = [(0, 0), *((size, end) for size in range(1, LONGEST + 1) for end in range(size))]
_SIZE, _END = np.array(_PAIRS, np.int64).T
_BETWEEN = np.maximum(0, _SIZE - _END - 2)  # bits between the first one and the last one


def write_bits(steps: np.ndarray) -> bytes:
    """Write whole numbers.

    Args:
        steps: int64, each of at most `LONGEST` bits.
    """
    steps = steps.ravel()
    size = np.abs(steps)
    kind = np.zeros(len(steps), np.int64)
    other = steps != 0
    length, end = np.frexp(size)[1], np.frexp(size & -size)[1] - 1
    kind[other] = (length * (length - 1) // 2 + end + 1)[other]
    packed = zlib.compress(kind.astype(np.uint8).tobytes(), 9)
    between, first = _BETWEEN[kind], np.cumsum(other + _BETWEEN[kind])
    first = first - other - between
    bits = np.zeros(int((other + between).sum()), np.uint8)
    bits[first[other]] = steps[other] < 0
    for place in range(int(between.max(initial=0))):
        some = between > place
        bits[first[some] + 1 + place] = size[some] >> (end[some] + 1 + place) & 1
    rest = np.packbits(bits, bitorder="little").tobytes()
    return len(packed).to_bytes(_HEAD, "little") + packed + rest


def read_bits(data: bytes, count: int) -> np.ndarray:
    """Read whole numbers.

    Args:
        data: All bytes.
        count: How many numbers there are; the caller has checked that so many may be made.

    Returns:
        int32 [count].

    Raises:
        TensorFileError: The bytes are not those of so many numbers.
    """
    kinds, rest = _kinds(data, count)
    found = np.empty(count, np.int32)
    at = 0  # bits that were read
    for begin in range(0, count, _CHUNK):
        kind = kinds[begin : begin + _CHUNK]
        widths = (kind > 0) + _BETWEEN[kind]
        end = at + int(widths.sum())
        held = rest[at // 8 : -(-end // 8)]
        if end > 8 * len(rest):
            raise TensorFileError(_MUST, f"{8 * len(rest)} bits after the classes", _ACTION)
        bits = np.unpackbits(held, bitorder="little")[at % 8 :]
        found[begin : begin + _CHUNK] = _numbers(kind, widths, bits)
        at = end
    padding = np.unpackbits(rest[at // 8 :], bitorder="little")[at % 8 :]
    if len(padding) > 7 or padding.any():
        raise TensorFileError(_MUST, f"bits after the {at} of the numbers", _ACTION)
    return found


def _kinds(data: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each number, and the bytes after them.

    Raises:
        TensorFileError: There are others than so many classes.
    """
    size = int.from_bytes(data[:_HEAD], "little")
    if len(data) < _HEAD + size:
        raise TensorFileError(_MUST, f"{len(data)} of {_HEAD + size} bytes", _ACTION)
    stream = zlib.decompressobj()
    try:
        kinds = stream.decompress(data[_HEAD : _HEAD + size], count + 1)
    except zlib.error as error:
        raise TensorFileError(_MUST, f"classes that do not inflate: {error}", _ACTION) from error
    if len(kinds) != count or not stream.eof or stream.unused_data:
        raise TensorFileError(_MUST, f"classes of another number than {count}", _ACTION)
    found = np.frombuffer(kinds, np.uint8)
    if found.max(initial=0) >= len(_PAIRS):
        raise TensorFileError(_MUST, f"the class {found.max()}", _ACTION)
    return found, np.frombuffer(data, np.uint8, offset=_HEAD + size)


def _numbers(kind: np.ndarray, widths: np.ndarray, bits: np.ndarray) -> np.ndarray:
    first = np.cumsum(widths) - widths
    end, between = _END[kind], _BETWEEN[kind]
    value = np.where(kind > 0, 1 << end, 0)
    value |= np.where(_SIZE[kind] - end > 1, 1 << np.maximum(_SIZE[kind] - 1, 0), 0)
    for place in range(int(between.max(initial=0))):
        some = between > place
        set_bits = bits[first[some] + 1 + place].astype(np.int64)
        value[some] |= set_bits << (end[some] + 1 + place)
    other = kind > 0
    value[other] *= 1 - 2 * bits[first[other]].astype(np.int64)
    return value


def on_grid(steps: np.ndarray, step: float, start: np.ndarray) -> np.ndarray:
    """Return start + k step in float32, as it was rounded in training.

    Args:
        steps: k, whole numbers.
        step: A float32.
        start: float32, of the same shape.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
        found: np.ndarray = start + steps.astype(np.float32) * np.float32(step)
    return found


@dataclass(frozen=True)
class Grid:
    """How the bits of a tensor of a pack are read.

    Attributes:
        nbytes: Of the bits, which are in the blob as uint8 under the name of the tensor.
        step: Between two values, a float32.
        start: Where each weight started: one number for all of them, or blobs that hold it under
            the name of the tensor, in float16 or float32; several are joined on `ROWS`.
    """

    nbytes: int
    step: float
    start: float | tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> tuple[str, "Grid"]:
        """Read it out of a manifest; return the blob too."""
        blob, nbytes = fields.sha256("blob"), fields.integer("bytes", 1, limits.MAX_BLOB)
        step = fields.number("step", _SMALLEST, _LARGEST)
        if float(np.float32(step)) != step:
            raise fields.fail("step", "a float32", step)
        start: float | tuple[str, ...]
        if isinstance(fields.peek("start"), list):
            start = fields.digests("start", limits.MAX_PACKS, repeat=True)
            if not start:
                raise fields.fail("start", "a number or at least one blob", [])
        else:
            start = fields.number("start", -_LARGEST, _LARGEST)
        return blob, cls(nbytes, step, start, fields.unknown())

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return those that hold where it started."""
        return self.start if isinstance(self.start, tuple) else ()

    def make(
        self, data: np.ndarray, starts: Sequence[np.ndarray], shape: tuple[int, ...], axis: int
    ) -> np.ndarray:
        """Make the tensor.

        Args:
            data: The bits, uint8.
            starts: What `blobs` hold.
            shape: Of the tensor.
            axis: On which several starts are joined.

        Raises:
            TensorShapeError: It did not start with this shape.
        """
        check_bits(shape)
        if isinstance(self.start, tuple):
            shapes = [each.shape for each in starts]
            like = [(*each[:axis], *each[axis + 1 :]) for each in (shape, *shapes)]
            fits = all(len(each) == len(shape) for each in shapes) and len(set(like)) == 1
            if not fits or sum(each[axis] for each in shapes) != shape[axis]:
                raise TensorShapeError(
                    f"a tensor must start with its shape {list(shape)}", str(shapes), _ACTION
                )
            start = np.concatenate([each.astype(np.float32) for each in starts], axis)
        else:
            start = np.full(shape, self.start, np.float32)
        steps = read_bits(data.tobytes(), prod(shape)).reshape(shape)
        return on_grid(steps, self.step, start)

    def to_json(self, blob: str | None) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        start = list(self.start) if isinstance(self.start, tuple) else self.start
        own = {"blob": blob, "bytes": self.nbytes, "step": self.step, "start": start}
        return {**self.extra, **own}


def check_bits(shape: tuple[int, ...]) -> None:
    """Check the size of a tensor in bits before it is made; a large one is a LimitError."""
    check_made(
        shape,
        "a tensor in bits",
        limits.MAX_BITS,
        "Export the task again with --dtype float16.",
    )
