"""Ridge regression of one-hot classes, from sums that grow with the tasks.

With H the features of all images so far and Y their classes, the head (H'H + lambda I)^-1 H'Y needs
only the two products. They are sums over images, so the head does not depend on the order of tasks
or batches, and no old image is asked for. The sums are in float64; they stay on the workstation,
and the head is shipped whole with every task.

Of a task of more images than m, H is never whole: lambda is chosen from sums of parts of the task,
which are what is kept of it. One of at most m images, whose H is no larger than H'H, is chosen for
by its rows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.errors import MethodError
from edgecl.program.additive import CHUNK, CPU, ImageSums
from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.task_sums import After, How, TaskSums
from edgecl.program.fitting import FitResult, RidgeWeight, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.format import RIDGE, Enrol, Expand

KEPT = "ridge_weight"  # in the state: the lambda of the head, after it was raised
IMAGES = "ridge_images"  # in the state: how many images the sums are of
SMALLEST = 1e-13  # eigenvalue, over the largest, that is no rounding
FREE = 1e-3  # share of the images that a weight must leave as degrees of freedom to be judged
# How lambda is chosen: on parts of the current task, or by generalised cross-validation of all.
Weight = Literal["choose", "gcv"]


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums over all images so far that ridge regression needs."""

    gram: Float64[Tensor, "m m"]  # G = H'H
    moments: Float64[Tensor, "m c"]  # Q = H'Y

    @classmethod
    def zeros(cls, width: int, count: int, device: torch.device = CPU) -> "Sums":
        """Start with no image, of so many classes."""
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        return cls(zeros(width, width), zeros(width, count))

    @classmethod
    def of(cls, features: Float[Tensor, "n m"], classes: Int[Tensor, " n"], count: int) -> "Sums":
        """Add up images.

        Args:
            classes: of each image.
            count: of all classes.
        """
        sums = cls.zeros(features.shape[1], count, features.device)
        for some, own in zip(features.split(CHUNK), classes.split(CHUNK), strict=True):
            sums.add(some.double(), own)
        return sums

    @classmethod
    def given(cls, sums: ImageSums, owner: Int[Tensor, " k"], count: int) -> "Sums":
        """Return those of a task of which no image is there.

        Args:
            owner: of each class row of the task, the one under which its sums are.
            count: of all classes.

        Raises:
            MethodError: if there is no sum of squares.
        """
        if sums.gram is None:
            raise MethodError("A ridge head needs the sum of squares of its features, got none.")
        placed = sums.among(owner.tolist(), count)
        return cls(sums.gram, placed.sums.T.contiguous())

    def add(self, rows: Float64[Tensor, "n m"], classes: Int[Tensor, " n"]) -> None:
        """Add images to these sums."""
        self.gram.addmm_(rows.T, rows)
        self.moments.addmm_(rows.T, one_hot(classes, self.moments.shape[1]))

    def to(self, device: torch.device) -> "Sums":
        return Sums(self.gram.to(device), self.moments.to(device))

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

    def truncated(self, rank: int) -> tuple["Sums", Float64[Tensor, "m c"]]:
        """Keep the largest `rank` eigenvalues of G; also return the head G^+ Q of those alone.

        What rounding leaves of an eigenvalue that is zero is dropped too.
        """
        values, vectors = torch.linalg.eigh(self.gram)
        kept = values > SMALLEST * values[-1].clamp(min=0)
        kept[: max(0, len(values) - rank)] = False
        values, vectors = values[kept], vectors[:, kept]
        gram = (vectors * values) @ vectors.T
        return Sums(gram, self.moments), vectors @ ((vectors.T @ self.moments) / values[:, None])


