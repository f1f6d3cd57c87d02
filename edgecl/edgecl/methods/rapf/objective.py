"""What RAPF trains its map by, and how two maps become one.

Huang et al., ECCV 2024, https://arxiv.org/abs/2407.14143. Maps are given less the identity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.shared.head_alignment import Gaussians
from edgecl.program.classifiers.texts import mapped
from edgecl.program.fitting import TaskContext
from edgecl.program.statistics import cholesky_factors, correlated_features


@dataclass(frozen=True)
class Drawn:
    """What is drawn of the former classes for every batch.

    Attributes:
        former: classes.
        draws: features of each, and twice as many of each near pair.
        near: distance of two names' embeddings below which they are a pair.
        margin: of the cosine with the own name over that with the new one.
    """

    former: int
    draws: int
    near: float
    margin: float


class Objective:
    """Cross-entropy over all rows, on a batch and on drawn features, and the margins of near pairs.

    Args:
        factor: on the cosine.
        former: the Gaussians of the former rows, None in the first task.
    """

    def __init__(
        self,
        task: TaskContext,
        factor: Float[Tensor, ""],
        former: Gaussians | None,
        drawn: Drawn,
    ):
        self.task, self.factor, self.former, self.drawn = task, factor, former, drawn
        self.texts = task.learned["texts"]
        self.first = len(task.class_rows) - task.classes
        if former is not None:
            self.factors = cholesky_factors(former.covariances)
            self.turn = in_turn(self.first, task.generator)
            self.pairs = near_pairs(self.texts, task.class_rows, self.first, drawn.near)

    def __call__(self, change: Float[Tensor, "g f"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        features, rows = self.task.queries[batch], self.first + self.task.labels[batch]
        former = self.former
        if former is None:
            return self._cross_entropy(change, features, rows)
        chosen = torch.tensor([next(self.turn) for _ in range(self.drawn.former)])
        more, of = self._draw(former, chosen, self.drawn.draws)
        loss = self._cross_entropy(
            change, torch.cat([features, more]), torch.cat([rows, chosen[of]])
        )
        if not len(self.pairs):
            return loss
        more, of = self._draw(former, self.pairs[:, 0], 2 * self.drawn.draws)
        return loss + margin_loss(more, change, self.texts[self.pairs[of]], self.drawn.margin)

    def _cross_entropy(
        self, change: Float[Tensor, "g f"], features: Float[Tensor, "n f"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        cosine = F.normalize(mapped(features, change), dim=-1) @ self.texts.T
        return F.cross_entropy(self.factor * cosine, rows)

    def _draw(
        self, former: Gaussians, rows: Int[Tensor, " k"], count: int
    ) -> tuple[Float[Tensor, "n f"], Int[Tensor, " n"]]:
        """Return features of some former rows, and to which of them each belongs."""
        means, factors = former.means[rows], self.factors[rows]
        return correlated_features(means, factors, count, self.task.generator)


def margin_loss(
    features: Float[Tensor, "n f"],
    change: Float[Tensor, "g f"],
    texts: Float[Tensor, "n 2 f"],
    margin: float,
) -> Float[Tensor, ""]:
    """Return by how much features are not nearer to their own name than to another, in the mean.

    Args:
        texts: of each feature, its own name's embedding and the other one's.
    """
    own, other = texts.unbind(dim=1)
    gain = (F.normalize(mapped(features, change), dim=-1) * (own - other)).sum(dim=-1)
    return (margin - gain).relu().mean()


def near_pairs(
    texts: Float[Tensor, "c f"], names: Sequence[str], first: int, near: float
) -> Int[Tensor, "k 2"]:
    """Return the former and the new rows of different classes whose embeddings are near.

    Args:
        first: row of the new classes.
    """
    distance = torch.cdist(texts[:first], texts[first:])
    other = torch.tensor([[old != new for new in names[first:]] for old in names[:first]])
    pairs = torch.nonzero((distance < near) & other)
    return pairs + torch.tensor([0, first])


def in_turn(count: int, generator: torch.Generator) -> Iterator[int]:
    """Yield all rows in a random order, then again in another one, without end."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def fused(
    after: Float[Tensor, "g f"], before: Float[Tensor, "g f"], fresh: float
) -> Float[Tensor, "g f"]:
    """Return the fusion of a map with the one before its training, A = U S V.

    With D = |U'A_new - S V| and the mask M = min(1, D / max D + fresh) it is
    U (M U'A_new + (1 - M) S V).
    """
    eye = torch.eye(len(after), dtype=torch.float64)
    left, values, right = torch.linalg.svd(before.double() + eye)
    new, old = left.T @ (after.double() + eye), values[:, None] * right
    moved = (new - old).abs()
    mask = (moved / moved.max().clamp(min=torch.finfo(torch.float64).tiny) + fresh).clamp(max=1)
    return (left @ (mask * new + (1 - mask) * old) - eye).float()
