"""The gradient loop of one task: methods bring the loss, the rest is here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from edgecl.learning.activations import Activations
from edgecl.methods.base import Batch, Method, MethodError, Schedule
from edgecl.program.fitting import TaskView
from edgecl.program.forward import BackboneModel, encode
from edgecl.program.learned import Learned, Tensors
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


def start_part(
    declared: dict[str, Learned],
    prior: Tensors,
    classes: int,
    generator: torch.Generator,
    trained: bool,
) -> Tensors:
    """Return a new task's tensors before training: fresh rows, or the former tensor.

    A replaced head keeps the rows of the former tasks and gets fresh ones; what is kept once is in
    the first task's part only.
    """
    part: Tensors = {}
    for name, item in declared.items():
        if item.counts:
            part[name] = item.count(classes)
        if not (item.trained and trained) or (item.once and name in prior):
            continue
        if item.dim is None and name in prior:
            rows = [item.init(item.shape(classes), generator)] if item.whole else []
            axis = item.axis_names.index("c") if item.whole else 0
            part[name] = torch.cat([prior[name], *rows], dim=axis)
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


def descend(
    loss: Float[Tensor, ""], optimizer: torch.optim.Optimizer, clip: float | None = None
) -> None:
    """Take one step down; `clip` bounds the norm of the gradient over all that is optimised."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        groups = optimizer.param_groups
        torch.nn.utils.clip_grad_norm_([leaf for each in groups for leaf in each["params"]], clip)
    optimizer.step()


def make_optimizer(
    schedule: Schedule, leaves: list[Tensor], rates: Sequence[float] = ()
) -> torch.optim.Optimizer:
    """Make the task's optimiser.

    Args:
        rates: a factor on the learning rate per leaf; none for 1 everywhere.
    """
    groups: dict[float, list[Tensor]] = {}
    for leaf, rate in zip(leaves, rates or [1.0] * len(leaves), strict=True):
        groups.setdefault(rate, []).append(leaf)
    parts = [{"params": some, "lr": schedule.lr * rate} for rate, some in groups.items()]
    if schedule.optimizer == "adam":
        return torch.optim.Adam(parts, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        parts, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )


def train_task(
    method: Method,
    backbone: BackboneModel,
    normalise: Callable[[Tensor], Tensor],
    task: TaskView,
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
        name: task.kept[name].clone()
        if name in task.kept
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
        kept = task.kept | method.prepare(task)
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
                made = trained | method.derived(leaves, task)
                learned = with_part(declared, prior, made)
                steady = not any(learned[name].requires_grad for name in matching & learned.keys())
                plain = task.plain
                if plain is not None:
                    plain = plain.rows(rows).map(lambda f: f.to(compute.device))
                with compute.autocast():
                    encoded = encode(
                        method, activations.of(rows, steady), activations.no_pixels(rows), learned,
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
        ends = leaves | method.derived(leaves, task)
    return fixed | {name: tensor.detach().cpu() for name, tensor in ends.items()}


def check_finite(tensors: Tensors, what: str, lr: float, setting: str = "schedule.lr") -> None:
    """Check what an epoch left.

    Args:
        what: was trained.
        lr: the learning rate.
        setting: its name in the configuration.

    Raises:
        MethodError: if a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise MethodError(
                f"The training of {what} must stay finite, but {name} holds NaN or infinity "
                f"at the learning rate {lr:g}. Lower it: --set {setting}={lr / 10:g}; the tasks "
                "before this one are kept."
            )