@dataclass(frozen=True, eq=False)
class Rows:
    """The images of a task as the regression sees them, some at a time.

    Attributes:
        features: of every image, before `expand`; they may be in a file.
        classes: of each image.
        count: of all classes.
        expand: of a block of features, on the device.
    """

    features: Float[Tensor, "n f"]
    classes: Int[Tensor, " n"]
    count: int
    expand: Callable[[Tensor], Tensor]
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.classes)

    def blocks(
        self, chosen: Int[Tensor, " k"] | None = None
    ) -> Iterator[tuple[Float64[Tensor, "b m"], Int[Tensor, " b"]]]:
        """Yield some images, or all, and their classes."""
        index = torch.arange(len(self)) if chosen is None else chosen
        for some in index.split(CHUNK):
            rows = self.expand(self.features[some].to(self.device)).double()
            yield rows, self.classes[some].to(self.device)

    def sums(self, part: Int[Tensor, " n"], width: int) -> tuple[Sums, ...]:
        """Add up each part of the images, in one pass.

        Args:
            part: the number of each image's part, from 0.
            width: of what `expand` returns.
        """
        parts = int(part.max()) + 1
        found = [Sums.zeros(width, self.count, self.device) for _ in range(parts)]
        for (rows, own), part_of in zip(self.blocks(), part.split(CHUNK), strict=True):
            for place, each in enumerate(found):
                mine = part_of == place
                if mine.any():
                    each.add(rows[mine.to(self.device)], own[mine.to(self.device)])
        return tuple(found)


Deal: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


def in_one_part(classes: Int[Tensor, " n"], _: torch.Generator) -> Int[Tensor, " n"]:
    """Put all images of a task into one part."""
    return torch.zeros_like(classes)


@dataclass(frozen=True, eq=False)
class Seen:
    """The sums after a task, and which class rows are one class.

    Attributes:
        own: the sums of the task alone.
        classes: how many class rows the task brought, which are the last.
        owner: of every class row, the first one of its class, under which the sums are.
        rows: the images of the task, whose classes are the owners of their rows.
        features: of the task, expanded; None where it has more images than they have entries, or
            none is there.
        part: the part of the task that each image is in; all in one where `features` are there.
        sums: of each part.
    """

    total: Sums
    own: Sums
    classes: int
    owner: Int[Tensor, " c"]
    rows: Rows
    features: Float[Tensor, "n m"] | None
    part: Int[Tensor, " n"]
    sums: tuple[Sums, ...]

    @classmethod
    def of(
        cls,
        task: TaskContext,
        expand: Callable[[Tensor, Tensors], Tensor],
        size: int,
        *,
        deal: Deal = in_one_part,
        domains: bool = False,
    ) -> "Seen":
        """Add a task's images to the sums of the former ones.

        Args:
            expand: from features and learned tensors to what the sums are of.
            size: how many entries that has.
            deal: of a task of more images, from the classes of the images to their parts.
            domains: a class that comes in another domain is a class of its own there.
        """
        owner = owners(task.class_rows, apart=domains and not task.moves)
        count = len(owner)
        classes = owner[count - task.classes + task.labels]
        learned = {name: tensor.to(task.device) for name, tensor in task.learned.items()}
        rows = Rows(
            task.features.get("feature", torch.zeros(0, 0)), classes, count,
            lambda feature: expand(feature, learned), task.device,
        )  # fmt: skip
        few = len(rows) <= size
        part = in_one_part(classes, task.generator) if few else deal(classes, task.generator)
        features = None
        if few and task.sums is None:
            features = rows.expand(rows.features.to(task.device))
        if task.sums is not None:
            mine = owner[count - task.classes :]
            sums: tuple[Sums, ...] = (Sums.given(task.sums, mine, count).to(task.device),)
        elif features is None:
            sums = rows.sums(part, size)
        else:
            sums = (Sums.of(features, classes.to(task.device), count),)
        own = reduce(Sums.plus, sums)
        total = added(task.state, own, owner)
        return cls(total, own, task.classes, owner, rows, features, part, sums)

    def kept(self, weight: float = 0.0, how: How | None = None) -> Tensors:
        """Return what a run keeps of the task's sums, and the lambda that was used with them."""
        own = TaskSums.of(self.own.gram, self.own.moments, self.owner, self.classes, weight, how)
        return own.to_tensors()


