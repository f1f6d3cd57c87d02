"""The documents of a local folder: what was enrolled, and which enrolments count.

An enrolment never changes and is found by its digest. A generation lists those that count, in
order, and carries its own checksum.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl_deploy.errors import TensorShapeError
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import canonical, check_version, load_object
from edgecl_deploy.manifest.fields import PROGRAM_NAME, Fields, first_repeated
from edgecl_deploy.store.sealed import seal, unseal

ENROLMENT_FORMAT = "edgecl-enrolment/1"
LOCAL_FORMAT = "edgecl-local/1"
IMAGES, NAME = "images", "name"  # the kinds of an enrolment
TENSORS = {IMAGES: "feature", NAME: "text"}  # that each has
MAX_CLASSES = 200  # local classes of a device
MAX_CALL = 200  # images of one enrolment
MAX_IMAGES = 1000  # images of all that count
MAX_FOLDER = 256 * 1024 * 1024  # bytes of a local folder
MAX_NOTE = 1000  # characters
LARGEST = 64 * 1024  # bytes of the manifest of an enrolment
_MAX_ENTRIES = MAX_IMAGES  # enrolments of a generation: each has an image
_NAME = re.compile(r"generations/(\d{6,10})\.json")


@dataclass(frozen=True)
class Held:
    """A tensor of an enrolment, in a blob of its own with its name as key."""

    blob: str  # SHA-256
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def read(cls, fields: Fields, dtype: str, rank: int) -> "Held":
        """Read it from the fields of a manifest."""
        shape = fields.items("shape", rank)
        sizes = [type(each) is int and 1 <= each <= limits.MAX_AXIS for each in shape]
        if sizes != [True] * rank:
            raise fields.fail("shape", f"{rank} sizes", shape)
        return cls(fields.sha256("blob"), fields.choice("dtype", (dtype,)), tuple(shape))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {"blob": self.blob, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Record:
    """The manifest of one enrolment: pictures of one class, as the backbone saw them; or its name.

    Attributes:
        feature: float32 [n, f] of n images; of a name its embedding, [1, f].
    """

    name: str
    known: bool  # the release had the class already
    skipped: int  # images that could not be read
    program: str
    interface: str
    backbone: str  # digest
    space: str  # digest of all that the features depend on
    release: int  # that answered then
    digest: str  # of its release.json
    created: int  # seconds since 1970
    by: str  # who did it, for people
    feature: Held
    blobs: Mapping[str, int]  # sha256 -> bytes
    note: str = ""
    pixels: Held | None = None  # uint8 [n, s, s, 3], if the images are kept
    kind: str = IMAGES
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images it is of."""
        return 0 if self.kind == NAME else self.feature.shape[0]

    @property
    def tensor(self) -> str:
        """The key of `feature` in its blob."""
        return TENSORS[self.kind]

    def to_bytes(self) -> bytes:
        """Write the manifest in canonical form."""
        kept = {} if self.pixels is None else {"images": self.pixels.to_json()}
        return canonical({
            **self.extra,
            "format": ENROLMENT_FORMAT,
            "kind": self.kind,
            "name": self.name,
            "known": self.known,
            "images": self.images,
            "skipped": self.skipped,
            "program": self.program,
            "interface": self.interface,
            "backbone": self.backbone,
            "feature_space": self.space,
            "base": {"release": self.release, "digest": self.digest},
            "created": self.created,
            "by": self.by,
            "note": self.note or None,
            "tensors": {self.tensor: self.feature.to_json(), **kept},
            "blobs": dict(self.blobs),
        })


