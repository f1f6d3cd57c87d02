"""Training of one matrix on features that are computed once."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.optim import TrainConfig, check_finite, descend, make_annealing, make_optimizer
from edgecl.program.fitting import TaskContext

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of the matrix and the batch's images


def trained_on_features(
    start: Float[Tensor, "i o"], task: TaskContext, config: TrainConfig, loss: Loss, name: str
) -> Float[Tensor, "i o"]:
    """Return a matrix after its training.

    Args:
        config: of all tasks.
        name: of the method, for the error of a training that diverges.
    """
    schedule, images = config.of(task.index), len(task.labels)
    leaf = start.clone().requires_grad_()
    optimizer = make_optimizer(schedule, [leaf])
    epochs = schedule.epochs_for(images)
    annealing = make_annealing(optimizer, schedule, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(images, generator=task.generator).split(schedule.batch_size):
            descend(loss(leaf, batch), optimizer, schedule.clip)
        check_finite({"matrix": leaf}, name, schedule.lr, config.lr_setting(task.index))
        annealing.step()
    return leaf.detach()