def owners(class_rows: Sequence[str], *, apart: bool = False) -> Int[Tensor, " c"]:
    """Return, of every class row, the one under which its sums are: the first of its class.

    Args:
        apart: every row is a class of its own.
    """
    first = {name: row for row, name in reversed(list(enumerate(class_rows)))}
    return torch.tensor([row if apart else first[name] for row, name in enumerate(class_rows)])


def added(state: Tensors, own: Sums, owner: Int[Tensor, " c"]) -> Sums:
    """Return the sums after a task, from the state of the one before it and the task's own."""
    total = own
    if state:
        total = Sums(state["gram"], state["moments"]).to(own.gram.device).plus(own)
    for row, first_row in enumerate(owner.tolist()):
        if row != first_row and total.moments[:, row].any():  # a class that was merged since
            total.moments[:, first_row] += total.moments[:, row]
            total.moments[:, row] = 0
    return total


def resummed(state: Tensors, own: TaskSums, owner: Int[Tensor, " c"]) -> Sums:
    """Return the sums after a task of which the own ones were kept."""
    return added(state, Sums(own.gram, own.among(owner)), owner)


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


def errors_from_sums(
    rest: Sums, held: Sums, weights: Sequence[float]
) -> Iterator[Float64[Tensor, ""]]:
    """Yield the summed squared error of held images by the ridge head of the rest, per weight.

    With W the head it is tr(W'G_f W) - 2 tr(W'Q_f) + tr(Y_f'Y_f), the last of which is the number
    of held images and is left out.
    """
    values, vectors = torch.linalg.eigh(rest.gram)
    right, turned = vectors.T @ rest.moments, vectors.T @ held.gram @ vectors  # m c, m m
    wanted = vectors.T @ held.moments  # m c
    for weight in weights:
        head = right / (values.clamp(min=0) + weight)[:, None]
        yield (head * (turned @ head)).sum() - 2 * (head * wanted).sum()


def generalised(total: Sums, images: int, weights: Sequence[float]) -> float:
    """Return the weight of the least generalised cross-validation, from the sums of all images.

    n RSS / (n - tr P)^2 with P = H (G + weight I)^-1 H' (Golub, Heath and Wahba, Technometrics
    1979, equation 1.4). One eigendecomposition serves all weights. Where next to no freedom is left
    (fewer images than m, and a small weight) both are differences that rounding decides, so such a
    weight is not taken.
    """
    values, vectors = torch.linalg.eigh(total.gram)
    values = values.clamp(min=0)[:, None]
    squares = (vectors.T @ total.moments).square()  # m c
    found = []
    for weight in weights:
        kept = 1 / (values + weight)
        misfit = images - (squares * kept * (2 - values * kept)).sum()
        free = images - (values * kept).sum()
        judged = float(free) > FREE * images
        found.append(float(misfit / free.square()) if judged else math.inf)
    return min(zip(found, weights, strict=True))[1]


def held_out_scores(
    total: Sums,
    features: Float64[Tensor, "n m"],
    targets: Float64[Tensor, "n c"],
    folds: Sequence[Int[Tensor, " _"]],
    weights: Sequence[float],
) -> Iterator[list[Float64[Tensor, "_ c"]]]:
    """Yield, per weight, the scores of each fold by the head that has not seen it.

    With P = H_f (G + weight I)^-1 H_f' the residual of the head without fold f is
    (I - P)^-1 (Y_f - the scores by the head of all images), a system of the size of the fold, in
    the eigenvectors of G, where G is diagonal. A fold of more than m images: `heads_without`.

    Args:
        total: the sums of all images, these ones included.
    """
    values, vectors = torch.linalg.eigh(total.gram)
    turned, right = features @ vectors, vectors.T @ total.moments  # n m, m c
    for weight in weights:
        scaled = turned / (values.clamp(min=0) + weight)
        found = []
        for fold in folds:
            residual = targets[fold] - scaled[fold] @ right
            rest = torch.eye(len(fold), dtype=torch.float64) - scaled[fold] @ turned[fold].T
            found.append(targets[fold] - torch.linalg.solve_ex(rest, residual).result)
        yield found


