"""The gradient loop of one task: methods bring the loss, the rest is here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from edgecl.backbones.vit import Features
from edgecl.learned import Learned, Tensors
from edgecl.methods.base import Batch, Method, Schedule
from edgecl.program import BackboneModel, encode
from edgecl.progress import Reporter


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    device: torch.device
    bfloat16: bool = False  # autocast in training; evaluation and features are float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


@dataclass(frozen=True)
class TaskData:
    """One task's preprocessed images, their rows inside the task, and their frozen features."""

    images: UInt8[Tensor, "n h w 3"]
    labels: Int[Tensor, " n"]
    plain: Features | None


def start_part(
    declared: dict[str, Learned],
    prior: Tensors,
    classes: int,
    generator: torch.Generator,
    trained: bool,
) -> Tensors:
    """Return a new task's tensors before training: fresh rows, or the former tensor."""
    part: Tensors = {}
    for name, item in declared.items():
        if not (item.trained and trained):
            continue
        if item.dim is None and name in prior:
            part[name] = prior[name].clone()
        else:
            part[name] = item.init(item.shape(classes), generator)
    return part


def with_part(declared: dict[str, Learned], prior: Tensors, part: Tensors) -> Tensors:
    """Return the learned tensors that the former tasks and this part make."""
    learned = dict(prior)
    for name, tensor in part.items():
        dim = declared[name].dim
        learned[name] = tensor if dim is None else torch.cat([prior[name], tensor], dim=dim)
    return learned


def make_optimizer(schedule: Schedule, leaves: list[Tensor]) -> torch.optim.Optimizer:
    """Make the task's optimiser."""
    if schedule.optimizer == "adam":
        return torch.optim.Adam(leaves, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        leaves, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )


def train_task(
    method: Method,
    backbone: BackboneModel,
    normalise: Callable[[Tensor], Tensor],
    prior: Tensors,
    data: TaskData,
    classes: int,
    generator: torch.Generator,
    compute: Compute,
    reporter: Reporter,
) -> Tensors:
    """Train one task and return its part.

    Rows of former tasks are not leaves: no gradient, no decay and no stale moment of an optimiser
    can move them.
    """
    declared = method.declare()
    part = start_part(declared, prior, classes, generator, trained=True)
    local = {
        name: item.init(item.shape(classes), generator) for name, item in method.local().items()
    }
    schedule = method.schedule
    assert schedule is not None, f"{method.name} trains but has no schedule"
    leaves = {name: t.to(compute.device).requires_grad_() for name, t in (part | local).items()}
    prior = {name: tensor.to(compute.device) for name, tensor in prior.items()}
    optimizer = make_optimizer(schedule, list(leaves.values()))
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, schedule.epochs))
    trained = {name: leaves[name] for name in part}
    count = len(data.labels)
    with reporter.bar(f"training, {schedule.epochs} epochs", schedule.epochs * count) as advance:
        for _ in range(schedule.epochs):
            order = torch.randperm(count, generator=generator)
            for rows in order.split(schedule.batch_size):
                learned = with_part(declared, prior, trained)
                plain = data.plain
                if plain is not None:
                    plain = Features(*(f[rows].to(compute.device) for f in plain))
                with compute.autocast():
                    pixels = normalise(data.images[rows].to(compute.device))
                    encoded = encode(method, backbone, pixels, learned, plain)
                    labels = data.labels[rows].to(compute.device)
                    loss = method.loss(
                        Batch(encoded, labels, classes), learned | {n: leaves[n] for n in local}
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if schedule.clip is not None:
                    torch.nn.utils.clip_grad_norm_(list(leaves.values()), schedule.clip)
                optimizer.step()
                advance(len(rows))
            if schedule.cosine:
                annealing.step()
    return {name: tensor.detach().cpu() for name, tensor in trained.items()}
