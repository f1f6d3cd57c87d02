"""InfLoRA, interference-free low-rank adaptation (Liang and Li, CVPR 2024).

https://arxiv.org/abs/2404.00228

Injection:  a product a b of a small rank per task, added to the keys and values of every block, one
            a for both. Before a task its a is designed, then fixed: the leading directions of what
            enters the attention, without the subspace of the former tasks' inputs, over sqrt(3). So
            the task trains b alone, in a subspace that the former tasks' inputs do not reach.
Matcher:    none.
Classifier: linear on [CLS]; logits of other tasks are masked in training. After a task the subspace
            grows by the leading directions of the task's inputs to the tuned model, until it holds
            a share of their energy that rises with the tasks (DualGPM, Liang and Li, CVPR 2023).
Differs from the paper: its abstract and its public code were read. As there, directions and
            energies are of the second moment H H' of the inputs H, so that an energy is the square
            of one of H's, which the shares are tuned to. The subspace itself is kept, where DualGPM
            keeps the smaller of it and its complement, which changes the bytes alone; the first
            task counts as all others (the code takes one direction less). A direction without
            energy is zero, where a singular vector would be arbitrary and could interfere. Moments
            are of plain images, whatever trains. The number of tasks, over which the share rises,
            is a setting; more tasks keep its last value.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import GrowingLora
from edgecl.program.learned import Tensors

NORM = 3**-0.5  # of a column of a, as one of LoRA's start has on average
NOTHING = 1e-10  # of the largest energy: rounding


@dataclass(frozen=True)
class InfLoRAConfig(MethodConfig):
    """The rank, the energy that the subspace holds and the schedule of every task."""

    rank: int = 10  # r, of one task
    energy: float = 0.95  # epsilon, share of the first task's inputs
    last_energy: float = 1.0  # that of a task after all
    tasks: int = 10  # over which it rises
    schedule: TrainConfig = TrainConfig("adam", lr=5e-4, epochs=20, batch_size=128, quarter=True)

    def __post_init__(self) -> None:
        at_least(1, "inflora", rank=self.rank, tasks=self.tasks)
        if not 0 < self.energy <= self.last_energy <= 1:
            raise MethodError(
                "inflora.energy and inflora.last_energy must be in (0, 1] and rise, got "
                f"{self.energy} and {self.last_energy}. Use 0.95 and 1."
            )

    def share(self, task: int) -> float:
        """Return the share of energy that the subspace holds after a task (from 0)."""
        gone = min(1.0, task / self.tasks)
        return self.energy + (self.last_energy - self.energy) * gone


@register
class InfLoRA(Method[InfLoRAConfig]):
    """Low-rank terms that former tasks do not feel."""

    name: ClassVar[str] = "inflora"
    title: ClassVar[str] = "InfLoRA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.00228"
    family: ClassVar[str] = "low-rank terms"
    status: ClassVar[Status] = Status(steps=1e-4)
    config_type: ClassVar[type[MethodConfig]] = InfLoRAConfig
    augmentation: ClassVar[str] = "coda"
    trains: Trains = "every"

    def build(self) -> Program:
        rank, spec = self.config.rank, self.spec
        if rank > spec.width:
            raise MethodError(
                f"inflora.rank must be at most {spec.width}, the width of the backbone, got {rank}."
                " Lower it."
            )
        return self.compose(
            injector=GrowingLora(spec.width, spec.depth, rank, ("k", "v"), designed=True),
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("injected",),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Design the task's way down."""
        designed = directions(task.moments(), known(task), self.config.rank)
        return fresh | {"lora_a": NORM * designed[None].float()}

    def fit(self, task: TaskContext) -> FitResult:
        """Take the task's inputs into the subspace."""
        grown = widened(task.moments(), known(task), self.config.share(task.index))
        return FitResult({}, {"inputs": grown})


def known(task: TaskContext) -> Float[Tensor, "l d k"]:
    """Return an orthonormal basis of the former tasks' inputs in each block; the rest is zero."""
    if task.index:
        return task.state["inputs"]
    learned = task.learned["lora_a"]
    return learned.new_zeros(*learned.shape[1:3], 0, dtype=torch.float64)


def unknown(
    moments: Float[Tensor, "l d d"], basis: Float[Tensor, "l d k"]
) -> tuple[Float[Tensor, "l d d"], Float[Tensor, "l d"]]:
    """Return the directions of inputs outside a subspace, strongest first, and their strengths."""
    outside = moments - basis @ (basis.mT @ moments)
    left, strengths, _ = torch.linalg.svd(outside)
    return left, strengths


def directions(
    moments: Float[Tensor, "l d d"], basis: Float[Tensor, "l d k"], rank: int
) -> Float[Tensor, "l d r"]:
    """Return the leading directions of inputs outside a subspace; zero where none is left."""
    left, strengths = unknown(moments, basis)
    there = strengths > NOTHING * torch.linalg.matrix_norm(moments, 2)[:, None]
    return (left * there[:, None, :])[..., :rank]


def widened(
    moments: Float[Tensor, "l d d"], basis: Float[Tensor, "l d k"], share: float
) -> Float[Tensor, "l d j"]:
    """Return a subspace with as few more directions as hold a share of the inputs' energy."""
    left, strengths = unknown(moments, basis)
    total = moments.square().sum(dim=(-2, -1))[:, None]
    new = strengths.square()
    before = total - new.sum(dim=-1, keepdim=True) + new.cumsum(dim=-1) - new  # each direction's
    missing = (before < share * total) & (strengths > NOTHING * total.sqrt())  # l d
    every = torch.cat([basis, left * missing[:, None, :]], dim=-1)
    there = every.square().sum(dim=-2) > 0  # l k
    order = there.sort(dim=-1, descending=True, stable=True).indices
    most = int(there.sum(dim=-1).max())
    return every.gather(-1, order[:, None, :most].expand(-1, every.shape[1], -1))
