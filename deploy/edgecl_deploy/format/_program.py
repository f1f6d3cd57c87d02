"""The programs of a bundle: their graphs and the learned tensors that these take."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgecl_deploy.format._enrol import Enrol, read_enrol
from edgecl_deploy.format._variant import (
    FileRef,
    ProgramVariant,
    read_variants,
    write_variants,
)
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import IDENTIFIER, Fields

GRAPH_DTYPES = ("float32", "int64")  # of a learned input of a graph
PLAIN, INJECTED = "plain", "injected"  # the passes of a staged program
PASSES = ((PLAIN,), (INJECTED,), (PLAIN, INJECTED))
FROM_MATCH, FROM_LEARNED = "match", "learned"  # where the tensor of a slot comes from
BATCH = "b"  # the axis of images


@dataclass(frozen=True)
class LearnedSpec:
    """A learned input of a program: its axes, the sizes that are fixed, how tasks join."""

    axes: tuple[str, ...]
    sizes: Mapping[str, int]  # an axis that is not here is dynamic
    concat_axis: str | None  # tasks are appended here; None: the last task's tensor replaces
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "LearnedSpec":
        """Read it from the fields of a manifest."""
        axes = fields.axes("axes")
        sizes = fields.sizes("sizes", axes)
        concat = fields.optional("concat_axis", fields.text)
        if concat is not None and (concat not in axes or concat in sizes):
            raise fields.fail("concat_axis", "null or one of the axes without a size", concat)
        return cls(axes, sizes, concat, fields.choice("dtype", GRAPH_DTYPES), fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "axes": list(self.axes),
            "sizes": dict(self.sizes),
            "concat_axis": self.concat_axis,
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class SlotSpec:
    """An input of `encode` that carries an injection; its length is the size of `pad_axis`.

    Without a `pad_axis` it has one shape, is never padded, and zeros are its neutral value.
    """

    axes: tuple[str, ...]  # "b" first if there is one per image
    sizes: Mapping[str, int]  # of every axis but "b" and pad_axis
    pad_axis: str | None
    capacity: int  # its size in fixed mode
    masked: bool  # fixed mode has a NAME_mask; without one, padding is zeros
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "SlotSpec":
        """Read it from the fields of a manifest."""
        axes = fields.axes("axes")
        sizes = fields.sizes("sizes", axes)
        pad = fields.optional("pad_axis", fields.text)
        if pad is not None and (pad not in axes or pad == BATCH):
            raise fields.fail("pad_axis", "null or one of the axes, and not b", pad)
        if BATCH in axes[1:]:
            raise fields.fail("axes", "a list that begins with b, if it has b", " ".join(axes))
        if set(sizes) != set(axes) - {BATCH, pad}:
            raise fields.fail("sizes", "of every axis but b and pad_axis", " ".join(sizes))
        return cls(
            axes=axes,
            sizes=sizes,
            pad_axis=pad,
            capacity=fields.integer("capacity", 1, limits.MAX_AXIS),
            masked=fields.flag("masked"),
            source=fields.choice("source", (FROM_MATCH, FROM_LEARNED)),
            extra=fields.unknown(),
        )

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Return the shape of this slot.

        Args:
            batch: Number of images.
            length: Size of `pad_axis`, if it has one.
        """
        known = {**self.sizes, BATCH: batch}
        if self.pad_axis is not None:
            known[self.pad_axis] = length
        return tuple(known[axis] for axis in self.axes)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "axes": list(self.axes),
            "sizes": dict(self.sizes),
            "pad_axis": self.pad_axis,
            "capacity": self.capacity,
            "masked": self.masked,
            "source": self.source,
        }


@dataclass(frozen=True)
class Staged:
    """The staged form: `encode` is the backbone with its slots, the others are tiny."""

    match: FileRef | None  # None: the program has no matcher
    classify: FileRef
    encode_dynamic: FileRef
    encode_fixed: FileRef
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Staged":
        """Read it from the fields of a manifest."""

        def graph(key: str) -> FileRef:
            return FileRef.read(fields.child(key), limits.MAX_GRAPH)

        encode = fields.child("encode")
        return cls(
            match=fields.optional("match", graph),
            classify=graph("classify"),
            encode_dynamic=FileRef.read(encode.child("dynamic"), limits.MAX_GRAPH),
            encode_fixed=FileRef.read(encode.child("fixed"), limits.MAX_GRAPH),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "match": None if self.match is None else self.match.to_json(),
            "classify": self.classify.to_json(),
            "encode": {
                "dynamic": self.encode_dynamic.to_json(),
                "fixed": self.encode_fixed.to_json(),
            },
        }


