"""Variants: the same programs in another precision, and the licence of a release to run so.

A variant whose name or scheme this reader does not know counts as absent; it is kept when the
manifest is rewritten.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import PROGRAM_NAME, Fields

T = TypeVar("T")

INT8, W8_COLUMN = "int8", "w8-column"
FLOAT16, HALF_MATMUL = "float16", "half-matmul"
SCHEMES: Mapping[str, tuple[str, ...]] = {  # of the variants with own files
    INT8: (W8_COLUMN,),
    FLOAT16: (HALF_MATMUL,),
}
MADE = {  # how a bundle gets a variant
    INT8: "`edgecl export quantize`",
    FLOAT16: "`edgecl export float16`",
}
MIN_GROUP, MAX_GROUP = 16, 4096
_SIZES = (base << shift for base in (1, 3) for shift in range(13))
_GROUPS = {0, *(size for size in _SIZES if MIN_GROUP <= size <= MAX_GROUP)}
GROUPS = f"0, or {MIN_GROUP} to {MAX_GROUP} and a power of two times 1 or 3"
REJECTED = 0.01  # of the images, that a precision may make unknown
_ENTRIES = "precisions such as int8"


def is_group(value: int) -> bool:
    """Return whether a variant may have groups of so many activations."""
    return value in _GROUPS


@dataclass(frozen=True)
class FileRef:
    """A file next to the manifest: a plain name, its SHA-256, its size in bytes."""

    file: str
    sha256: str
    size: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields, largest: int) -> "FileRef":
        """Read it from the fields of a manifest."""
        name, sha256 = fields.file_name("file"), fields.sha256("sha256")
        return cls(name, sha256, fields.integer("size", 1, largest), fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {**self.extra, "file": self.file, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class CalibrationImages:
    """The images on which weights were rounded."""

    images: int
    sha256: str  # of their prepared pixels, one after the other
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "CalibrationImages":
        """Read it from the fields of a manifest."""
        images, sha256 = fields.integer("images", 1, limits.MAX_AXIS), fields.sha256("sha256")
        return cls(images, sha256, fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {**self.extra, "images": self.images, "sha256": self.sha256}


@dataclass(frozen=True)
class Variant:
    """What the graphs of all programs share in one precision."""

    weights: FileRef  # all initialisers of these graphs, also those that stay float
    scheme: str  # one of SCHEMES
    group: int  # activations that share one scale where an engine rounds them; 0: they stay float
    calibration: CalibrationImages | None  # None: the backbone was learned on as it is here
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, fields: Fields) -> "Variant":
        """Read it from the fields of a manifest.

        Args:
            name: A precision of SCHEMES.
        """
        group = fields.integer("group", 0, MAX_GROUP)
        if not is_group(group):
            raise fields.fail("group", GROUPS, group)
        return cls(
            weights=FileRef.read(fields.child("weights"), limits.MAX_WEIGHTS),
            scheme=fields.choice("scheme", SCHEMES[name]),
            group=group,
            calibration=fields.optional(
                "calibration", lambda key: CalibrationImages.read(fields.child(key))
            ),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "weights": self.weights.to_json(),
            "scheme": self.scheme,
            "group": self.group,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }


@dataclass(frozen=True)
class ProgramVariant:
    """The graphs of one program in one precision; `match` and `classify` are those of float32."""

    fused: FileRef
    encode_dynamic: FileRef
    encode_fixed: FileRef
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "ProgramVariant":
        """Read it from the fields of a manifest."""
        encode = fields.child("encode")
        return cls(
            fused=FileRef.read(fields.child("fused"), limits.MAX_GRAPH),
            encode_dynamic=FileRef.read(encode.child("dynamic"), limits.MAX_GRAPH),
            encode_fixed=FileRef.read(encode.child("fixed"), limits.MAX_GRAPH),
            extra=fields.unknown(),
        )

    def files(self) -> tuple[FileRef, ...]:
        """List the graphs."""
        return (self.fused, self.encode_dynamic, self.encode_fixed)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        encode = {"dynamic": self.encode_dynamic.to_json(), "fixed": self.encode_fixed.to_json()}
        return {**self.extra, "fused": self.fused.to_json(), "encode": encode}


@dataclass(frozen=True)
class Licence:
    """That a release may run in a precision: what was measured when it was exported.

    Attributes:
        atol: Largest absolute error of a canary's score against float32.
        agreement: Share of the images with the class of float32.
        images: How many were measured.
        lost: Images that are right in float32 and wrong in this precision.
        engine: What ran it, for people.
        rejected: How many more images lack their own class in their set than in float32; None where
            that was not measured.
    """

    atol: float
    agreement: float
    images: int
    lost: int
    engine: str
    rejected: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Licence":
        """Read it from the fields of a manifest."""
        images = fields.integer("images", 1, limits.MAX_AXIS)
        return cls(
            atol=fields.number("atol", 0.0, 1e6),
            agreement=fields.number("agreement", 0.0, 1.0),
            images=images,
            lost=fields.integer("lost", 0, images),
            engine=fields.text("engine"),
            rejected=fields.integer("rejected", 0, images) if fields.has("rejected") else None,
            extra=fields.unknown(),
        )

    @property
    def tells_unknown(self) -> bool:
        """Whether p-values, which are of scores in float32, hold in this precision too."""
        return self.rejected is not None and self.rejected <= REJECTED * self.images

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        own = {} if self.rejected is None else {"rejected": self.rejected}
        return {
            **self.extra,
            **own,
            "atol": float(self.atol),
            "agreement": float(self.agreement),
            "images": self.images,
            "lost": self.lost,
            "engine": self.engine,
        }


def read_variants(
    fields: Fields, known: Collection[str], read: Callable[[str, Fields], T]
) -> tuple[dict[str, T], dict[str, Any]]:
    """Take the field `variants`, which may be absent.

    Args:
        known: The precisions that this reader takes here.
        read: How to read the entry of one of them.

    Returns:
        The entries of known precisions, and the others as they are.
    """
    if not fields.has("variants"):
        return {}, {}
    each = fields.children("variants", limits.MAX_VARIANTS, PROGRAM_NAME, _ENTRIES)
    foreign = {name: entry.unknown() for name, entry in each.items() if name not in known}
    return {name: read(name, each[name]) for name in each if name in known}, foreign


def known_variants(fields: Fields) -> tuple[dict[str, Variant], dict[str, Any]]:
    """Take the field `variants` of a bundle; one with a foreign scheme is foreign."""
    schemes = fields.peek("variants")
    known = [
        name
        for name, own in SCHEMES.items()
        if isinstance(schemes, dict)
        and isinstance(schemes.get(name), dict)
        and schemes[name].get("scheme") in own
    ]
    return read_variants(fields, known, Variant.read)


def write_variants(known: Mapping[str, Any], foreign: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field `variants` as it is written: nothing where there is none."""
    found = {**foreign, **{name: each.to_json() for name, each in known.items()}}
    return {"variants": found} if found else {}
