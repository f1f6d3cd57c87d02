"""Additive statistics of images: what closed forms learn from, without an image.

Laws: one file is one set of images, and says so by its `id` and its `sources`; every byte counts,
so a file that is not as it was written is an error; what no images can have as their sums is one,
too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgecl_deploy.errors import (
    DigestError,
    ExtraTensorError,
    LimitError,
    MissingTensorError,
    NonFiniteError,
    StatisticsError,
    TensorDtypeError,
    TensorShapeError,
)
from edgecl_deploy.format._enrol import MEAN, RIDGE
from edgecl_deploy.format._tensors import read_tensors, write_tensors
from edgecl_deploy.format._triangle import packed_size, unpacked
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import canonical, check_version, digest, load_object
from edgecl_deploy.manifest.fields import PROGRAM_NAME, Fields, first_repeated

STATISTICS_FORMAT = "edgecl-statistics/1"
NORMED_FORMAT = "edgecl-statistics/2"  # a reader that does not know `normed` must not drop it
MANIFEST, SUMS, GRAM, NORMED = "manifest", "sums", "gram", "normed"  # the tensors of a file
_SEAL = "sha256"
_ID = re.compile(r"[0-9a-f]{32}")
_ROUNDING = 1e-9  # of a sum, relative
_ACTION = "Write the file again where the images are; do not use this one."


def feature_space(
    backbone: str, interface: str, depends: Mapping[str, np.ndarray], precision: str | None = None
) -> str:
    """Return the digest of all that a feature depends on.

    Args:
        backbone: Its digest.
        interface: Of the program.
        depends: The learned tensors that the feature depends on.
        precision: In which it is computed; None for float32.
    """
    space = {
        "backbone": backbone,
        "interface": interface,
        "depends": {name: digest(tensor.tobytes()) for name, tensor in depends.items()},
        **({} if precision is None else {"precision": precision}),
    }
    return digest(canonical(space))


@dataclass(frozen=True)
class SummedClass:
    """A class of a file of statistics."""

    name: str
    images: int
    known: bool  # more images of a class that the release or the run has

    @classmethod
    def read(cls, fields: Fields) -> "SummedClass":
        """Read it from the fields of a manifest."""
        images = fields.integer("images", 1, limits.MAX_AXIS)
        return cls(fields.name("name"), images, fields.flag("known"))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {"name": self.name, "images": self.images, "known": self.known}


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over images, by class, of what a closed form adds up of each.

    With x what the head of the program sees of an image (its feature, or the expanded one).

    Attributes:
        id: Of this set of images, 32 hexadecimal digits; drawn at random.
        kind: `mean` or `ridge`: whether the sums of x x' are there too.
        program: Whose features they are.
        interface: Of the program.
        backbone: Its digest.
        space: What the features depend on, see `feature_space`.
        classes: The rows of `sums`.
        sums: Float64 [k, m], the sum of x of each class.
        gram: Of the kind `ridge`, G = sum of x x' over all images: F with F'F = G, float64 [r, m],
            or the lower triangle of G row by row, float64 [m (m + 1) / 2].
        normed: Float64 [k, w], the sum of the features of each class at length 1, of the columns
            that a pack compares images with to tell those of no class; None where a learned tensor
            is what they are compared with, and in files of the first version.
        sources: Digests of what was added up: of enrolments, or of a folder's images.
        device: Who wrote it.
        created: When, in seconds since 1970.
        release: The number of the release that the device had; 0 of a workstation.
    """

    id: str
    kind: str
    program: str
    interface: str
    backbone: str
    space: str
    classes: tuple[SummedClass, ...]
    sums: np.ndarray
    gram: np.ndarray | None
    sources: tuple[str, ...]
    device: str
    created: int
    release: int = 0
    normed: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images the sums are of."""
        return sum(each.images for each in self.classes)

    def square(self) -> np.ndarray:
        """Return G, float64 [m, m]."""
        assert self.gram is not None  # noqa: S101  the caller looked at the kind
        if self.gram.ndim == 2:
            found: np.ndarray = self.gram.T @ self.gram
            return found
        return unpacked(self.gram, self.sums.shape[1])

    def _tensors(self) -> dict[str, np.ndarray]:
        found = {SUMS: self.sums, GRAM: self.gram, NORMED: self.normed}
        return {name: each for name, each in found.items() if each is not None}

    def to_bytes(self) -> bytes:
        """Write the file; equal statistics give equal bytes."""
        tensors = self._tensors()
        body = {
            **self.extra,
            "format": STATISTICS_FORMAT if self.normed is None else NORMED_FORMAT,
            "id": self.id,
            "kind": self.kind,
            "program": self.program,
            "interface": self.interface,
            "backbone": self.backbone,
            "feature_space": self.space,
            "classes": [each.to_json() for each in self.classes],
            "sources": list(self.sources),
            "device": self.device,
            "created": self.created,
            "release": self.release,
            "noise": None,
            "tensors": {
                name: digest(np.ascontiguousarray(each).tobytes()) for name, each in tensors.items()
            },
        }
        sealed = canonical({**body, _SEAL: digest(canonical(body))})
        return write_tensors({MANIFEST: np.frombuffer(sealed, np.uint8), **tensors})


def turned(rows: np.ndarray) -> np.ndarray:
    """Return rows F with F'F = H'H that are no image's own: H in the eigenvectors of HH'.

    They are as many as the images, so with few images they hold as much as those do.

    Args:
        rows: H, float64 [n, m].
    """
    _, vectors = np.linalg.eigh(rows @ rows.T)
    found: np.ndarray = vectors.T @ rows
    return found


def parse_statistics(data: bytes, largest: int = limits.MAX_STATISTICS) -> Statistics:
    """Read a file of statistics, and check that images can have such sums.

    Args:
        data: The whole file; the arrays are views of it.
        largest: Bytes that it may have.

    Raises:
        LimitError: It has more.
        MissingTensorError: A tensor is not there.
        ExtraTensorError: There is another one.
        DigestError: It is not as it was written.
    """
    where = "statistics"
    if len(data) > largest:
        raise LimitError(
            f"{where} must have at most {largest} bytes", f"{len(data)}", "Export fewer classes."
        )
    tensors = read_tensors(data)
    document = _manifest(tensors, where)
    fields = Fields(document, where)
    version = fields.take("format")
    if version != NORMED_FORMAT:
        check_version(version, STATISTICS_FORMAT, where)
    seal = fields.sha256(_SEAL)
    held = fields.child("tensors")
    kind = fields.choice("kind", (MEAN, RIDGE))
    needed = (
        SUMS,
        *((GRAM,) if kind == RIDGE else ()),
        *((NORMED,) if version == NORMED_FORMAT else ()),
    )
    for name in needed:
        if name not in tensors:
            raise MissingTensorError(f"{where} must hold the tensor {name}", "none", _ACTION)
    for name in tensors:
        if name not in needed:
            raise ExtraTensorError(
                f"{where} must hold {' and '.join(needed)}", repr(name[:40]), _ACTION
            )
    digests = {name: held.sha256(name) for name in needed}
    rows = fields.items("classes", limits.MAX_ROWS)
    found = Statistics(
        id=fields.matching("id", _ID, "32 lower-case hexadecimal digits"),
        kind=kind,
        program=fields.matching("program", PROGRAM_NAME, "a lower-case program name"),
        interface=fields.sha256("interface"),
        backbone=fields.sha256("backbone"),
        space=fields.sha256("feature_space"),
        classes=tuple(
            SummedClass.read(Fields(each, f"{where}.classes[{i}]")) for i, each in enumerate(rows)
        ),
        sums=tensors[SUMS],
        gram=tensors.get(GRAM),
        normed=tensors.get(NORMED),
        sources=fields.digests("sources", limits.MAX_ROWS),
        device=fields.text("device"),
        created=fields.integer("created", 0, limits.MAX_INTEGER),
        release=fields.integer("release", 0, limits.MAX_AXIS),
    )
    if fields.take("noise") is not None:
        raise fields.fail("noise", "null in what this version reads", "noise")
    found = replace(found, extra=fields.unknown())
    _check_shapes(found, fields)
    body = {name: value for name, value in document.items() if name != _SEAL}
    whole = all(digest(tensors[name].tobytes()) == digests[name] for name in needed)
    if not whole or seal != digest(canonical(body)) or found.to_bytes() != data:
        raise DigestError(f"{where} must be as they were written", "other bytes", _ACTION)
    _check_sums(found)
    return found


def _manifest(tensors: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    """Take the manifest out of the tensors of a file.

    Raises:
        MissingTensorError: There is none.
    """
    held = tensors.pop(MANIFEST, None)
    if held is None or held.dtype != np.uint8 or held.ndim != 1:
        raise MissingTensorError(
            f"{where} must hold their manifest as a tensor of bytes",
            "none" if held is None else f"{held.dtype} {list(held.shape)}",
            "Name a file that `edgecl stats` or `edgecl-device enrolled export` wrote.",
        )
    return load_object(held.tobytes(), where, limits.MAX_PACK_MANIFEST)


def _check_shapes(found: Statistics, fields: Fields) -> None:
    """Check the tensors against the classes.

    Raises:
        TensorDtypeError: One is not float64.
        TensorShapeError: One has another shape.
        NonFiniteError: One has NaN or infinity.
    """
    twice = first_repeated([each.name for each in found.classes])
    if twice is not None or not found.classes:
        raise fields.fail("classes", "one class or more, each once", twice or "none")
    for name, tensor in found._tensors().items():
        if tensor.dtype != np.float64:
            raise TensorDtypeError(f"{name} must be float64", tensor.dtype.name, _ACTION)
        if not np.isfinite(tensor).all():
            raise NonFiniteError(f"{name} must be finite", "NaN or infinity", _ACTION)
    sums, gram = found.sums, found.gram
    size = sums.shape[1] if sums.ndim == 2 else 0
    rows = sums.ndim == 2 and len(sums) == len(found.classes) and size > 0
    square = gram is None or (
        gram.shape == (packed_size(size),)
        if gram.ndim == 1
        else gram.ndim == 2 and gram.shape[1] == size and 0 < len(gram) <= found.images
    )
    if not rows or not square:
        raise TensorShapeError(
            f"sums of {len(found.classes)} classes must be [k, m], and those of x x' at most "
            f"{found.images} rows of m or a triangle",
            f"{list(sums.shape)} and {None if gram is None else list(gram.shape)}",
            _ACTION,
        )
    normed = found.normed
    if normed is not None and (
        normed.ndim != 2 or len(normed) != len(found.classes) or not normed.shape[1]
    ):
        raise TensorShapeError(
            f"normed of {len(found.classes)} classes must be [k, w]",
            str(list(normed.shape)),
            _ACTION,
        )


def _check_sums(found: Statistics) -> None:
    """Check that images can have these sums: of a class of n, |sum of x|^2 <= n sum of |x|^2.

    Raises:
        StatisticsError: None can.
    """
    counts = np.array([each.images for each in found.classes], np.float64)
    if found.normed is not None:
        longest = np.sqrt(np.square(found.normed).sum(axis=1))
        if not (longest <= counts * (1 + _ROUNDING)).all():
            raise StatisticsError(
                "a sum of features of length 1 must be no longer than there are images of a class",
                f"{float((longest / counts).max()):.6g} times as long",
                _ACTION,
            )
    if found.gram is None:
        return
    size = found.sums.shape[1]
    if found.gram.ndim == 2:
        trace = float(np.square(found.gram).sum())
    else:
        ends = np.arange(1, size + 1)
        diagonal = found.gram[ends * (ends + 1) // 2 - 1]
        trace = float(diagonal.sum()) if (diagonal >= 0).all() else -1.0
    least = float((np.square(found.sums).sum(axis=1) / counts).sum())
    if not least <= trace * (1 + _ROUNDING) < np.inf:
        raise StatisticsError(
            "the sums of a class must be no longer than its images make them",
            f"squares of {least:.6g} in all, where those of the images are {trace:.6g}",
            _ACTION,
        )
