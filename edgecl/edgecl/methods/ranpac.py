"""RanPAC, random projections and pre-trained models (McDonnell et al., NeurIPS 2023).

https://arxiv.org/abs/2307.02251

Injection:  an AdaptFormer adapter parallel to every block's MLP, trained on the first task only,
            then frozen; none with `first_session=none`.
Matcher:    none.
Classifier: ridge regression on relu(f W) with a fixed random W, from sums over all tasks; lambda is
            the one with the least squared error on a fifth of the current task.
Differs from the paper: W comes from a generator that the device repeats bit for bit, nearly normal
            (a sum of twelve uniform integers), and M is smaller; the sums are in float64; the fifth
            is drawn at random rather than the last of the loader; a class that comes back in
            another domain owns several equal rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.first_session import AdapterConfig, FirstAdapters
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers.ridge import (
    Ridge,
    Rows,
    Sums,
    Weight,
    errors_from_sums,
    one_hot,
    predictions,
)
from edgecl.program.generated import Generated
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.format import RELU_MATMUL, Enrol, Expand

WEIGHTS = tuple(10.0**power for power in range(-8, 9))  # candidates for lambda


@dataclass(frozen=True)
class RanPACConfig(AdapterConfig):
    """The projection, the adapters and the schedule of the first task."""

    size: int = 2000  # M, width of the projection
    seed: int = 1993  # of the projection; it ships instead of the projection
    first_session: Literal["adapter", "none"] = "adapter"
    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of the adapter's output
    weight: Weight = "choose"  # how lambda is chosen; gcv: by generalised cross-validation
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "ranpac", size=self.size, rank=self.rank)
        at_least(0, "ranpac", seed=self.seed)


@dataclass(frozen=True)
class RandomFeatures(Ridge):
    """Ridge regression on rectified random projections."""

    width: int  # d
    seed: int
    weights: ClassVar[tuple[float, ...]] = WEIGHTS

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"d": self.width, "m": self.size}
        return {
            "projection": TensorSpec("d m", sizes, generated=Generated(self.seed)),
            **super().declare(),
        }

    def enrol(self) -> Enrol:
        expand = Expand(RELU_MATMUL, "projection")
        return replace(super().enrol(), columns=(0, self.width), expand=expand)

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


def split(count: int, generator: torch.Generator) -> tuple[Int[Tensor, " r"], Int[Tensor, " f"]]:
    """Deal images at random: four fifths, and one."""
    order = torch.randperm(count, generator=generator)
    last = max(1, count // 5)
    return order[:-last], order[-last:]


@register
class RanPAC(FirstAdapters[RanPACConfig]):
    """One branch, adapted on the first task, under a ridge head on random features."""

    name: ClassVar[str] = "ranpac"
    title: ClassVar[str] = "RanPAC"
    paper: ClassVar[str] = "https://arxiv.org/abs/2307.02251"
    family: ClassVar[str] = "closed form"
    status: ClassVar[Status] = "compared"
    config_type: ClassVar[type[MethodConfig]] = RanPACConfig

    def build(self) -> Program:
        config, dim = self.config, self.spec.feature_dim
        return self.adapted(
            lambda on: RandomFeatures(config.size, on, dim, config.seed, weight=config.weight)
        )
