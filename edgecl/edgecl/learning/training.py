"""The gradient loop of one task: methods bring the loss, the rest is here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from edgecl.learning.activations import Activations
from edgecl.methods.base import Batch, Method
from edgecl.optim import check_finite, descend, make_optimizer
from edgecl.program.fitting import TaskContext
from edgecl.program.forward import BackboneModel, encode
from edgecl.program.learned import Tensors, with_part
from edgecl.progress import Reporter


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    device: torch.device
    bfloat16: bool = False  # autocast in training; evaluation and features are float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """On a CPU, sum in one order: prompts picked by several images get theirs from threads."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(before or self.device.type == "cpu")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def train_task(
    method: Method,
    backbone: BackboneModel,
    normalise: Callable[[Tensor], Tensor],
    task: TaskContext,
    start: Tensors,
    images: UInt8[Tensor, "n h w 3"],
    compute: Compute,
    reporter: Reporter,
) -> Tensors:
    """Train one task and return its part, and the ends of the local tensors.

    Rows of former tasks are not leaves: no gradient, no decay and no stale moment of an optimiser
    can move them.

    Args:
        task: what there was in front of it.
        start: the task's tensors; those that are not declared as trained stay as they are.
        images: the task's, preprocessed, and those that the run remembers.

    A training that diverges is a MethodError.
    """
    declared = method.declare()
    part = {name: tensor for name, tensor in start.items() if declared[name].trained}
    local = {
        name: task.state[name].clone()
        if name in task.state
        else item.init(item.shape(task.classes), task.generator)
        for name, item in method.local().items()
    }
    schedule = method.schedule
    assert schedule is not None, f"{method.name} trains but has no schedule"
    leaves = {name: t.to(compute.device).requires_grad_() for name, t in (part | local).items()}
    fixed = {name: tensor for name, tensor in start.items() if name not in part}
    prior = with_part(declared, task.learned, fixed)
    prior = {name: tensor.to(compute.device) for name, tensor in prior.items()}
    with torch.no_grad():
        kept = task.state | method.constants(task)
    kept = {name: tensor.to(compute.device) for name, tensor in kept.items()}
    rates = method.rates(task.index)
    optimizer = make_optimizer(
        schedule, list(leaves.values()), [rates.get(name, 1.0) for name in leaves]
    )
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, schedule.epochs))
    trained = {name: leaves[name] for name in part}
    count = len(task.labels)
    activations = Activations(backbone, normalise, images, compute.device, compute.bfloat16)
    matching = method.matcher.declare().keys()
    title = f"training, {schedule.epochs} epochs"
    with compute.repeatable(), reporter.bar(title, schedule.epochs * count) as advance:
        for epoch in range(schedule.epochs):
            for name in method.injector.declare().keys() & trained.keys():
                trained[name].requires_grad_(not method.frozen(task.index, epoch))
            order = torch.randperm(count, generator=task.generator)
            for rows in order.split(schedule.batch_size):
                made = trained | method.parametrize(leaves, task)
                learned = with_part(declared, prior, made)
                match_is_constant = not any(
                    learned[name].requires_grad for name in matching & learned.keys()
                )
                plain = task.plain
                if plain is not None:
                    plain = plain.select(rows).map(lambda f: f.to(compute.device))
                with compute.autocast():
                    encoded = encode(
                        method, activations.of(rows, match_is_constant),
                        activations.no_pixels(rows), learned,
                        plain, own=True, branch=method.trained_branch,
                    )  # fmt: skip
                    labels = task.labels[rows].to(compute.device)
                    loss = method.loss(
                        Batch(encoded, labels, task.classes, kept, rows),
                        learned | {n: leaves[n] for n in local},
                    )
                descend(loss, optimizer, schedule.clip)
                with torch.no_grad():
                    method.after_step(task.index, kept | leaves)
                advance(len(rows))
            check_finite(leaves, method.name, schedule.lr)
            if schedule.cosine:
                annealing.step()
    with torch.no_grad():
        method.settle(task.index, kept | leaves)
        ends = leaves | method.parametrize(leaves, task)
    return fixed | {name: tensor.detach().cpu() for name, tensor in ends.items()}
