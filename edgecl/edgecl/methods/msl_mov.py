"""MSL+Mov, Mahalanobis similarities and a moving teacher (Simon et al., CVPR 2022), low-rank.

https://arxiv.org/abs/2203.03970

Injection:  one low-rank term on the keys and values of every block, trained by all tasks.
Matcher:    none.
Classifier: a metric per class: -|L_c (f - mu_c)|^2 + b_c, appended; rows of other tasks are masked
            in the cross-entropy. From the second task on, the softmax over the former rows is
            distilled from a teacher: the exponential moving average of the model's low-rank terms,
            which starts where the former task ended.
Differs from the paper: only its abstract and the caption of figure 3 were read, and there is no
            public code. They name a classifier with Mahalanobis metrics and biases that are learned
            with the backbone, and a distillation by an exponential moving average of the
            parameters. All else is decided here, unverified: low-rank terms instead of all weights;
            a metric's rank and where it starts, of the task's features before its training: mu_c at
            the class mean, L_c at the leading directions of all of them, over their spread; what is
            averaged (not the heads, which are fixed for former rows), its decay and where it
            starts; what is distilled, at which temperature and weight; the mask; the schedule. No
            image of former tasks is kept.
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
from edgecl.methods.shared.two_tower_lora import distilled
from edgecl.optim import Average, TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers.metric import ClassMetrics
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import LoraStack
from edgecl.program.learned import Tensors
from edgecl.program.statistics import class_means

TEACHER = "teacher_"  # before the names of its tensors


@dataclass(frozen=True)
class MslMovConfig(MethodConfig):
    """The ranks, the teacher and the schedule of every task."""

    rank: int = 4  # of the low-rank terms
    metric_rank: int = 16  # r, rows of L_c
    decay: float = 0.999  # of the moving average, per step
    distil: float = 1.0  # weight of the distillation
    temperature: float = 2.0  # of it
    schedule: TrainConfig = TrainConfig("adam", lr=5e-4, epochs=20, batch_size=48)

    def __post_init__(self) -> None:
        at_least(1, "msl-mov", rank=self.rank, metric_rank=self.metric_rank)
        at_least(0, "msl-mov", distil=self.distil)
        if not 0 <= self.decay <= 1 or self.temperature <= 0:
            raise MethodError(
                "msl-mov.decay must be in [0, 1] and msl-mov.temperature above 0, got "
                f"{self.decay} and {self.temperature}. Use 0.999 and 2."
            )


@register
class MslMov(Method[MslMovConfig]):
    """A metric per class on a backbone that is held to its own moving average."""

    name: ClassVar[str] = "msl-mov"
    title: ClassVar[str] = "MSL+Mov from its abstract"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.03970"
    family: ClassVar[str] = "low-rank terms"
    status: ClassVar[Status] = Status(public=False)
    config_type: ClassVar[type[MethodConfig]] = MslMovConfig
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        if config.metric_rank > spec.feature_dim:
            raise MethodError(
                f"msl-mov.metric_rank must be at most {spec.feature_dim}, the width of the "
                f"features, got {config.metric_rank}. Lower it."
            )
        self.lora = LoraStack(spec.width, spec.depth, config.rank)
        self.head = ClassMetrics(spec.feature_dim, config.metric_rank)
        return self.compose(injector=self.lora, classifier=self.head, passes=("injected",))

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start the task's rows from its features under the former tasks' model."""
        model = {name: fresh[name] for name in self.lora.declare()}
        found = task.encode(lambda encoded, _: {"f": self.head.feature(encoded)}, model)["f"]
        means = class_means(found, task.labels, task.classes)
        metric = whitening(found, self.config.metric_rank)
        return fresh | {"centre": means, "metric": metric.repeat(task.classes, 1, 1)}

    def constants(self, task: TaskContext) -> Tensors:
        """Return the teacher, which moves while the task trains."""
        if not task.index:
            return {}
        return {TEACHER + name: task.learned[name].clone() for name in self.lora.declare()}

    def average(self, task: TaskContext, constants: Tensors) -> Average | None:
        """Return the teacher's movement."""
        return MovingTeacher(constants, 1 - self.config.decay) if task.index else None

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, and distillation of the former ones."""
        scores = self.head.scores(batch.encoded, learned)
        former = scores.shape[1] - batch.classes
        loss = F.cross_entropy(scores[:, former:], batch.labels)
        if not former:
            return loss
        model = {name: batch.constants[TEACHER + name] for name in self.lora.declare()}
        teacher = self.head.scores(batch.encode(model), learned).detach()
        rows = teacher[:, :former], scores[:, :former]
        return loss + self.config.distil * distilled(*rows, self.config.temperature).mean()


@dataclass(frozen=True)
class MovingTeacher:
    """Moves the teacher a share of the way to the model after every step."""

    teacher: Tensors
    share: float

    def update(self, tensors: Tensors) -> None:
        for name, tensor in self.teacher.items():
            if name.startswith(TEACHER):
                tensor.lerp_(tensors[name.removeprefix(TEACHER)], self.share)

    def finish(self, tensors: Tensors) -> None:
        pass


def whitening(features: Float[Tensor, "n d"], rank: int) -> Float[Tensor, "r d"]:
    """Return the leading directions of features, each over their spread in it."""
    around = (features - features.mean(dim=0)).double()
    variances, directions = torch.linalg.eigh(around.T @ around / len(around))  # rising
    floor = variances.mean().clamp(min=1e-6)  # few images know little of their spread
    spread = (variances[-rank:] + floor).sqrt()
    return (directions[:, -rank:] / spread).T.flip(0).float()
