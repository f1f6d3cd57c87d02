"""The manifests of a pack and of a release (docs/format.md, "Pack", "Release")."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from edgecl_deploy.errors import DuplicateClassError, LimitError, TensorShapeError, shown
from edgecl_deploy.format._bits import Grid, check_bits
from edgecl_deploy.format._enrol import SOLVED, Factor
from edgecl_deploy.format._forgotten import Hidden
from edgecl_deploy.format._generated import Generator, check_size
from edgecl_deploy.format._tensors import DTYPES
from edgecl_deploy.format._unknown import OwnScores, Rejection, read_own_scores
from edgecl_deploy.format._variant import (
    Licence,
    read_variants,
    write_variants,
)
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import canonical, check_bytes, check_version, load_object
from edgecl_deploy.manifest.fields import IDENTIFIER, PROGRAM_NAME, Fields, first_repeated
from edgecl_deploy.manifest.precisions import PRECISIONS

PACK_FORMAT = "edgecl-pack/1"
PACKS_FORMAT = "edgecl-packs/1"
RELEASE_FORMAT = "edgecl-release/1"
ROWS = "c"  # the axis of the classifier's rows
_PROGRAM = "a lower-case program name such as l2p"


@dataclass(frozen=True)
class PackTensor:
    """A tensor of a pack: in a blob with its name as key, as it is or in bits, or generated."""

    dtype: str  # as stored, such as float16
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    concat_axis: str | None
    blob: str | None  # SHA-256; None: it is generated
    extra: Mapping[str, Any] = field(default_factory=dict)
    generator: Generator | None = None
    bits: Grid | None = None  # how they are read

    @classmethod
    def read(cls, fields: Fields) -> "PackTensor":
        """Read it from the fields of a manifest."""
        axes = fields.axes("axes")
        shape = fields.items("shape", limits.MAX_RANK)
        for size in shape:
            if type(size) is not int or not 0 <= size <= limits.MAX_AXIS:
                raise fields.fail("shape", "a list of sizes", size)
        if len(shape) != len(axes):
            raise fields.fail("shape", f"one size for each axis ({' '.join(axes)})", shape)
        concat = fields.optional("concat_axis", fields.text)
        if concat is not None and concat not in axes:
            raise fields.fail("concat_axis", "null or one of the axes", concat)
        dtype = fields.choice("dtype", tuple(DTYPES))
        generated, in_bits = fields.has("generator"), fields.has("bits")
        blob, bits = Grid.read(fields.child("bits")) if in_bits else (None, None)
        if not generated and not in_bits:
            blob = fields.sha256("blob")
        tensor = cls(
            dtype=dtype,
            shape=tuple(shape),
            axes=axes,
            concat_axis=concat,
            blob=blob,
            generator=Generator.read(fields.child("generator")) if generated else None,
            bits=bits,
            extra=fields.unknown(),
        )
        if generated:
            tensor._check_generated(fields)
        if in_bits:
            tensor._check_in_bits(fields)
        return tensor

    def _check_generated(self, fields: Fields) -> None:
        if self.dtype != "float32" or self.concat_axis is not None or "blob" in self.extra:
            raise fields.fail(
                "generator", "of a float32 tensor without concat_axis and blob", self.dtype
            )
        check_size(self.shape)

    def _check_in_bits(self, fields: Fields) -> None:
        assert self.bits is not None  # noqa: S101  the caller looked
        alone = self.generator is None and "blob" not in self.extra
        if self.dtype != "float32" or self.concat_axis is not None or not alone:
            raise fields.fail(
                "bits", "of a float32 tensor without concat_axis, generator and blob", self.dtype
            )
        if len(self.bits.blobs) > 1 and ROWS not in self.axes:
            raise fields.fail("bits", f"with one start, without the axis {ROWS}", self.bits.blobs)
        check_bits(self.shape)

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return the blobs that hold something of it: the tensor or its bits, and its starts."""
        starts = () if self.bits is None else self.bits.blobs
        return () if self.blob is None else (self.blob, *starts)

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in its blob, or once a generator has made it."""
        if self.bits is not None:
            return self.bits.nbytes
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        source: dict[str, Any] = {"blob": self.blob}
        if self.generator is not None:
            source = {"generator": self.generator.to_json()}
        if self.bits is not None:
            source = {"bits": self.bits.to_json(self.blob)}
        return {
            **self.extra,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "axes": list(self.axes),
            "concat_axis": self.concat_axis,
            **source,
        }


@dataclass(frozen=True)
class Pack:
    """`packs/<id>.json`: the part of one task. Its id is the SHA-256 of the manifest's bytes."""

    task: int  # counted from 0
    name: str
    program: str
    interface: str
    backbone: str  # digest
    classes: tuple[str, ...]  # of the classifier's rows, in order
    known: tuple[str, ...]  # those of them that older packs hold already
    tensors: Mapping[str, PackTensor]
    blobs: Mapping[str, int]  # sha256 -> bytes
    extra: Mapping[str, Any] = field(default_factory=dict)
    moved: tuple[str, ...] = ()  # those of `known` whose rows in older packs no longer count
    merged: tuple[str, ...] = ()  # those of `classes` that own several rows of this pack
    unknown: OwnScores | None = None  # that tell an image of none of its classes

    def to_bytes(self) -> bytes:
        """Write the manifest in canonical form."""
        return canonical({
            **self.extra,
            "format": PACK_FORMAT,
            "task": self.task,
            "name": self.name,
            "program": self.program,
            "interface": self.interface,
            "backbone": self.backbone,
            "classes": list(self.classes),
            "known": list(self.known),
            **({"moved": list(self.moved)} if self.moved else {}),
            **({"merged": list(self.merged)} if self.merged else {}),
            "tensors": {name: tensor.to_json() for name, tensor in self.tensors.items()},
            "blobs": dict(self.blobs),
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
        })


