"""How tensors are trained: configuration, schedule, average, step, optimiser, check of an epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.errors import MethodError


@dataclass(frozen=True)
class TrainConfig:
    """How one task is trained. A new optimiser is made for every task."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01  # at the start
    epochs: int = 20
    batch_size: int = 48
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0  # on the tensors that are trained in this task only
    cosine: bool = True  # anneal to zero over the task, else constant
    clip: float | None = None  # largest norm of the gradient

    def __post_init__(self) -> None:
        wanted = {
            "epochs": self.epochs >= 0,
            "batch_size": self.batch_size >= 1,
            "lr": self.lr > 0,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "clip": self.clip is None or self.clip > 0,
        }
        wrong = [f"{name}={getattr(self, name)}" for name, holds in wanted.items() if not holds]
        if wrong:
            raise MethodError(
                "A schedule needs epochs >= 0, batch_size >= 1, lr > 0, momentum in [0, 1), "
                f"weight_decay >= 0 and clip > 0 or none, got {', '.join(wrong)}. "
                "Set them with --set schedule.NAME=VALUE."
            )


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
