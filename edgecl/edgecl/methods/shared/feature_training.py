"""Training on features alone: of one matrix on those of images, of any tensors on drawn ones."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.optim import TrainConfig, check_finite, descend, make_annealing, make_optimizer
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors

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


def trained_on_draws(
    start: Tensors,
    draw: Callable[[], Tensors],
    schedule: TrainConfig,
    generator: torch.Generator,
    loss: Callable[[Tensors, Tensors], Tensor],
) -> Tensors:
    """Train tensors on what is drawn.

    Args:
        draw: fresh draws for an epoch, in tensors of as many rows.
        loss: of the tensors and some of the draws.
    """
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in start.items()}
    if schedule.epochs:
        optimizer = make_optimizer(schedule, list(leaves.values()))
        drawn = draw()
        count = len(next(iter(drawn.values())))
        epochs = schedule.epochs_for(count)
        annealing = make_annealing(optimizer, schedule, epochs)
        for epoch in range(epochs):
            if epoch:
                drawn = draw()
            for batch in torch.randperm(count, generator=generator).split(schedule.batch_size):
                some = {name: rows[batch] for name, rows in drawn.items()}
                descend(loss(leaves, some), optimizer, schedule.clip)
            annealing.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}
