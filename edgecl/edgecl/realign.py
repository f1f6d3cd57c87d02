"""Linear heads that are trained again on features drawn from statistics of all classes.

A class is kept as one normal distribution with independent features.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.learned import Tensors
from edgecl.methods.base import Schedule
from edgecl.statistics import class_means, class_variances, pseudo_features
from edgecl.training import make_optimizer

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
    schedule: Schedule,
    generator: torch.Generator,
    through: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Train a head on pseudo-features of all its classes, as many of each.

    Args:
        schedule: an epoch draws a batch of fresh features per class.
        through: what makes the head's input of a feature, None where that is the feature itself; it
            is not trained.
    """
    head = [tensor.detach().clone().requires_grad_() for tensor in (weight, bias)]
    optimizer = make_optimizer(schedule, head)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, schedule.epochs))
    for _ in range(schedule.epochs):
        features, rows = pseudo_features(means, variances, schedule.batch_size, generator)
        with torch.no_grad():
            inputs = features if through is None else through(features)
        for batch in torch.randperm(len(rows), generator=generator).split(schedule.batch_size):
            loss = F.cross_entropy(F.linear(inputs[batch], *head), rows[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if schedule.cosine:
            annealing.step()
    return head[0].detach(), head[1].detach()
