"""Single head: one linear head that all tasks train, as BAdam is evaluated (Kessler et al., 2023).

https://arxiv.org/abs/2309.08546

Injection:  none.
Matcher:    none.
Classifier: linear on the frozen [CLS]; every task trains all rows, by the cross-entropy over all
            classes so far. No task is told apart: what comes last overwrites what was before, which
            is what `schedule.optimizer=badam` and `schedule.bits` are held against. A class that
            comes back goes on from its row; the former one no longer counts.
Differs from the paper: a protocol, of which the abstract was read: single head, task-free. There a
            whole small network is trained, here a head on a frozen backbone, whose rows come with
            their classes. Images come in epochs of their task, or once with `--protocol online`.
            The schedule is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class SingleHeadConfig(MethodConfig):
    """The schedule of every task."""

    schedule: TrainConfig = TrainConfig("adam", lr=0.01, epochs=20, batch_size=48, cosine=False)


class PlainHead(Linear):
    """A linear head on the frozen feature."""

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return encoded.features("plain").cls


@register
class SingleHead(Method[SingleHeadConfig]):
    """A linear head without any defence against forgetting."""

    name: ClassVar[str] = "single-head"
    title: ClassVar[str] = "Single head"
    paper: ClassVar[str] = "https://arxiv.org/abs/2309.08546"
    family: ClassVar[str] = "building blocks"
    config_type: ClassVar[type[MethodConfig]] = SingleHeadConfig
    trains: Trains = "every"
    goes_on: ClassVar[bool] = True

    def build(self) -> Program:
        head = PlainHead(self.spec.feature_dim, on="cls", replaced=True)
        return self.compose(classifier=head, passes=("plain",))

    def task_end(self) -> str:
        """Return what of the schedule would tell a task's end."""
        train = self.config.schedule
        keeps = train.optimizer == "badam" or (train.optimizer == "sgd" and not train.momentum)
        wrong = {
            "epochs=1": train.epochs != 1,
            "min_steps=0": train.min_steps > 0,
            "cosine=false": train.cosine,
            "milestones=[]": bool(train.milestones),
            "warm_up=0": train.warm_up > 0,
            "bits=0": train.bits > 0,
            "optimizer=badam": not keeps,
        }
        wrong |= {
            f"later.{name}=null": each is not None for name, each in vars(train.later).items()
        }
        settings = " ".join(
            f"--set schedule.{name}" for name, is_wrong in wrong.items() if is_wrong
        )
        if not settings:
            return ""
        adam = " (with draws=1 and spread=0 that is Adam)" if not keeps else ""
        return f"its schedule begins and ends with a task. Give {settings}{adam}."

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Begin the rows of known classes where these are."""
        own = len(task.class_rows) - task.classes
        for row, former in enumerate(task.former_rows):
            if former >= 0:
                for tensor in fresh.values():
                    tensor[own + row] = tensor[former]
        return fresh

    def constants(self, task: TaskContext) -> Tensors:
        """Return which class rows count, [c]."""
        gone = set(came_back(task))
        rows = zip(task.class_rows, task.row_images, strict=False)  # of former tasks
        former = [images > 0 and name not in gone for name, images in rows]
        return {"counts": torch.tensor(former + [True] * task.classes)}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Return the cross-entropy over the rows of all tasks that count."""
        scores = self.program.classifier.scores(batch.encoded, learned)
        scores = scores.masked_fill(~batch.constants["counts"], -torch.inf)
        return F.cross_entropy(scores, batch.labels + scores.shape[1] - batch.classes)

    def fit(self, task: TaskContext) -> FitResult:
        """Name the classes whose former rows no longer count."""
        return FitResult(moved=came_back(task))


def came_back(task: TaskContext) -> tuple[str, ...]:
    """Return the task's classes that go on from a row of theirs."""
    rows = zip(task.names, task.former_rows, strict=True)
    return tuple(name for name, row in rows if row >= 0)