def parse_pack(data: bytes) -> Pack:
    """Read the manifest of a pack.

    Returns:
        The pack; its unknown fields are kept in `extra`.
    """
    where = "pack manifest"
    fields = Fields(load_object(data, where, limits.MAX_PACK_MANIFEST), where)
    check_version(fields.take("format"), PACK_FORMAT, where)
    tensors = fields.children(
        "tensors", limits.MAX_TENSORS, IDENTIFIER, "identifiers such as head_weight"
    )
    pack = Pack(
        task=fields.integer("task", 0, limits.MAX_PACKS),
        name=fields.name("name"),
        program=fields.matching("program", PROGRAM_NAME, _PROGRAM),
        interface=fields.sha256("interface"),
        backbone=fields.sha256("backbone"),
        classes=fields.names("classes", limits.MAX_ROWS),
        known=fields.names("known", limits.MAX_ROWS),
        moved=fields.names("moved", limits.MAX_ROWS) if fields.has("moved") else (),
        merged=fields.names("merged", limits.MAX_ROWS) if fields.has("merged") else (),
        tensors={name: PackTensor.read(each) for name, each in tensors.items()},
        blobs=fields.blob_sizes("blobs", limits.MAX_TENSORS),
        unknown=read_own_scores(fields),
        extra=fields.unknown(),
    )
    names = len(pack.classes) + len(pack.known) + len(pack.moved) + len(pack.merged)
    check_bytes(data, where, limits.pack_manifest(names))
    _check_classes(pack)
    _check_sizes(pack, fields)
    return pack


def _check_classes(pack: Pack) -> None:
    rows = Counter(pack.classes)
    merged = set(pack.merged)
    once = tuple(name for name in pack.classes if name not in merged or rows[name] < 2)
    for names, what in (
        (once, "classes"),
        (pack.known, "known"),
        (pack.moved, "moved"),
        (pack.merged, "merged"),
    ):
        twice = first_repeated(names)
        if twice is not None:
            raise DuplicateClassError(
                f"pack manifest.{what} must name each class once",
                f"{shown(twice)} twice",
                "Merge the two folders of the class, or rename one, and export the task again.",
            )
    for some, part, others, whole in (
        (pack.known, "known", pack.classes, "its classes"),
        (pack.moved, "moved", pack.known, "those under known"),
        (pack.merged, "merged", [name for name in rows if rows[name] > 1], "those of several rows"),
    ):
        stray = set(some) - set(others)
        if stray:
            raise DuplicateClassError(
                f"pack manifest.{part} must be some of {whole}",
                shown(min(stray)),
                "Export the task again.",
            )