def parse_record(data: bytes) -> Record:
    """Read the manifest of an enrolment.

    Raises:
        TensorShapeError: Its tensors are not of as many images as it is.
    """
    where = "enrolment"
    fields = Fields(load_object(data, where, LARGEST), where)
    check_version(fields.take("format"), ENROLMENT_FORMAT, where)
    kind = fields.choice("kind", tuple(TENSORS))
    most = MAX_CALL if kind == IMAGES else 0
    base, tensors = fields.child("base"), fields.child("tensors")
    images = fields.integer("images", min(1, most), most)
    note = fields.optional("note", lambda key: fields.text(key, MAX_NOTE))
    pixels = Held.read(tensors.child("images"), "uint8", 4) if tensors.has("images") else None
    record = Record(
        name=fields.name("name"),
        known=fields.flag("known"),
        skipped=fields.integer("skipped", 0, limits.MAX_AXIS),
        program=fields.matching("program", PROGRAM_NAME, "a lower-case program name"),
        interface=fields.sha256("interface"),
        backbone=fields.sha256("backbone"),
        space=fields.sha256("feature_space"),
        release=base.integer("release", 1, limits.MAX_AXIS),
        digest=base.sha256("digest"),
        created=fields.integer("created", 0, limits.MAX_INTEGER),
        by=fields.text("by"),
        feature=Held.read(tensors.child(TENSORS[kind]), "float32", 2),
        blobs=fields.blob_sizes("blobs", 2),
        note=note or "",
        pixels=pixels,
        kind=kind,
        extra=fields.unknown(),
    )
    held = [each for each in (record.feature, pixels) if each is not None]
    if {each.blob for each in held} != set(record.blobs):
        raise fields.fail("blobs", "those of its tensors", sorted(record.blobs))
    if any(each.shape[0] != (images or 1) for each in held):
        raise TensorShapeError(
            f"the tensors of an enrolment of {images} images must have as many rows, 1 of a name",
            str([list(each.shape) for each in held]),
            "Remove the class and enrol it again.",
        )
    return record


@dataclass(frozen=True)
class Entry:
    """An enrolment that counts, and what was decided about it since."""

    manifest: str  # SHA-256
    size: int  # bytes of it
    name: str  # under which it answers
    both: bool = False  # it answers although the release has this name too
    forced: bool = False  # it may win images of the release's self-test

    @classmethod
    def read(cls, fields: Fields) -> "Entry":
        """Read it from the fields of a document."""
        manifest, size = fields.sha256("manifest"), fields.integer("size", 1, LARGEST)
        both, forced = fields.flag("both"), fields.flag("forced")
        return cls(manifest, size, fields.name("name"), both, forced)


@dataclass(frozen=True)
class LocalGeneration:
    """`generations/000003.json`: the enrolments that count. It never changes."""

    number: int  # from 1
    created: int  # seconds since 1970
    entries: tuple[Entry, ...] = ()
    hidden: tuple[str, ...] = ()  # classes of the release that are not answered

    def to_bytes(self) -> bytes:
        """Write the document."""
        document = {
            "number": self.number,
            "created": self.created,
            "enrolments": [dict(vars(entry)) for entry in self.entries],
            "hidden": list(self.hidden),
        }
        return seal(LOCAL_FORMAT, document)


def parse_local(data: bytes) -> LocalGeneration:
    """Read a local generation."""
    fields = unseal(data, "local generation", LOCAL_FORMAT)
    number = fields.integer("number", 1, limits.MAX_AXIS)
    created = fields.integer("created", 0, limits.MAX_INTEGER)
    each = fields.items("enrolments", _MAX_ENTRIES)
    entries = [Entry.read(Fields(value, f"enrolments[{i}]")) for i, value in enumerate(each)]
    twice = first_repeated([entry.manifest for entry in entries])
    if twice is not None:
        raise fields.fail("enrolments", "enrolments without repetition", twice)
    return LocalGeneration(number, created, tuple(entries), fields.names("hidden", limits.MAX_ROWS))


def local_name(number: int) -> str:
    """Return the file of a local generation, relative to the folder."""
    return f"generations/{number:06d}.json"


def local_number(name: str) -> int | None:
    """Return the local generation of such a file name; None if it is no such name."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])