def heads_without(total: Sums, part: Sums, weights: Sequence[float]) -> Float64[Tensor, "w m c"]:
    """Return the heads of all images but those of a part, one per weight."""
    rest = total.minus(part)
    values, vectors = torch.linalg.eigh(rest.gram)
    right = vectors.T @ rest.moments  # m c
    values = values.clamp(min=0)[:, None]
    return torch.stack([vectors @ (right / (values + weight)) for weight in weights])


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


def head_part(head: Float64[Tensor, "m c"], owner: Int[Tensor, " c"]) -> Tensors:
    """Return the tensors of `balanced_rows`, a class's own for each of its rows."""
    weight, scale = balanced(head.T[owner].float().cpu())
    return {"head_weight": weight, "head_scale": scale}


def solved(total: Sums, owner: Int[Tensor, " c"], weight: float) -> FitResult:
    """Return the head that the sums give, and the state after them."""
    factor, raised = total.factor(weight)
    part = head_part(torch.cholesky_solve(total.moments, factor), owner.to(factor.device))
    kept = torch.tensor([raised], dtype=torch.float64)
    return FitResult(part, {"gram": total.gram.cpu(), "moments": total.moments.cpu(), KEPT: kept})


def enrol_by_sums(columns: tuple[int, int], expand: Expand | None = None) -> Enrol:
    """Declare that the tensors of `balanced_rows` are solved again from a factor of the sums."""
    return Enrol(RIDGE, "head_weight", columns=columns, scale="head_scale", expand=expand)