@dataclass(frozen=True)
class Program:
    """One method's program: its graphs, and the learned tensors that they take."""

    interface: str  # the digest that a pack must name
    learned: Mapping[str, LearnedSpec]
    passes: tuple[str, ...]  # one of PASSES
    slots: Mapping[str, SlotSpec]
    matcher: str  # for people
    fused: FileRef
    staged: Staged
    tolerance: Mapping[str, float]  # "scores" and "feature": largest error against torch
    extra: Mapping[str, Any] = field(default_factory=dict)
    taps: int = 0  # the number of last blocks whose [CLS] `encode` also returns
    tokens: bool = False  # `encode` also returns all rows after the last block
    branches: str | None = None  # the axis of learned tensors with one injected pass per entry
    variants: Mapping[str, ProgramVariant] = field(default_factory=dict)  # by precision
    foreign: Mapping[str, Any] = field(default_factory=dict)  # variants that are not read here
    enrol: Enrol | None = None  # how it takes a class on the device; None: it cannot

    @classmethod
    def read(cls, fields: Fields, variants: Collection[str] = ()) -> "Program":
        """Read it from the fields of a manifest.

        Args:
            variants: Those of the bundle that are known here.
        """
        names = "identifiers such as head_weight"
        learned = {
            name: LearnedSpec.read(each)
            for name, each in fields.children(
                "learned", limits.MAX_TENSORS, IDENTIFIER, names
            ).items()
        }
        slots = {
            name: SlotSpec.read(each)
            for name, each in fields.children(
                "slots", limits.MAX_TENSORS, IDENTIFIER, names
            ).items()
        }
        passes = fields.texts("passes", 2)
        staged = Staged.read(fields.child("staged"))
        if passes not in PASSES:
            raise fields.fail(
                "passes", '["plain"], ["injected"] or ["plain","injected"]', " ".join(passes)
            )
        if staged.match is not None and PLAIN not in passes:
            raise fields.fail("passes", "with plain where there is a match", " ".join(passes))
        for name, slot in slots.items():
            if slot.source == FROM_LEARNED and name not in learned:
                raise fields.fail("slots", "names of learned tensors", name)
            if slot.source == FROM_MATCH and staged.match is None:
                raise fields.fail("slots", "from learned tensors where match is null", name)
        branches = fields.optional("branches", fields.text) if fields.has("branches") else None
        if branches is not None:
            _check_branches(fields, branches, passes, learned, slots)
        tolerance = fields.child("tolerance")
        known, foreign = read_variants(fields, variants, lambda _, each: ProgramVariant.read(each))
        return cls(
            interface=fields.sha256("interface"),
            learned=learned,
            passes=passes,
            slots=slots,
            matcher=fields.text("matcher"),
            fused=FileRef.read(fields.child("fused"), limits.MAX_GRAPH),
            staged=staged,
            tolerance={key: tolerance.number(key, 0.0, 1e6) for key in ("scores", "feature")},
            taps=fields.integer("taps", 0, limits.MAX_TENSORS) if fields.has("taps") else 0,
            tokens=fields.flag("tokens") if fields.has("tokens") else False,
            branches=branches,
            variants=known,
            foreign=foreign,
            enrol=read_enrol(fields, learned),
            extra=fields.unknown(),
        )

    def variant(self, precision: str) -> "Program":
        """Return the program with the graphs of a variant that it has; it has no variants."""
        own = self.variants[precision]
        staged = replace(
            self.staged, encode_dynamic=own.encode_dynamic, encode_fixed=own.encode_fixed
        )
        return replace(self, fused=own.fused, staged=staged, variants={}, foreign={})

    @property
    def features(self) -> tuple[str, ...]:
        """The outputs of `encode`."""
        more = {"taps": bool(self.taps), "tokens": self.tokens}
        return ("cls", "prompt", *(name for name, given in more.items() if given))

    def files(self) -> tuple[FileRef, ...]:
        """List the graphs of both forms, and those of the variants."""
        staged = self.staged
        own = (self.fused, staged.match, staged.classify, staged.encode_dynamic)
        others = (ref for each in self.variants.values() for ref in each.files())
        return tuple(ref for ref in (*own, staged.encode_fixed, *others) if ref is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "interface": self.interface,
            "learned": {name: spec.to_json() for name, spec in self.learned.items()},
            "passes": list(self.passes),
            "slots": {name: slot.to_json() for name, slot in self.slots.items()},
            "matcher": self.matcher,
            "fused": self.fused.to_json(),
            "staged": self.staged.to_json(),
            "tolerance": {name: float(value) for name, value in self.tolerance.items()},
            **({"taps": self.taps} if self.taps else {}),
            **({"tokens": True} if self.tokens else {}),
            **({"branches": self.branches} if self.branches is not None else {}),
            **({} if self.enrol is None else {"enrol": self.enrol.to_json()}),
            **write_variants(self.variants, self.foreign),
        }


def _check_branches(
    fields: Fields,
    branches: str,
    passes: tuple[str, ...],
    learned: Mapping[str, LearnedSpec],
    slots: Mapping[str, SlotSpec],
) -> None:
    if INJECTED not in passes or not slots:
        raise fields.fail("branches", "absent where nothing is injected", branches)
    for name, slot in slots.items():
        banked = slot.source == FROM_LEARNED and learned[name].axes == (branches, *slot.axes)
        if not banked:
            raise fields.fail("branches", "the first axis of the learned tensor of each slot", name)
    if len({learned[name].sizes.get(branches) for name in slots}) > 1:
        raise fields.fail("branches", "an axis of one size in all tensors", branches)
