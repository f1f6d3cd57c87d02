"""Ridge regression of one-hot classes, from sums that grow with the tasks.

With H the features of all images so far and Y their classes, the head (H'H + lambda I)^-1 H'Y needs
only the two products. They are sums over images, so the head does not depend on the order of tasks
or batches, and no old image is asked for. The sums are in float64; they stay on the workstation,
and the head is shipped whole with every task.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.errors import MethodError
from edgecl.program.classifiers.base import Encoded
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.format import RIDGE, Enrol

KEPT = "ridge_weight"  # in the state: the lambda of the head, after it was raised
CHUNK = 512  # images whose features are in float64 at once


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums over all images so far that ridge regression needs."""

    gram: Float64[Tensor, "m m"]  # G = H'H
    moments: Float64[Tensor, "m c"]  # Q = H'Y

    @classmethod
    def of(cls, features: Float[Tensor, "n m"], classes: Int[Tensor, " n"], count: int) -> "Sums":
        """Add up images.

        Args:
            classes: of each image.
            count: of all classes.
        """
        width = features.shape[1]
        gram = torch.zeros(width, width, dtype=torch.float64)
        moments = torch.zeros(width, count, dtype=torch.float64)
        for some, own in zip(features.split(CHUNK), classes.split(CHUNK), strict=True):
            rows = some.double()
            gram.addmm_(rows.T, rows)
            moments.addmm_(rows.T, one_hot(own, count))
        return cls(gram, moments)

    def plus(self, other: "Sums") -> "Sums":
        """Add the images of another task; the one with fewer classes has none of the last ones."""
        count = max(self.moments.shape[1], other.moments.shape[1])
        wide = [F.pad(each, (0, count - each.shape[1])) for each in (self.moments, other.moments)]
        return Sums(self.gram + other.gram, wide[0] + wide[1])

    def minus(self, other: "Sums") -> "Sums":
        """Take images out again: what stays is what the others alone would have left."""
        return self.plus(Sums(-other.gram, -other.moments))

    def solve(self, weight: float) -> Float64[Tensor, "m c"]:
        """Return (G + weight I)^-1 Q by Cholesky, `factor` says of which weight."""
        return torch.cholesky_solve(self.moments, self.factor(weight)[0])

    def factor(self, weight: float) -> tuple[Float64[Tensor, "m m"], float]:
        """Return L of G + weight I = L L', and the weight.

        A weight too small to make G + weight I positive in float64 is raised tenfold until it does.
        """
        while True:
            shifted = self.gram.clone()
            shifted.diagonal().add_(weight)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not failed:
                return factor, weight
            weight = 10 * weight or 1e-8


@dataclass(frozen=True, eq=False)
class Seen:
    """The sums after a task, and which class rows are one class.

    Attributes:
        owner: of every class row, the first one of its class, under which the sums are.
        classes: the owner of each image of the task.
    """

    total: Sums
    owner: Int[Tensor, " c"]
    classes: Int[Tensor, " n"]

    @classmethod
    def of(
        cls, task: TaskContext, features: Float[Tensor, "n m"], *, domains: bool = False
    ) -> "Seen":
        """Add a task's images to the sums of the former ones.

        Args:
            domains: a class that comes in another domain is a class of its own there.
        """
        rows = list(enumerate(task.class_rows))
        first = {name: row for row, name in reversed(rows)}
        apart = domains and not task.moves
        owner = torch.tensor([row if apart else first[name] for row, name in rows])
        classes = owner[len(rows) - task.classes + task.labels]
        total = Sums.of(features, classes, len(rows))
        if task.state:
            total = Sums(task.state["gram"], task.state["moments"]).plus(total)
        for row, first_row in enumerate(owner.tolist()):
            if row != first_row and total.moments[:, row].any():  # a class that was merged since
                total.moments[:, first_row] += total.moments[:, row]
                total.moments[:, row] = 0
        return cls(total, owner, classes)


def one_hot(classes: Int[Tensor, " n"], count: int) -> Float64[Tensor, "n c"]:
    """Return one row per image with a 1 at its class."""
    return F.one_hot(classes, count).double()


def predictions(
    features: Float64[Tensor, "n m"],
    targets: Float64[Tensor, "n c"],
    others: Float64[Tensor, "v m"],
    weights: Sequence[float],
) -> Iterator[Float64[Tensor, "v c"]]:
    """Yield the scores of other images by the ridge head of `features`, per weight.

    One eigendecomposition serves all weights, of HH' or of H'H, whichever is smaller: the head is
    H'(HH' + weight I)^-1 Y as well.
    """
    if len(features) < features.shape[1]:
        values, vectors = torch.linalg.eigh(features @ features.T)  # n n
        left, right = others @ features.T @ vectors, vectors.T @ targets
    else:
        values, vectors = torch.linalg.eigh(features.T @ features)  # m m
        left, right = others @ vectors, vectors.T @ (features.T @ targets)
    values = values.clamp(min=0)[:, None]
    for weight in weights:
        yield left @ (right / (values + weight))