@dataclass(frozen=True)
class Ridge(ABC):
    """A classifier by ridge regression.

    A class that comes back in another domain is one class to the regression: its rows are equal.
    """

    size: int  # m, of what `expand` returns
    on: str  # the pass

    def declare(self) -> dict[str, TensorSpec]:
        return balanced_rows(self.size)

    def enrol(self) -> Enrol | None:
        return enrol_by_sums((0, self.size))

    @property
    def adds(self) -> str:
        return RIDGE

    @property
    def summed_size(self) -> int:
        return self.size

    @property
    def summed_one(self) -> bool:
        return False

    def summed(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b m"]:
        return self.expand(feature, learned)

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features(self.on).cls

    def expand(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b m"]:
        """Return what the regression sees of a feature."""
        return feature

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        expanded = self.expand(self.feature(encoded), learned)
        return F.linear(expanded, learned["head_weight"]) * learned["head_scale"]

    @abstractmethod
    def chosen(self, task: TaskContext, seen: Seen) -> float:
        """Return lambda by the rule of the method."""

    def by_gcv(self, total: Sums, images: int) -> float:
        """Return lambda by generalised cross-validation, from the sums of all images.

        Raises:
            MethodError: if the method has no candidates for it.
        """
        raise MethodError(
            "Generalised cross-validation is for a lambda that is chosen (ranpac, layup), got a "
            "method with one of its own. Leave `--weight` out."
        )

    def deal(self, classes: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return the part of the task that each image is in, whose sums `chosen` needs."""
        return in_one_part(classes, generator)

    def fit(self, task: TaskContext) -> FitResult:
        """Add the task's images to the sums and solve for all classes."""
        seen = Seen.of(task, self.expand, self.size, deal=self.deal)
        weight = self._weight(task, seen)
        kept = seen.kept(weight, self.how(task.weight))
        return replace(solved(seen.total.to(CPU), seen.owner, weight), sums=kept)

    def refit(self, state: Tensors, own: TaskSums, after: After) -> FitResult:
        """Solve again, by a lambda from where that one was; one that is of images stays."""
        owner = owners(after.class_rows)
        total = resummed(state, own, owner)
        weight = own.weight
        if own.how == "keep" and KEPT in state:
            weight = float(state[KEPT])
        elif own.how == "gcv":
            weight = self.by_gcv(total, after.images)
        again = replace(own, weight=weight)
        return replace(solved(total, owner, weight), sums=again.to_tensors())

    def how(self, weight: RidgeWeight) -> How:
        """Return where the lambda of a task is from."""
        return "given" if isinstance(weight, float | int) else weight

    def stays(self, state: Tensors, own: TaskSums, *, changed: bool) -> bool:
        """Return whether `refit` takes a lambda that a run without what is gone need not have.

        Args:
            state: after the former task, as of `refit`.
            changed: images of the task itself are gone.
        """
        if not own.weight or own.how in {"given", "gcv"}:
            return False
        return own.how is None or (own.how == "keep" and KEPT not in state)

    def _weight(self, task: TaskContext, seen: Seen) -> float:
        """Return the lambda that the task asks for.

        Raises:
            MethodError: if none can be kept.
        """
        if task.weight == "choose":
            return self.chosen(task, seen)
        if task.weight == "gcv":
            return self.by_gcv(seen.total.to(CPU), self._images(task))
        if task.weight != "keep":
            return task.weight
        if KEPT not in task.state:
            raise MethodError(
                "A weight is kept that a former task had, got none: the run is new, or an older "
                "version made it. Use `--weight choose`, or a number."
            )
        return float(task.state[KEPT])

    def _images(self, task: TaskContext) -> int:
        """Return how many images the sums are of."""
        former = int(task.state[IMAGES]) if IMAGES in task.state else sum(task.row_images)
        return int(task.counts.sum()) + former


@dataclass(frozen=True)
class ChoosingRidge(Ridge):
    """Ridge regression with a lambda that is chosen among candidates."""

    weight: Weight = field(default="choose", kw_only=True)
    weights: ClassVar[tuple[float, ...]] = ()  # candidates for lambda
    chooses_alone: ClassVar[bool] = True  # on the images of a task, whatever came before

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

    @abstractmethod
    def deal(self, classes: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return the part of the task that each image is in, as `choose_by_parts` needs them."""

    @abstractmethod
    def choose_by_parts(
        self, rows: Rows, part: Int[Tensor, " n"], sums: Sequence[Sums], total: Sums
    ) -> float:
        """Choose lambda as `choose` does, where the task has more images than m.

        Args:
            part: what `deal` returned.
            sums: of each part.
            total: as of `choose`.
        """

    def fit(self, task: TaskContext) -> FitResult:
        found = super().fit(task)
        if self.weight != "gcv":
            return found
        return replace(found, state=found.state | {IMAGES: torch.tensor([self._images(task)])})

    def by_gcv(self, total: Sums, images: int) -> float:
        return generalised(total, images, self.weights)

    def refit(self, state: Tensors, own: TaskSums, after: After) -> FitResult:
        found = super().refit(state, own, after)
        if self.weight != "gcv":
            return found
        return replace(found, state=found.state | {IMAGES: torch.tensor([after.images])})

    def task_end(self) -> str:
        """Return why lambda needs the images of one task, and what to do; "" where it does not."""
        if self.weight == "gcv":
            return ""
        return "lambda is chosen on the images of one task. Give --set weight=gcv."

    def how(self, weight: RidgeWeight) -> How:
        return super().how(self.weight if weight == "choose" else weight)

    def stays(self, state: Tensors, own: TaskSums, *, changed: bool) -> bool:
        if own.how == "choose":
            return changed or not self.chooses_alone
        return super().stays(state, own, changed=changed)

    def chosen(self, task: TaskContext, seen: Seen) -> float:
        """Return lambda by the rule of the method.

        Raises:
            MethodError: if the rule looks at images, and none is there.
        """
        if self.weight == "gcv":
            return self.by_gcv(seen.total.to(CPU), self._images(task))
        if task.sums is not None:
            raise MethodError(
                "The method chooses lambda on images, got sums. Take `--weight keep` (that of the "
                "former task), `gcv`, or a number."
            )
        if seen.features is None:
            return self.choose_by_parts(seen.rows, seen.part, seen.sums, seen.total)
        here = seen.features.cpu()
        return self.choose(here, seen.rows.classes, seen.total.to(CPU), task.generator)
