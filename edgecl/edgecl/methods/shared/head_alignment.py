"""Classifier alignment: heads are trained again on features drawn from all classes.

A class is stored as a Gaussian with its full covariance (`Gaussians`, `aligned`), or with
independent features (`with_classes`, `realigned`).

Zhang et al., SLCA, ICCV 2023, https://arxiv.org/abs/2303.05118. A class is stored as one Gaussian
with its full covariance: 4 d (d + 1) bytes that stay on the workstation. They are gathered with the
model of the class's own task and not again, as no old image is at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.shared.feature_training import trained_on_draws
from edgecl.optim import TrainConfig
from edgecl.program.learned import Tensors
from edgecl.program.statistics import (
    cholesky_factors,
    class_covariances,
    class_means,
    class_variances,
    correlated_features,
    pseudo_features,
)

Head: TypeAlias = tuple[Tensor, Tensor]  # weight [c, d] and bias [c]
Draw: TypeAlias = Callable[[], tuple[Tensor, Tensor]]  # features [n, d] and their rows [n]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of logits [b, c] and rows [b]
Logits: TypeAlias = Callable[[Tensor, Tensors], Tensor]  # of features [b, f] and what is trained
FLOOR = 1e-4  # added to every variance
SHRINK = 0.1  # what the oldest of very many tasks loses of its means


@dataclass(frozen=True, eq=False)
class Gaussians:
    """The Gaussian of every class row of the head."""

    means: Float[Tensor, "c d"]
    covariances: Float[Tensor, "c d d"]
    tasks: Int[Tensor, " c"]  # that brought the row, from 0

    @classmethod
    def of(
        cls, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, task: int
    ) -> "Gaussians":
        """Gather those of a task's classes."""
        return cls(
            class_means(features, labels, classes),
            class_covariances(features, labels, classes),
            torch.full((classes,), task),
        )

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "Gaussians":
        """Read what `to_tensors` returned."""
        return cls(tensors["means"], tensors["covariances"], tensors["tasks"])

    def to_tensors(self) -> Tensors:
        return {"means": self.means, "covariances": self.covariances, "tasks": self.tasks}

    def plus(self, newer: "Gaussians") -> "Gaussians":
        """Append the rows of a newer task."""
        return Gaussians(
            torch.cat([self.means, newer.means]),
            torch.cat([self.covariances, newer.covariances]),
            torch.cat([self.tasks, newer.tasks]),
        )

    def shrunk(self) -> Float[Tensor, "c d"]:
        """Return the means, those of older tasks shorter: times 0.9 + 0.1 t / T with t from 1."""
        age = (self.tasks + 1) / (self.tasks.max() + 1)
        return self.means * (1 - SHRINK + SHRINK * age)[:, None]


def normalised_cross_entropy(tasks: Int[Tensor, " c"], temperature: float) -> Loss:
    """Return the cross-entropy of logits over their norm and a temperature, as SLCA has it.

    The norm is the mean over the tasks of the norm of each task's logits.
    """

    def loss(logits: Float[Tensor, "b c"], rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        norms = [logits[:, tasks == task].norm(dim=1) for task in tasks.unique()]
        scale = torch.stack(norms).mean(dim=0).clamp(min=1e-7)
        return F.cross_entropy(logits / (temperature * scale[:, None]), rows)

    return loss


def trained_again(
    start: Tensors,
    logits: Logits,
    draw: Draw,
    schedule: TrainConfig,
    generator: torch.Generator,
    loss: Loss = F.cross_entropy,
) -> Tensors:
    """Train the tensors of a head on drawn features; return them as they end.

    Args:
        draw: fresh features for an epoch.
    """

    def drawn() -> Tensors:
        features, rows = draw()
        return {"features": features, "rows": rows}

    def of(leaves: Tensors, some: Tensors) -> Tensor:
        return loss(logits(some["features"], leaves), some["rows"])

    return trained_on_draws(start, drawn, schedule, generator, of)


def linear(features: Float[Tensor, "b f"], head: Tensors) -> Float[Tensor, "b c"]:
    """Return the logits of a linear head, `head_weight` [c, f] and `head_bias` [c]."""
    return F.linear(features, head["head_weight"], head["head_bias"])


def aligned(
    head: Head,
    known: Gaussians,
    schedule: TrainConfig,
    temperature: float,
    generator: torch.Generator,
) -> Head:
    """Align a head with the Gaussians of all its rows.

    Args:
        schedule: an epoch draws `batch_size` features of every row.
    """
    means, factors = known.shrunk(), cholesky_factors(known.covariances)
    found = trained_again(
        dict(zip(("head_weight", "head_bias"), head, strict=True)),
        linear,
        lambda: correlated_features(means, factors, schedule.batch_size, generator),
        schedule,
        generator,
        normalised_cross_entropy(known.tasks, temperature),
    )
    return found["head_weight"], found["head_bias"]


def with_classes(
    state: Tensors, name: str, features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], count: int
) -> Tensors:
    """Return the statistics `name` of the former classes and of this task's `count`."""
    means = class_means(features, labels, count)
    new = {
        f"{name}_means": means,
        f"{name}_variances": class_variances(features, labels, means) + FLOOR,
    }
    return {
        key: torch.cat([state[key], rows]) if key in state else rows for key, rows in new.items()
    }


def realigned(
    start: Tensors,
    logits: Logits,
    means: Float[Tensor, "c f"],
    variances: Float[Tensor, "c f"],
    schedule: TrainConfig,
    generator: torch.Generator,
) -> Tensors:
    """Train the tensors of a head on pseudo-features of all its classes, as many of each.

    Args:
        schedule: an epoch draws a batch of fresh features per class.
    """

    def draw() -> tuple[Tensor, Tensor]:
        return pseudo_features(means, variances, schedule.batch_size, generator)

    return trained_again(start, logits, draw, schedule, generator)