def _check_sizes(pack: Pack, fields: Fields) -> None:
    if pack.unknown is not None and pack.unknown.blob not in pack.blobs:
        raise fields.fail("unknown", "in a blob that the pack lists", pack.unknown.blob)
    needed = dict.fromkeys(pack.blobs, 0)
    for name, tensor in pack.tensors.items():
        if tensor.blob is None:
            continue
        missing = [blob for blob in tensor.blobs if blob not in needed]
        if missing:
            raise fields.fail("tensors", "in blobs that the pack lists", missing[0])
        needed[tensor.blob] += tensor.nbytes
        if needed[tensor.blob] > pack.blobs[tensor.blob]:
            raise TensorShapeError(
                f"the tensors of a blob must fit its {pack.blobs[tensor.blob]} bytes",
                f"{name} with shape {list(tensor.shape)}, {tensor.nbytes} bytes",
                "Do not use this pack: its manifest and its blob were not made together.",
            )


@dataclass(frozen=True)
class Canaries:
    """A few images with their expected scores: the self-test of a release."""

    images: tuple[str, ...]  # blobs, each with "images" uint8 [n, h, w, 3]
    scores: str  # a blob with "scores" float32 [n, c], n over all images
    atol: float  # largest absolute error of a score
    extra: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Licence] = field(default_factory=dict)  # by precision
    foreign: Mapping[str, Any] = field(default_factory=dict)  # of precisions not read here

    @classmethod
    def read(cls, fields: Fields) -> "Canaries":
        """Read them from the fields of a manifest."""
        images, scores = fields.digests("images", limits.MAX_TENSORS), fields.sha256("scores")
        licences, foreign = read_variants(
            fields, PRECISIONS[1:], lambda _, each: Licence.read(each)
        )
        return cls(
            images=images,
            scores=scores,
            atol=fields.number("atol", 0.0, 1e6),
            variants=licences,
            foreign=foreign,
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        own = {"images": list(self.images), "scores": self.scores, "atol": float(self.atol)}
        return {**self.extra, **own, **write_variants(self.variants, self.foreign)}


@dataclass(frozen=True)
class Calibration:
    """The score below which a label is not to be believed."""

    unknown_below: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Calibration":
        """Read it from the fields of a manifest."""
        return cls(fields.number("unknown_below", -1e30, 1e30), fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {**self.extra, "unknown_below": float(self.unknown_below)}


@dataclass(frozen=True)
class Release:
    """`release.json`: a numbered list of packs that together are the model's state."""

    number: int  # from 1
    parent: int | None
    bundle: str  # digest of the bundle that it was made with
    backbone: str  # digest
    program: str
    interface: str
    packs: tuple[str, ...]  # ids, in the order in which tasks are appended
    canaries: Canaries | None = None
    calibration: Calibration | None = None
    blobs: Mapping[str, int] = field(default_factory=dict)  # of the canaries, sha256 -> bytes
    extra: Mapping[str, Any] = field(default_factory=dict)
    enrolment: Factor | None = None  # with which a device solves a ridge head again
    unknown: Rejection | None = None  # how images of no class are told
    forgotten: Hidden | None = None  # names that older releases may have had

    def licence(self, precision: str) -> Licence | None:
        """Return the licence to run in a precision, None if there is none or none is needed."""
        return None if self.canaries is None else self.canaries.variants.get(precision)

    def to_bytes(self) -> bytes:
        """Write `release.json` in canonical form."""
        return canonical({
            **self.extra,
            "format": RELEASE_FORMAT,
            "number": self.number,
            "parent": self.parent,
            "bundle": self.bundle,
            "backbone": self.backbone,
            "program": self.program,
            "interface": self.interface,
            "packs": list(self.packs),
            "canaries": None if self.canaries is None else self.canaries.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "blobs": dict(self.blobs),
            **({} if self.enrolment is None else {"enrolment": self.enrolment.to_json()}),
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
            **({} if self.forgotten is None else {"forgotten": self.forgotten.to_json()}),
        })


def parse_release(data: bytes) -> Release:
    """Read `release.json`.

    Returns:
        The release; its unknown fields are kept in `extra`.
    """
    where = "release.json"
    fields = Fields(load_object(data, where, limits.MAX_MANIFEST), where)
    check_version(fields.take("format"), RELEASE_FORMAT, where)
    number = fields.integer("number", 1, limits.MAX_AXIS)
    release = Release(
        number=number,
        parent=fields.optional("parent", lambda key: fields.integer(key, 1, number - 1)),
        bundle=fields.sha256("bundle"),
        backbone=fields.sha256("backbone"),
        program=fields.matching("program", PROGRAM_NAME, _PROGRAM),
        interface=fields.sha256("interface"),
        packs=fields.digests("packs", limits.MAX_PACKS),
        canaries=fields.optional("canaries", lambda key: Canaries.read(fields.child(key))),
        calibration=fields.optional("calibration", lambda key: Calibration.read(fields.child(key))),
        blobs=fields.blob_sizes("blobs", limits.MAX_TENSORS),
        enrolment=_factor(fields),
        unknown=Rejection.read(fields.child("unknown")) if fields.has("unknown") else None,
        forgotten=Hidden.read(fields.child("forgotten")) if fields.has("forgotten") else None,
        extra=fields.unknown(),
    )
    if not release.packs:
        raise fields.fail("packs", "a list of at least one pack", [])
    canaries = release.canaries
    used = set() if canaries is None else {*canaries.images, canaries.scores}
    if not used <= set(release.blobs):
        missing = min(used - set(release.blobs))
        raise fields.fail("canaries", "in blobs that the release lists", missing)
    return release


def _factor(fields: Fields) -> Factor | None:
    """Take the field `enrolment`, which may be absent; one of another kind is an unknown field."""
    found = fields.peek("enrolment")
    if isinstance(found, dict) and found.get("kind") not in SOLVED:
        return None
    if not fields.has("enrolment"):
        return None
    return fields.optional("enrolment", lambda key: Factor.read(fields.child(key)))


@dataclass(frozen=True)
class PackIndex:
    """`index.json` of a packs directory: the ids of its packs in the order of the tasks."""

    packs: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Write `index.json` in canonical form."""
        return canonical({**self.extra, "format": PACKS_FORMAT, "packs": list(self.packs)})


def parse_index(data: bytes) -> PackIndex:
    """Read the `index.json` of a packs directory."""
    where = "index.json"
    fields = Fields(load_object(data, where, limits.MAX_MANIFEST), where)
    check_version(fields.take("format"), PACKS_FORMAT, where)
    return PackIndex(fields.digests("packs", limits.MAX_PACKS), fields.unknown())


def check_transfer(*, manifests: int = 0, blobs: int = 0) -> None:
    """Check how many bytes a release has, before they are fetched or read.

    Args:
        manifests: Bytes of the manifests so far.
        blobs: Bytes of all blobs.

    Raises:
        LimitError: Too many.
    """
    for what, found, most in (
        ("manifests", manifests, limits.MAX_MANIFESTS),
        ("blobs", blobs, limits.MAX_LEARNED),
    ):
        if found > most:
            raise LimitError(
                f"the {what} of a release must have at most {most} bytes",
                str(found),
                "Release fewer tasks, or export them with lower ranks.",
            )


def check_total(nbytes: int) -> None:
    """Check how much memory the learned tensors of a release would take.

    Args:
        nbytes: Bytes of all of them, as the graph takes them.

    Raises:
        LimitError: Too much.
    """
    if nbytes > limits.MAX_LEARNED:
        raise LimitError(
            f"the learned tensors of a release must take at most {limits.MAX_LEARNED} bytes",
            str(nbytes),
            "Release fewer tasks, or export them with lower ranks.",
        )
