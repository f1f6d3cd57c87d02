"""The manifest of a bundle, which is exported once per backbone (docs/format.md, "Bundle")."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgecl_deploy.errors import ManifestError, WrongProgramError, shown
from edgecl_deploy.format._program import Program
from edgecl_deploy.format._variant import (
    FileRef,
    Variant,
    known_variants,
    write_variants,
)
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import REEXPORT, canonical, check_version, load_object
from edgecl_deploy.manifest.fields import PROGRAM_NAME, Fields
from edgecl_deploy.manifest.precisions import PRECISIONS, files_of

BUNDLE_FORMAT = "edgecl-bundle/2"
REDUCED_FORMAT = "edgecl-bundle/3"  # with a `decode` that is not full, which 2 would ignore
INTERPOLATIONS = ("bicubic", "bilinear")
FITS = ("crop", "pad", "squash")
FULL, DRAFT2 = "full", "draft2"
DECODES = (FULL, DRAFT2)
MAX_LEVEL = 1e39  # of a window; a float32 is smaller


@dataclass(frozen=True)
class Backbone:
    """The frozen encoder; the digest covers its weights and its preprocessing."""

    name: str
    digest: str
    width: int  # d
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Backbone":
        """Read it from the fields of a manifest."""
        name, sha256 = fields.text("name"), fields.sha256("digest")
        return cls(name, sha256, fields.integer("width", 1, limits.MAX_AXIS), fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {**self.extra, "name": self.name, "digest": self.digest, "width": self.width}


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to the uint8 array that a program takes.

    With the fit `crop` the shorter side becomes `resize` pixels, then the centre `size` x `size` is
    cut out; the other fits make the whole image `size` x `size`. With the
    decode `draft2` a JPEG file is decoded at the smallest scale whose shorter side has twice
    `resize` pixels. Mean and standard deviation (of values in 0..1) are applied in the graph.
    """

    size: int  # pixels
    resize: int  # pixels
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    background: tuple[int, int, int]  # 0..255, under transparent pixels and in the bars of `pad`
    fit: str = "crop"
    window: tuple[float, float] | None = None  # levels that become 0 and 255, above 8 bits
    decode: str = FULL
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Preprocessing":
        """Read it from the fields of a manifest."""
        resize = fields.integer("resize", 1, limits.MAX_SIDE)
        background = fields.numbers("background", 0, 255)
        red, green, blue = (int(value) for value in background)
        if (red, green, blue) != background:
            raise fields.fail("background", "three whole numbers", list(background))
        return cls(
            size=fields.integer("size", 1, resize),
            resize=resize,
            interpolation=fields.choice("interpolation", INTERPOLATIONS),
            mean=fields.numbers("mean", -1e6, 1e6),
            std=fields.numbers("std", 1e-6, 1e6),
            background=(red, green, blue),
            fit=fields.choice("fit", FITS),
            window=fields.optional("window", lambda key: _window(fields, key)),
            decode=fields.choice("decode", DECODES) if fields.has("decode") else FULL,
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "background": list(self.background),
            "fit": self.fit,
            "window": None if self.window is None else [float(level) for level in self.window],
            **({} if self.decode == FULL else {"decode": self.decode}),
        }


def _window(fields: Fields, key: str) -> tuple[float, float]:
    values = fields.items(key, 2)
    each = [
        Fields({key: value}, fields.where).number(key, -MAX_LEVEL, MAX_LEVEL) for value in values
    ]
    if len(each) != 2 or not each[0] < each[1]:
        raise fields.fail(key, "two numbers, the lower one first", values)
    return (each[0], each[1])


@dataclass(frozen=True)
class Build:
    """What a program runs from in one precision."""

    program: Program  # with the graphs of that precision, and no variants
    weights: FileRef  # of its graphs
    group: int = 0  # activations that share one scale where an engine rounds them


