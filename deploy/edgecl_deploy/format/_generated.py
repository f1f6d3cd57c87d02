"""Makes tensors with a named generator, so that their bytes need not travel.

Laws: a generator makes the same bits on every platform; nothing is made before its size is known
to be within the limits; nothing is used before its digest is compared.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from edgecl_deploy.errors import GeneratorError, LimitError, shown
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import Fields

IRWIN_HALL = "philox-irwin-hall/1"
_CHUNK = 1 << 16  # values made at once: bounds the memory besides the result
_SUMMANDS = 12  # 16-bit integers of one value, in three words
_UPDATE = "Install the version of edgecl-deploy that the release notes name, or export again."


def _irwin_hall(seed: int, count: int) -> np.ndarray:
    """Make nearly normal values: mean 0, variance 1, within 6, exact in float32.

    Twelve 16-bit integers are summed, so no rounding depends on the platform; their mean is taken
    off and the sum divided by 2^16, which is their standard deviation to ten digits.

    Args:
        seed: The key of Philox4x64-10; the words are those of the counters 1, 2, ...
        count: How many values.

    Returns:
        float32 [count].
    """
    words = np.random.Philox(key=seed)
    values = np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        some = min(_CHUNK, count - start)
        raw = words.random_raw(some * _SUMMANDS // 4).astype("<u8", copy=False)
        sums = raw.view("<u2").reshape(some, _SUMMANDS).sum(axis=1, dtype=np.int64)
        centred = 2 * sums - _SUMMANDS * 0xFFFF  # twice, to stay whole: below 2^20
        values[start : start + some] = centred.astype(np.float32) * np.float32(2**-17)
    return values


GENERATORS: Mapping[str, Callable[[int, int], np.ndarray]] = {IRWIN_HALL: _irwin_hall}


def check_made(shape: tuple[int, ...], what: str, most: int, action: str) -> None:
    """Check the size of a float32 tensor before it is made.

    Args:
        shape: Its shape; an axis of size 0 counts as 1, as numpy limits the other axes all the
            same.
        what: It is.
        most: Bytes.
        action: What to do about a larger one.

    Raises:
        LimitError: It is too large.
    """
    if prod(max(size, 1) for size in shape) * 4 > most:
        raise LimitError(
            f"{what} must have at most {most} bytes", f"the shape {list(shape)}", action
        )


def check_size(shape: tuple[int, ...]) -> None:
    """Check the size of a generated tensor before it is made; a large one is a LimitError."""
    check_made(
        shape,
        "a generated tensor",
        limits.MAX_GENERATED,
        "Learn with a smaller projection, and export the task again.",
    )


def generate(name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Make a tensor.

    Args:
        name: One of `GENERATORS`.
        seed: From 0 to 2^53 - 1.
        shape: Its shape; the values fill it row by row.

    Returns:
        float32, read-only.

    Raises:
        GeneratorError: There is no such generator.
    """
    if name not in GENERATORS:
        raise GeneratorError(
            f"a generator must be one of {', '.join(GENERATORS)}", shown(name), _UPDATE
        )
    check_size(shape)
    array = GENERATORS[name](seed, prod(shape)).reshape(shape)
    array.flags.writeable = False
    return array


def probe(array: np.ndarray) -> str:
    """Return the SHA-256 of a tensor's bytes: float32, little-endian, row by row."""
    return hashlib.sha256(np.require(array, "<f4", "C").data).hexdigest()


@dataclass(frozen=True)
class Generator:
    """The generator of a tensor of a pack, and the digest that the tensor must have."""

    name: str
    seed: int
    probe: str  # SHA-256 of the tensor's bytes
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Generator":
        """Read it out of a manifest.

        Raises:
            GeneratorError: This release knows no such generator.
        """
        name = fields.text("name")
        if name not in GENERATORS:
            raise GeneratorError(
                f"{fields.where}.name must be one of {', '.join(GENERATORS)}", shown(name), _UPDATE
            )
        seed, expected = fields.integer("seed", 0, limits.MAX_INTEGER), fields.sha256("probe")
        return cls(name, seed, expected, fields.unknown())

    def make(self, shape: tuple[int, ...]) -> np.ndarray:
        """Make the tensor and compare its digest.

        Raises:
            GeneratorError: The tensor is not the one that was learned with.
        """
        array = generate(self.name, self.seed, shape)
        found = probe(array)
        if found != self.probe:
            raise GeneratorError(
                f"{self.name} with the seed {self.seed} must make a tensor with the digest "
                f"{self.probe[:12]}",
                found[:12],
                "Export the task again; if it stays so, report it with the version of NumPy.",
            )
        return array

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {**self.extra, "name": self.name, "seed": self.seed, "probe": self.probe}
