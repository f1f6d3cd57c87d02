"""Single head: one linear head that all tasks train, as BAdam is evaluated (Kessler et al., 2023).

https://arxiv.org/abs/2309.08546

Injection:  none.
Matcher:    none.
Classifier: linear on the frozen [CLS]; every task trains all rows, by the cross-entropy over all
            classes so far. No task is told apart: what comes last overwrites what was before, which
            is what `schedule.optimizer=badam` and `schedule.bits` are held against.
Differs from the paper: a protocol, of which the abstract was read: single head, task-free. There a
            whole small network is trained, here a head on a frozen backbone, whose rows come with
            their classes. Images come in epochs of their task, not once. The schedule is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
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

    def build(self) -> Program:
        head = PlainHead(self.spec.feature_dim, on="cls", replaced=True)
        return self.compose(classifier=head, passes=("plain",))

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Return the cross-entropy over the rows of all tasks."""
        scores = self.program.classifier.scores(batch.encoded, learned)
        return F.cross_entropy(scores, batch.labels + scores.shape[1] - batch.classes)
