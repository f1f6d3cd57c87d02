"""How a program takes a class on the device, without training (docs/format.md, "Enrolment")."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl_deploy.format._unknown import read_columns
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import Fields

MEAN, RIDGE, TEXT, DISCRIMINANT = "mean", "ridge", "text", "discriminant"
KINDS = (MEAN, RIDGE, TEXT, DISCRIMINANT)
SOLVED = (RIDGE, DISCRIMINANT)  # those whose head is solved again, with a factor of the release
RELU_MATMUL, SCALED, FOURIER = "relu_matmul", "scaled", "fourier"
SHRINKAGES = ("oas", "trace")
_OPS = (RELU_MATMUL, SCALED, FOURIER)
_FACTORS = (1e-6, 1e6)


@dataclass(frozen=True)
class Expand:
    """What the classifier sees of a feature f.

    `relu_matmul` is relu(f W), `scaled` f times a factor, `fourier` the cosine and the sine of
    factor f W, side by side; W is a learned tensor [f, m], of `fourier` [f, m / 2].
    """

    op: str
    tensor: str | None  # W; None where the feature is scaled
    factor: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Expand":
        """Read it from the fields of a manifest."""
        op = fields.choice("op", _OPS)
        tensor = None if op == SCALED else fields.text("tensor")
        factor = 1.0 if op == RELU_MATMUL else fields.number("factor", *_FACTORS)
        return cls(op, tensor, factor, fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        tensor = {} if self.tensor is None else {"tensor": self.tensor}
        factor = {} if self.op == RELU_MATMUL else {"factor": float(self.factor)}
        return {**self.extra, "op": self.op, **tensor, **factor}


@dataclass(frozen=True)
class Enrol:
    """What a device must know to give a program another class.

    Attributes:
        kind: `mean` (a row is the mean feature of the images), `ridge` and `discriminant` (the
            head is solved again) or `text` (a row is the embedding of the name).
        tensor: The learned tensor whose first axis are the classes.
        columns: The part of `feature` that cosines between images are taken of: begin and end.
        scale: The learned tensor that holds a factor per row, or None.
        expand: What the rows are compared with, if it is not `feature` itself.
        depends: The learned tensors that `feature` depends on.
        bias: Of a discriminant, the learned tensor that holds a number per row.
        shrinkage: Of its covariance, one of `SHRINKAGES`.
    """

    kind: str
    tensor: str
    columns: tuple[int, int]
    scale: str | None = None
    expand: Expand | None = None
    depends: tuple[str, ...] = ()
    bias: str | None = None
    shrinkage: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields, learned: Collection[str]) -> "Enrol":
        """Read it from the fields of a manifest.

        Args:
            fields: With a kind of `KINDS`.
            learned: The learned tensors of the program.
        """
        columns, kind = read_columns(fields), fields.choice("kind", KINDS)
        bias = shrinkage = None
        if kind == DISCRIMINANT:
            bias = fields.text("bias")
            shrinkage = fields.choice("shrinkage", SHRINKAGES)
        found = cls(
            kind=kind,
            tensor=fields.text("tensor"),
            columns=columns,
            scale=fields.optional("scale", fields.text),
            expand=fields.optional("expand", lambda key: Expand.read(fields.child(key))),
            depends=fields.texts("depends", limits.MAX_TENSORS),
            bias=bias,
            shrinkage=shrinkage,
            extra=fields.unknown(),
        )
        if kind == DISCRIMINANT and (found.scale is None or found.expand is None):
            raise fields.fail("kind", "with a scale and an expand", kind)
        own = None if found.expand is None else found.expand.tensor
        named = (found.tensor, found.scale, own, bias, *found.depends)
        for name in (each for each in named if each is not None):
            if name not in learned:
                raise fields.fail("tensor", "a learned tensor of the program, as all named", name)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "kind": self.kind,
            "tensor": self.tensor,
            "columns": list(self.columns),
            "scale": self.scale,
            "expand": None if self.expand is None else self.expand.to_json(),
            "depends": list(self.depends),
            **({} if self.bias is None else {"bias": self.bias, "shrinkage": self.shrinkage}),
        }


@dataclass(frozen=True)
class Factor:
    """What a head needs to be solved again: L of G + lambda I = L L'.

    G is the sum of squares, of a discriminant the covariance within the classes. It is an object of
    its own, not among the blobs of the release: only a device that enrols fetches it.
    """

    weight: float  # lambda; a ridge head was solved with it
    images: int  # behind the head
    size: int  # m, rows of L
    blob: str  # SHA-256; holds `factor`, float32 [m (m + 1) / 2], the lower triangle row by row
    bytes: int
    error: float  # largest error of a score, of enrolling with it instead of with the sums
    kind: str = RIDGE
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Factor":
        """Read it from the fields of a manifest."""
        return cls(
            kind=fields.choice("kind", SOLVED),
            weight=fields.number("lambda", 0.0, 1e300),
            images=fields.integer("images", 1, limits.MAX_AXIS),
            size=fields.integer("size", 1, limits.MAX_FACTOR_ROWS),
            blob=fields.sha256("blob"),
            bytes=fields.integer("bytes", 1, limits.MAX_FACTOR),
            error=fields.number("error", 0.0, 1e6),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "kind": self.kind,
            "lambda": float(self.weight),
            "images": self.images,
            "size": self.size,
            "blob": self.blob,
            "bytes": self.bytes,
            "error": float(self.error),
        }


def read_enrol(fields: Fields, learned: Collection[str]) -> Enrol | None:
    """Take the field `enrol` of a program, which may be absent or null.

    One of a kind that is not read here stays an unknown field: it counts as absent, and is kept.
    """
    found = fields.peek("enrol")
    if isinstance(found, dict) and found.get("kind") not in KINDS:
        return None
    if not fields.has("enrol"):
        return None
    return fields.optional("enrol", lambda key: Enrol.read(fields.child(key), learned))
