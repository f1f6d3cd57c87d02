"""What tells an image of no class: of a pack and of a release (docs/format.md, "Unknown")."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import IDENTIFIER, Fields

OWN_COSINE = "own-cosine/1"
SCORES = (OWN_COSINE,)
OWN_SUBSPACE = "own-subspace/1"
ALSO = (OWN_SUBSPACE,)
ALPHAS = (1e-6, 0.5)  # what alpha may be
_MAX_FIGURES = 64


@dataclass(frozen=True)
class OwnScores:
    """`unknown` of a pack: the scores that images of its classes have with their own class.

    Attributes:
        columns: The part of `feature` that is compared: begin and end.
        tensor: The learned tensor whose rows it is compared with; None: the blob holds `mean`.
        blob: SHA-256 of the scores, one of the pack's blobs; no learned tensor is in it.
        score: Of what kind they are.
        also: A second kind that the blob holds; a class that has it is judged by it.
    """

    columns: tuple[int, int]
    tensor: str | None
    blob: str
    score: str = OWN_COSINE
    also: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "OwnScores":
        """Read it from the fields of a manifest."""
        score = fields.choice("score", SCORES)
        also = fields.choice("also", ALSO) if fields.peek("also") in ALSO else None
        return cls(
            columns=read_columns(fields),
            tensor=fields.optional(
                "tensor", lambda key: fields.matching(key, IDENTIFIER, "an identifier")
            ),
            blob=fields.sha256("blob"),
            score=score,
            also=also,
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            **self.extra,
            "score": self.score,
            "columns": list(self.columns),
            "tensor": self.tensor,
            "blob": self.blob,
            **({} if self.also is None else {"also": self.also}),
        }


@dataclass(frozen=True)
class Rejection:
    """`unknown` of a release: how sure a device must be, and what was measured with it.

    Attributes:
        alpha: The share of the images of a class that may be called unknown.
        figures: On test images, by name; None where there were none.
    """

    alpha: float
    figures: Mapping[str, float | None] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> "Rejection":
        """Read it from the fields of a manifest."""
        alpha = fields.number("alpha", *ALPHAS)
        found = fields.take("figures")
        if (
            not isinstance(found, dict)
            or len(found) > _MAX_FIGURES
            or not all(IDENTIFIER.fullmatch(name) for name in found)
        ):
            raise fields.fail("figures", f"at most {_MAX_FIGURES} numbers by name", found)
        each = Fields(found, f"{fields.where}.figures")
        figures = {
            name: each.optional(name, lambda key: each.number(key, -1e15, 1e15)) for name in found
        }
        return cls(alpha, figures, fields.unknown())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        figures = {name: value if value is None else float(value) for name, value in
                   self.figures.items()}  # fmt: skip
        return {**self.extra, "alpha": float(self.alpha), "figures": figures}


def read_columns(fields: Fields) -> tuple[int, int]:
    """Take `columns`: a part of `feature`, begin and end."""
    columns = fields.items("columns", 2)
    sizes = [type(each) is int and 0 <= each <= limits.MAX_AXIS for each in columns]
    if sizes != [True, True] or not columns[0] < columns[1]:
        raise fields.fail("columns", "two whole numbers, the lower one first", columns)
    return columns[0], columns[1]


def read_own_scores(fields: Fields) -> OwnScores | None:
    """Take the field `unknown` of a pack, which may be absent.

    Scores of a kind that is not read here stay an unknown field: they count as absent.
    """
    found = fields.peek("unknown")
    if not isinstance(found, dict) or found.get("score") not in SCORES:
        return None
    return OwnScores.read(fields.child("unknown"))
