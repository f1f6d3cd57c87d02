"""How tensors are trained: configuration, schedule, average, step, optimiser, check of an epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from edgecl.errors import MethodError


@dataclass(frozen=True)
class Later:
    """What the schedule of the first task has otherwise in later ones; None: nothing."""

    lr: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    milestones: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How one task is trained. A new optimiser is made for every task."""

    optimizer: Literal["sgd", "adam", "adamw", "badam"] = "sgd"  # sgd, adam, adamw or badam
    lr: float = 0.01  # the rate at the start
    epochs: int = 20  # passes over the task's images
    batch_size: int = 48  # images of a step
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0  # on the tensors that are trained in this task only
    cosine: bool = True  # anneal to `lr_min` over the task, else constant
    clip: float | None = None  # largest norm of the gradient
    min_steps: int = 0  # a task of few images gets more epochs, until it has so many steps
    betas: tuple[float, ...] = (0.9, 0.999)  # adam, adamw
    amsgrad: bool = False  # adam, adamw
    warm_up: int = 0  # epochs at the start in which the rate rises linearly
    lr_min: float = 0.0  # of the cosine
    quarter: bool = False  # a quarter of the cosine's period after a full epoch: CODA-Prompt's code
    milestones: tuple[int, ...] = ()  # epochs (of `epochs`) at which the rate falls by `gamma`
    gamma: float = 0.1  # what a milestone multiplies the rate by
    draws: int = 10  # of the weights in a step of badam, whose state goes on from task to task
    spread: float = 0.01  # of the weights before badam's first step
    summed: bool = False  # badam: gradients are of the sum over a batch, else of its mean
    clients: int = 1  # simulated: each has a part of the images, and they are averaged (FedAvg)
    local_steps: int = 5  # batches of a client between two averages
    bits: int = 0  # most bits that tasks may fix of a weight that all train (BLIP); 0: without
    later: Later = Later()  # what tasks after the first have otherwise

    def __post_init__(self) -> None:
        wanted = {
            "epochs": (self.epochs >= 0, ">= 0"),
            "batch_size": (self.batch_size >= 1, ">= 1"),
            "lr": (self.lr > 0, "> 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (self.weight_decay >= 0, ">= 0"),
            "clip": (self.clip is None or self.clip > 0, "> 0 or none"),
            "min_steps": (self.min_steps >= 0, ">= 0"),
            "betas": (
                len(self.betas) == 2 and all(0 <= each < 1 for each in self.betas),
                "two numbers in [0, 1)",
            ),
            "warm_up": (self.warm_up >= 0, ">= 0"),
            "lr_min": (
                0 <= self.lr_min <= self.lr and (self.cosine or not self.lr_min),
                "in [0, lr], and 0 without cosine",
            ),
            "quarter": (
                not self.quarter or (self.cosine and not self.lr_min),
                "false without cosine, and beside lr_min",
            ),
            "milestones": (
                not self.milestones
                or (
                    not self.cosine
                    and self.milestones[0] > self.warm_up
                    and list(self.milestones) == sorted(set(self.milestones))
                ),
                "rising epochs after the warm-up, beside cosine=false",
            ),
            "gamma": (self.gamma > 0, "> 0"),
            "draws": (self.draws >= 1, ">= 1"),
            "spread": (self.spread >= 0, ">= 0"),
            "clients": (
                self.clients >= 1
                and not (self.clients > 1 and (self.bits or self.optimizer == "badam")),
                ">= 1, and 1 beside bits or badam",
            ),
            "local_steps": (self.local_steps >= 1, ">= 1"),
            "bits": (0 <= self.bits <= 24, "in [0, 24], those of a float32"),
            "optimizer": (
                self.optimizer != "badam" or not (self.weight_decay or self.amsgrad),
                "other than badam beside weight_decay or amsgrad",
            ),
        }
        wrong = [
            f"{name} {rule}, got {getattr(self, name)}"
            for name, (holds, rule) in wanted.items()
            if not holds
        ]
        if wrong:
            raise MethodError(
                f"A schedule needs {'; '.join(wrong)}. Set them with --set schedule.NAME=VALUE."
            )
        self.of(1)  # which is checked as well

    def of(self, task: int) -> "TrainConfig":
        """Return the schedule of a task (from 0)."""
        given = {name: value for name, value in vars(self.later).items() if value is not None}
        return replace(self, **given, later=Later()) if task and given else self

    def lr_setting(self, task: int) -> str:
        """Return the setting that a task's learning rate is from."""
        return "schedule.later.lr" if task and self.later.lr else "schedule.lr"

    def epochs_for(self, images: int) -> int:
        """Return the epochs of a task: `epochs`, or as many as `min_steps` asks for."""
        steps = math.ceil(images / self.batch_size)
        if not self.epochs or not steps:
            return self.epochs
        return max(self.epochs, math.ceil(self.min_steps / steps))


@dataclass(frozen=True)
class Schedule:
    """How the tensors of one task are trained.

    Attributes:
        rates: factors on the learning rate by tensor, 1 where absent.
        frozen_epochs: epochs at the start in which a tensor has no gradient and no decay, 0 where
            absent. Features are cached while the whole injection is frozen.
    """

    train: TrainConfig
    rates: Mapping[str, float] = field(default_factory=dict)
    frozen_epochs: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Average(Protocol):
    """A moving average of what one task trains; it changes tensors in place."""

    def update(self, tensors: dict[str, Tensor]) -> None:
        """Take in what a step of the optimiser left."""

    def finish(self, tensors: dict[str, Tensor]) -> None:
        """Write the result after the last step; the tensors are then final."""


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
    schedule: TrainConfig, leaves: list[Tensor], rates: Sequence[float] = ()
) -> torch.optim.Optimizer:
    """Make the task's optimiser.

    Args:
        rates: a factor on the learning rate per leaf; none for 1 everywhere.

    Raises:
        MethodError: if it is badam, which needs the loss of a task's images (learning.policies).
    """
    if schedule.optimizer == "badam":
        raise MethodError(
            "badam trains the tensors of a task by its images, got another training, of pseudo "
            "features. Use --set schedule.optimizer=adam."
        )
    groups: dict[float, list[Tensor]] = {}
    for leaf, rate in zip(leaves, rates or [1.0] * len(leaves), strict=True):
        groups.setdefault(rate, []).append(leaf)
    parts = [{"params": some, "lr": schedule.lr * rate} for rate, some in groups.items()]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(
            parts, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    first, second = schedule.betas
    return kind(
        parts,
        lr=schedule.lr,
        betas=(first, second),
        weight_decay=schedule.weight_decay,
        amsgrad=schedule.amsgrad,
    )


def make_annealing(
    optimizer: torch.optim.Optimizer, schedule: TrainConfig, epochs: int
) -> LRScheduler:
    """Make what changes the rate after each epoch.

    Args:
        epochs: of this task, which `min_steps` may have raised; milestones move in proportion.
    """
    rest = max(1, epochs - schedule.warm_up)
    after: LRScheduler
    if schedule.milestones:
        scale = epochs / max(1, schedule.epochs)
        moved = [round(scale * each) - schedule.warm_up for each in schedule.milestones]
        after = MultiStepLR(optimizer, moved, schedule.gamma)
    elif schedule.quarter:  # the counter of CODA-Prompt's code stays at 0 for a second epoch
        step = 99 * math.pi / (200 * max(1, rest - 1))
        after = LambdaLR(optimizer, lambda epoch: math.cos(step * max(0, epoch - 1)))
    elif schedule.cosine:
        after = CosineAnnealingLR(optimizer, rest, schedule.lr_min)
    else:
        after = LambdaLR(optimizer, lambda _: 1.0)
    if not schedule.warm_up:
        return after
    rise = LinearLR(optimizer, 1 / (schedule.warm_up + 1), total_iters=schedule.warm_up)
    return SequentialLR(optimizer, [rise, after], [schedule.warm_up])


def check_finite(
    tensors: Mapping[str, Tensor], what: str, lr: float, setting: str = "schedule.lr"
) -> None:
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
