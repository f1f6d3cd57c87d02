"""Linear discriminant analysis: class means under one covariance, from sums of all tasks.

The mean m_c of each class and the covariance S within the classes, shared by all of them, come from
three sums over the images: their number by class, H'Y and H'H. Sums do not depend on the order of
tasks or images, and a class is taken out by subtracting its own. They are in float64 and stay on
the workstation; the head ships whole with every task.

A class scores the logarithm of its density over that of a class at m, the mean of the class means:
w_c f + b_c with w_c = S^-1 (m_c - m) and b_c = -w_c (m_c + m) / 2, under equal priors; all of them
divided by the mean of what the class means score. That changes no order. It makes 0 the score of a
class of which nothing is known and 1 that of a usual one, however few the images and whatever the
shrinkage, and keeps the digits of a row in float16 for what sets the class apart.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.additive import CPU
from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.ridge import Seen, Sums, balanced, balanced_rows, owners, resummed
from edgecl.program.classifiers.task_sums import After, TaskSums
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.generated import Generated
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.enrol.discriminant import shrinking
from edgecl_deploy.format import DISCRIMINANT, FOURIER, RIDGE, SCALED, Enrol, Expand

Shrinkage: TypeAlias = Literal["oas", "trace"]
ROUNDING = 1e-12  # of a covariance within the classes, over the mean square of the features


def with_one(features: Float[Tensor, "n m"]) -> Float[Tensor, "n m+1"]:
    """Append a feature that is 1, whose sums are the numbers of images."""
    return F.pad(features, (0, 1), value=1.0)


class Rows(NamedTuple):
    """The rows of a head, whose classes score 1 at their means on average; and what they were."""

    weight: Float64[Tensor, "c m"]
    bias: Float64[Tensor, " c"]
    usual: float  # what they were divided by; 1 for a class alone, which is at the centre


def discriminants(total: Sums, owner: Int[Tensor, " c"], shrinkage: Shrinkage) -> Rows:
    """Return the rows of the head.

    Args:
        total: of features `with_one`.
        owner: the class row under which the sums of each class row are.
    """
    classes, row = owner.unique(return_inverse=True)
    counts, square = total.moments[-1, classes], total.gram[:-1, :-1]
    within, means = covariance(total, classes)
    if within.trace() <= ROUNDING * square.trace() / counts.sum():  # one image of each class
        within = torch.eye(len(within), dtype=torch.float64)
    factor = torch.linalg.cholesky(shrunk(within, int(counts.sum()), shrinkage))
    centre = means.mean(dim=0)
    away = means - centre
    weight = torch.cholesky_solve(away.T, factor).T  # k m
    usual = float((weight * away).sum(dim=1).mean() / 2) or 1.0
    weight /= usual
    bias = -(weight * (means + centre)).sum(dim=1) / 2
    return Rows(weight[row], bias[row], usual)


def covariance(
    total: Sums, classes: Int[Tensor, " k"]
) -> tuple[Float64[Tensor, "m m"], Float64[Tensor, "k m"]]:
    """Return the covariance within classes, and their means, from the sums of `with_one`."""
    counts = total.moments[-1, classes]
    means = (total.moments[:-1, classes] / counts).T  # k m
    square = total.gram[:-1, :-1]
    return (square - (means.T * counts) @ means) / counts.sum(), means


def shrunk(
    covariance: Float64[Tensor, "m m"], images: int, how: Shrinkage
) -> Float64[Tensor, "m m"]:
    """Pull a covariance towards a multiple of I, the more the fewer images it is of.

    `oas` mixes it with its mean variance (Chen et al., IEEE TSP 2010, equation 23 as scikit-learn
    has it). `trace` adds its trace over n - 1, n the images: up to a factor its inverse is that of
    Kubokawa and Srivastava (2008), d ((n - 1) S + tr(S) I)^-1, as Wang et al. (ICLR 2024) use it.
    """
    keep, added = shrinking(covariance.numpy(), images, how)
    return keep * covariance + added * torch.eye(len(covariance), dtype=torch.float64)


@dataclass(frozen=True)
class Discriminant:
    """Linear discriminants on the frozen feature f, at length 1, or on random Fourier features.

    D of those approximate D/2 times the kernel exp(-gamma |f - g|^2) by D/2 directions W from a
    generator that a device repeats bit for bit: [cos; sin](sqrt(2 gamma) f W) (Rahimi and Recht,
    NeurIPS 2007). A factor on all features changes no score.
    """

    width: int  # d
    shrinkage: Shrinkage = "oas"
    rff: int = 0  # D, random Fourier features; 0: the feature as it is
    gamma: float = 1.0  # of their kernel
    seed: int = 1993  # of their directions; it ships instead of them

    @property
    def size(self) -> int:
        """Return m, what a row of the head is of."""
        return self.rff or self.width

    def declare(self) -> dict[str, TensorSpec]:
        half = {"d": self.width, "p": self.rff // 2}
        made = {"projection": TensorSpec("d p", half, generated=Generated(self.seed))}
        head = balanced_rows(self.size)
        return (made if self.rff else {}) | head | {"head_bias": TensorSpec("c", {}, half=False)}

    def enrol(self) -> Enrol | None:
        how = Expand(SCALED, None, math.sqrt(self.width))
        if self.rff:
            how = Expand(FOURIER, "projection", math.sqrt(2 * self.gamma))
        return Enrol(
            DISCRIMINANT, "head_weight", (0, self.width), "head_scale", how, bias="head_bias",
            shrinkage=self.shrinkage,
        )  # fmt: skip

    @property
    def adds(self) -> str:
        return RIDGE

    @property
    def summed_size(self) -> int:
        return self.size + 1

    @property
    def summed_one(self) -> bool:
        return True

    def summed(self, feature: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b m"]:
        return with_one(self.expand(feature, learned))

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return F.normalize(encoded.features("plain").cls, dim=-1)

    def expand(self, feature: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b m"]:
        """Return what the head reads of a feature: numbers of the order of 1."""
        if not self.rff:
            return math.sqrt(self.width) * feature
        turned = math.sqrt(2 * self.gamma) * (feature @ learned["projection"])  # b p
        return torch.cat([turned.cos(), turned.sin()], dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        expanded = self.expand(self.feature(encoded), learned)
        along = F.linear(expanded, learned["head_weight"]) * learned["head_scale"]
        return along + learned["head_bias"]

    def fit(self, task: TaskContext) -> FitResult:
        """Add the task's images to the sums and solve for all classes."""
        seen = Seen.of(task, self.summed, self.summed_size, domains=True)
        return replace(self.solved(seen.total.to(CPU), seen.owner), sums=seen.kept())

    def refit(self, state: Tensors, own: TaskSums, after: After) -> FitResult:
        owner = owners(after.class_rows, apart=not after.moves)
        return self.solved(resummed(state, own, owner), owner)

    def solved(self, total: Sums, owner: Int[Tensor, " c"]) -> FitResult:
        """Return the head that the sums give, and the state after them."""
        rows = discriminants(total, owner, self.shrinkage)
        return FitResult(self.part(rows), {"gram": total.gram, "moments": total.moments})

    def part(self, rows: Rows) -> Tensors:
        """Return the tensors of the head."""
        weight, scale = balanced(rows.weight.float())
        return {"head_weight": weight, "head_scale": scale, "head_bias": rows.bias.float()}


