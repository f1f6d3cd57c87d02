"""Linear heads that are trained again on features drawn from statistics of all classes.

A class is kept as one normal distribution with independent features.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.methods.shared.alignment import trained_again
from edgecl.optim import TrainConfig
from edgecl.program.learned import Tensors
from edgecl.program.statistics import class_means, class_variances, pseudo_features

FLOOR = 1e-4  # added to every variance


def with_classes(
    kept: Tensors, name: str, features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], count: int
) -> Tensors:
    """Return the statistics `name` of the former classes and of this task's `count`."""
    means = class_means(features, labels, count)
    new = {
        f"{name}_means": means,
        f"{name}_variances": class_variances(features, labels, means) + FLOOR,
    }
    return {key: torch.cat([kept[key], rows]) if key in kept else rows for key, rows in new.items()}


def realigned(
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"],
    means: Float[Tensor, "c f"],
    variances: Float[Tensor, "c f"],
    schedule: TrainConfig,
    generator: torch.Generator,
    through: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Train a head on pseudo-features of all its classes, as many of each.

    Args:
        schedule: an epoch draws a batch of fresh features per class.
        through: what makes the head's input of a feature, None where that is the feature itself; it
            is not trained.
    """

    @torch.no_grad()
    def draw() -> tuple[Tensor, Tensor]:
        features, rows = pseudo_features(means, variances, schedule.batch_size, generator)
        return features if through is None else through(features), rows

    return trained_again((weight, bias), draw, schedule, generator)