def held_out_scores(
    total: Sums,
    features: Float64[Tensor, "n m"],
    targets: Float64[Tensor, "n c"],
    folds: Sequence[Int[Tensor, " _"]],
    weights: Sequence[float],
) -> Iterator[list[Float64[Tensor, "_ c"]]]:
    """Yield, per weight, the scores of each fold by the head that has not seen it.

    With P = H_f (G + weight I)^-1 H_f' the residual of the head without fold f is
    (I - P)^-1 (Y_f - the scores by the head of all images), a system of the size of the fold. A
    fold of more than m images is taken out of the sums instead, a system of size m. Both are in
    the eigenvectors of G, where G is diagonal.

    Args:
        total: the sums of all images, these ones included.
    """
    values, vectors = torch.linalg.eigh(total.gram)
    turned, right = features @ vectors, vectors.T @ total.moments  # n m, m c
    large = {
        place: Sums(turned[fold].T @ turned[fold], turned[fold].T @ targets[fold])
        for place, fold in enumerate(folds)
        if len(fold) > len(values)
    }
    for weight in weights:
        shifted = values.clamp(min=0) + weight
        scaled = turned / shifted
        found = []
        for place, fold in enumerate(folds):
            if place in large:
                own = large[place]
                rest = -own.gram
                rest.diagonal().add_(shifted)
                head = torch.linalg.solve_ex(rest, right - own.moments).result
                found.append(turned[fold] @ head)
                continue
            residual = targets[fold] - scaled[fold] @ right
            rest = torch.eye(len(fold), dtype=torch.float64) - scaled[fold] @ turned[fold].T
            found.append(targets[fold] - torch.linalg.solve_ex(rest, residual).result)
        yield found


def balanced(head: Float[Tensor, "c m"]) -> tuple[Float[Tensor, "c m"], Float[Tensor, " c"]]:
    """Split a head into rows of largest magnitude in [0.5, 1) and their scales, powers of two.

    A ridge head of large features has weights below the normal range of float16; with a scale per
    row it keeps its 11 bits. Powers of two change no bit of a float32.
    """
    largest = head.abs().amax(dim=1)
    scale = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)
    return head / scale[:, None], scale


def balanced_rows(size: int) -> dict[str, TensorSpec]:
    """Declare what `balanced` makes of a head of so many features."""
    return {
        "head_weight": TensorSpec("c m", {"m": size}),
        "head_scale": TensorSpec("c", {}, half=False),
    }


@dataclass(frozen=True)
class Ridge(ABC):
    """A classifier by ridge regression; its subclasses choose the weight.

    A class that comes back in another domain is one class to the regression: its rows are equal.
    """

    size: int  # m, of what `expand` returns
    on: str  # the pass

    def declare(self) -> dict[str, TensorSpec]:
        return balanced_rows(self.size)

    def enrol(self) -> Enrol:
        return Enrol(RIDGE, "head_weight", columns=(0, self.size), scale="head_scale")

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features(self.on).cls

    def expand(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b m"]:
        """Return what the regression sees of a feature."""
        return feature

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        expanded = self.expand(self.feature(encoded), learned)
        return F.linear(expanded, learned["head_weight"]) * learned["head_scale"]

    @abstractmethod
    def choose(
        self,
        features: Float[Tensor, "n m"],
        classes: Int[Tensor, " n"],
        total: Sums,
        generator: torch.Generator,
    ) -> float:
        """Choose lambda on the images of the current task.

        Args:
            total: the sums of all tasks so far, this one included.
        """

    def fit(self, task: TaskContext) -> FitResult:
        """Add the task's images to the sums and solve for all classes."""
        features = self.expand(task.features["feature"], task.learned)
        seen = Seen.of(task, features)
        total = seen.total
        factor, weight = total.factor(self._weight(task, features, seen.classes, total))
        head = torch.cholesky_solve(total.moments, factor).T[seen.owner]
        head, scale = balanced(head.float())
        part = {"head_weight": head, "head_scale": scale}
        kept = torch.tensor([weight], dtype=torch.float64)
        return FitResult(part, {"gram": total.gram, "moments": total.moments, KEPT: kept})

    def _weight(
        self,
        task: TaskContext,
        features: Float[Tensor, "n m"],
        classes: Int[Tensor, " n"],
        total: Sums,
    ) -> float:
        """Return the lambda that the task asks for.

        Raises:
            MethodError: if none can be kept.
        """
        if task.weight == "choose":
            return self.choose(features, classes, total, task.generator)
        if task.weight != "keep":
            return task.weight
        if KEPT not in task.state:
            raise MethodError(
                "A weight is kept that a former task had, got none: the run is new, or an older "
                "version made it. Use `--weight choose`, or a number."
            )
        return float(task.state[KEPT])
