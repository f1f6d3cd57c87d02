"""SLCA, slow learner with classifier alignment (Zhang et al., ICCV 2023), on low-rank terms.

https://arxiv.org/abs/2303.05118; low-rank terms and the symmetric loss are those of SLCA++
(https://arxiv.org/abs/2408.08295).

Injection:  a low-rank term on the queries, keys and values of every block, trained slowly by
            all tasks: half the head's learning rate in the first, a tenth in the others.
Matcher:    none.
Classifier: linear on [CLS]; from the second task on all rows are trained again on features drawn
            from one Gaussian per row; the next task goes on from the head before that.
Differs from the paper: the backbone is frozen, so the low-rank terms alone are trained (SLCA trains
            all weights, SLCA++ also norms, biases, [CLS] and the MLPs' low-rank terms) and ship
            with every task, with the whole head; queries, keys and values have a way down each,
            which starts at random, and no factor of 0.8; rates fall to 0 (SLCA++: to 1e-4); one way
            of shrinking old means, SLCA's; a class that comes back in another domain has a Gaussian
            and a row in each. Weights of both losses are those of CIFAR-100 and CUB-200 by default.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.head_alignment import Gaussians, aligned
from edgecl.optim import Schedule, TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import LoraStack
from edgecl.program.learned import Tensors

WRONG = 1e-4  # the probability that the reversed loss takes a wrong class for
HEAD = ("head_weight", "head_bias")


@dataclass(frozen=True)
class SLCAConfig(MethodConfig):
    """The low-rank terms, the learning rates, the loss and both schedules."""

    rank: int = 4  # r, of the low-rank terms
    first_rate: float = 0.5  # of theirs over the head's learning rate, in the first task
    slow_rate: float = 0.1  # in all others
    cross: float = 1.0  # weight of the cross-entropy; 0.5 in SLCA++ on Cars and ImageNet-R
    reverse: float = 0.1  # of the reversed one; 0.5 there
    temperature: float = 0.1  # tau, of the alignment
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.01, epochs=20, batch_size=128, weight_decay=5e-4
    )
    align: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=5, batch_size=256, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "slca", rank=self.rank)
        at_least(0, "slca", cross=self.cross, reverse=self.reverse)
        if min(self.first_rate, self.slow_rate, self.temperature) <= 0:
            raise MethodError(
                "slca.first_rate, slca.slow_rate and slca.temperature must be above 0, got "
                f"{self.first_rate}, {self.slow_rate} and {self.temperature}. Raise it."
            )


@register
class SLCA(Method[SLCAConfig]):
    """A slow representation, and a head that is aligned after every task."""

    name: ClassVar[str] = "slca"
    title: ClassVar[str] = "SLCA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.05118"
    family: ClassVar[str] = "low-rank terms"
    status: ClassVar[Status] = Status(steps=8e-6)
    config_type: ClassVar[type[MethodConfig]] = SLCAConfig
    augmentation: ClassVar[str] = "hide"
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        self.stack = LoraStack(spec.width, spec.depth, config.rank, ("q", "k", "v"))
        return self.compose(
            injector=self.stack,
            classifier=Linear(spec.feature_dim, on="cls", replaced=True),
            passes=("injected",),
        )

    def schedule(self, task: int) -> Schedule:
        """Train the low-rank terms more slowly than the head."""
        slow = self.config.slow_rate if task else self.config.first_rate
        train = self.config.schedule.of(task)
        return Schedule(train, rates=dict.fromkeys(self.stack.declare(), slow))

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Go on from the head before its alignment."""
        return fresh | self._unaligned(task, fresh)

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Symmetric cross-entropy over the task's rows (Wang et al., ICCV 2019)."""
        scores = self.current_logits(batch, learned)
        right = scores.softmax(dim=-1).gather(1, batch.labels[:, None])
        reverse = (right - 1).mean() * torch.tensor(WRONG).log()
        cross = F.cross_entropy(scores, batch.labels)
        return self.config.cross * cross + self.config.reverse * reverse

    def fit(self, task: TaskContext) -> FitResult:
        """Keep the task's Gaussians and the head, and align it from the second task on."""
        head_of = self.program.classifier
        features = task.encode(lambda encoded, _: {"feature": head_of.feature(encoded)})["feature"]
        known = Gaussians.of(features, task.labels, task.classes, task.index)
        head = self._unaligned(task, task.learned)
        if not task.index:
            return FitResult({}, {**known.to_tensors(), **head})
        known = Gaussians.from_tensors(task.state).plus(known)
        own = head["head_weight"], head["head_bias"]
        schedule = self.config.align.of(task.index)
        ships = aligned(own, known, schedule, self.config.temperature, task.generator)
        return FitResult(dict(zip(HEAD, ships, strict=True)), {**known.to_tensors(), **head})

    def _unaligned(self, task: TaskContext, tensors: Tensors) -> Tensors:
        """Return a head with the rows of former tasks as their own tasks left them."""
        former = len(task.class_rows) - task.classes
        return {
            name: torch.cat([task.state[name], tensors[name][former:]])
            if former
            else tensors[name].clone()
            for name in HEAD
        }
