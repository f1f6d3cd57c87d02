"""Ridge regression on random features (McDonnell et al., RanPAC, NeurIPS 2023).

https://arxiv.org/abs/2307.02251; with a truncated spectrum Peng et al., LoRanPAC, ICLR 2025,
https://arxiv.org/abs/2410.00645.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.errors import MethodError
from edgecl.program.additive import CPU
from edgecl.program.classifiers.ridge import (
    IMAGES,
    ChoosingRidge,
    Rows,
    Seen,
    Sums,
    enrol_by_sums,
    errors_from_sums,
    head_part,
    one_hot,
    owners,
    predictions,
    resummed,
)
from edgecl.program.classifiers.task_sums import After, TaskSums
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.generated import Generated
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.format import RELU_MATMUL, Enrol, Expand

LARGEST = 10_000  # eigenvalues that a truncated spectrum keeps
WEIGHTS = tuple(10.0**power for power in range(-8, 9))  # candidates for lambda


@dataclass(frozen=True)
class RandomFeatures(ChoosingRidge):
    """Ridge regression on rectified random projections."""

    width: int  # d
    seed: int
    truncate: int = 0  # percent of the spectrum
    weights: ClassVar[tuple[float, ...]] = WEIGHTS

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"d": self.width, "m": self.size}
        return {
            "projection": TensorSpec("d m", sizes, generated=Generated(self.seed)),
            **super().declare(),
        }

    def enrol(self) -> Enrol | None:
        if self.truncate:  # what is left of the sums has no Cholesky factor
            return None
        return enrol_by_sums((0, self.width), Expand(RELU_MATMUL, "projection"))

    def task_end(self) -> str:
        if self.truncate:
            return "the spectrum is cut after a task. Give --set truncate=0 and --set weight=gcv."
        return super().task_end()

    def expand(self, feature: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b m"]:
        return (feature @ learned["projection"]).relu()

    def choose(
        self,
        features: Float[Tensor, "n m"],
        classes: Int[Tensor, " n"],
        total: Sums,
        generator: torch.Generator,
    ) -> float:
        """Choose by the squared error on a fifth of the task, learned from the rest alone."""
        rest, fifth = split(len(features), generator)
        if not len(rest):
            return 1.0
        rows, targets = features.double(), one_hot(classes, total.moments.shape[1])
        found = predictions(rows[rest], targets[rest], rows[fifth], WEIGHTS)
        errors = [(each - targets[fifth]).square().mean() for each in found]
        return WEIGHTS[int(torch.stack(errors).argmin())]

    def deal(self, classes: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Put four fifths into part 0, one into part 1."""
        part = torch.zeros(len(classes), dtype=torch.long)
        part[split(len(classes), generator)[1]] = 1
        return part

    def choose_by_parts(
        self, rows: Rows, part: Int[Tensor, " n"], sums: Sequence[Sums], total: Sums
    ) -> float:
        errors = list(errors_from_sums(sums[0], sums[1], WEIGHTS))
        return WEIGHTS[int(torch.stack(errors).argmin())]

    def fit(self, task: TaskContext) -> FitResult:
        """Solve for all classes, by ridge regression or in what is left of the spectrum.

        Raises:
            MethodError: a lambda is asked for where there is none.
        """
        if not self.truncate:
            return super().fit(task)
        if task.weight != "choose":
            raise MethodError(
                f"ranpac has no lambda with truncate={self.truncate}, got one to use. Leave out "
                "`--weight`, or start a run with truncate=0."
            )
        seen = Seen.of(task, self.expand, self.size)
        images = int(task.counts.sum()) + (int(task.state[IMAGES]) if task.state else 0)
        return replace(self._cut(seen.total.to(CPU), seen.owner, images), sums=seen.kept())

    def refit(self, state: Tensors, own: TaskSums, after: After) -> FitResult:
        if not self.truncate:
            return super().refit(state, own, after)
        owner = owners(after.class_rows)
        return self._cut(resummed(state, own, owner), owner, after.images)

    def _cut(self, total: Sums, owner: Int[Tensor, " c"], images: int) -> FitResult:
        """Return the head of the largest eigenvalues, and what is left of the sums."""
        share = 1 - self.truncate / 100
        rank = min(round(share * images), round(share * self.size), LARGEST)
        left, head = total.truncated(max(1, rank))
        state = {"gram": left.gram.cpu(), "moments": left.moments.cpu()}
        part = head_part(head, owner.to(head.device))
        return FitResult(part, state | {IMAGES: torch.tensor([images])})


def split(count: int, generator: torch.Generator) -> tuple[Int[Tensor, " r"], Int[Tensor, " f"]]:
    """Deal images at random: four fifths, and one."""
    order = torch.randperm(count, generator=generator)
    last = max(1, count // 5)
    return order[:-last], order[-last:]