@dataclass(frozen=True)
class NamedDiscriminant(Discriminant):
    """The cosine to the embedding of the class name, and a share of the discriminant.

    The order is that of (1 - share) cosine + share discriminant, as a logarithm of densities; the
    sum is over the scale of the second part.
    """

    share: float = 0.1  # of the discriminant, above 0

    def declare(self) -> dict[str, TensorSpec]:
        names = {
            "texts": TensorSpec("c f", {"f": self.width}, concat_axis="c"),
            "text_scale": TensorSpec("one", {"one": 1}, half=False),
        }
        return names | super().declare()

    def enrol(self) -> None:
        """A class is a name and images at once, and a device enrols one of the two."""

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        by_name = self.feature(encoded) @ learned["texts"].T
        return learned["text_scale"] * by_name + super().scores(encoded, learned)

    def part(self, rows: Rows) -> Tensors:
        scale = (1 - self.share) / (self.share * rows.usual)
        return super().part(rows) | {"text_scale": torch.tensor([scale])}

    def unlearned(self, texts: Float[Tensor, "c f"]) -> Tensors:
        """Return the rows of classes that are known by name alone."""
        count = len(texts)
        nothing = {"head_weight": torch.zeros(count, self.size), "head_bias": torch.zeros(count)}
        return nothing | {"texts": texts, "head_scale": torch.ones(count)}