@dataclass(frozen=True)
class Bundle:
    """`bundle.json`: one backbone, one weights file, one or more programs.

    Attributes:
        variants: What the programs share in another precision, by its name.
        foreign: Variants of a precision or a scheme that is not read here.
    """

    backbone: Backbone
    preprocessing: Preprocessing
    weights: FileRef
    programs: Mapping[str, Program]
    created_by: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    foreign: Mapping[str, Any] = field(default_factory=dict)

    def precisions(self, name: str) -> tuple[str, ...]:
        """Return the precisions that a program of the bundle has."""
        files = {PRECISIONS[0], *self.programs[name].variants}
        return tuple(each for each in PRECISIONS if files_of(each) in files)

    def build(self, name: str, precision: str) -> Build:
        """Return what a program runs from.

        Args:
            name: Of a program of the bundle.
            precision: One of `precisions(name)`.
        """
        program, files = self.programs[name], files_of(precision)
        if files == PRECISIONS[0]:
            return Build(replace(program, variants={}, foreign={}), self.weights)
        variant = self.variants[files]
        return Build(program.variant(files), variant.weights, variant.group)

    def program(self, name: str) -> Program:
        """Return a program by name.

        Raises:
            WrongProgramError: The bundle has no such program.
        """
        if name not in self.programs:
            raise WrongProgramError(
                f"the program must be one of the bundle's ({', '.join(sorted(self.programs))})",
                shown(name),
                "Install the bundle that holds this program, or add it to the bundle with "
                "`edgecl export bundle`.",
            )
        return self.programs[name]

    def files(self) -> tuple[FileRef, ...]:
        """List every file of the bundle but bundle.json, each once."""
        return tuple({ref.file: ref for ref in self._references()}.values())

    def _references(self) -> Iterator[FileRef]:
        yield self.weights
        for variant in self.variants.values():
            yield variant.weights
        for program in self.programs.values():
            yield from program.files()

    @property
    def format(self) -> str:
        """The format that a device must read."""
        return BUNDLE_FORMAT if self.preprocessing.decode == FULL else REDUCED_FORMAT

    def to_bytes(self) -> bytes:
        """Write `bundle.json` in canonical form."""
        return canonical({
            **self.extra,
            "format": self.format,
            "backbone": self.backbone.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "weights": self.weights.to_json(),
            "programs": {name: each.to_json() for name, each in self.programs.items()},
            "created_by": self.created_by,
            **write_variants(self.variants, self.foreign),
        })


def parse_bundle(data: bytes) -> Bundle:
    """Read `bundle.json`.

    Returns:
        The bundle; its unknown fields are kept in `extra`.

    Raises:
        ManifestError: A field is malformed, the format is not that of the preprocessing, or two
            entries give one file different digests.
    """
    where = "bundle.json"
    fields = Fields(load_object(data, where, limits.MAX_MANIFEST), where)
    found = fields.take("format")
    check_version(found, REDUCED_FORMAT if found == REDUCED_FORMAT else BUNDLE_FORMAT, where)
    programs = fields.children(
        "programs", limits.MAX_PROGRAMS, PROGRAM_NAME, "lower-case names such as l2p"
    )
    variants, foreign = known_variants(fields)
    bundle = Bundle(
        backbone=Backbone.read(fields.child("backbone")),
        preprocessing=Preprocessing.read(fields.child("preprocessing")),
        weights=FileRef.read(fields.child("weights"), limits.MAX_WEIGHTS),
        programs={name: Program.read(each, variants) for name, each in programs.items()},
        created_by=fields.text("created_by"),
        variants=variants,
        foreign=foreign,
        extra=fields.unknown(),
    )
    if found != bundle.format:
        decode = bundle.preprocessing.decode
        raise ManifestError(
            f"{where} with decode {decode} must be {bundle.format}", found, REEXPORT
        )
    seen = {"bundle.json": ""}
    for ref in bundle._references():
        if seen.setdefault(ref.file, ref.sha256) != ref.sha256:
            raise ManifestError(
                f"{where} must give each file one digest", shown(ref.file), REEXPORT
            )
    return bundle
