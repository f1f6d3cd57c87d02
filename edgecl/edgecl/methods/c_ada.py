"""C-ADA, the continual adapter (Gao et al., ECCV 2024), https://arxiv.org/abs/2407.10281.

Injection:  one adapter parallel to every block's MLP, whose hidden units are appended task by task
            while the older ones are frozen; and a scale and a shift after every operation of the
            backbone.
Matcher:    none: every image meets the units of all tasks.
Classifier: linear on [CLS]; logits of other tasks are masked in training.
Differs from the paper: its code is not public, so what its abstract leaves open is decided here and
            tested as such. Scales and shifts are trained on the first task only, then frozen, so
            that all but the first pack hold new units and rows alone. Units have no bias. The
            orthogonality loss is the sum of the squared cosines between the ways down of the new
            and the older units, the mean over blocks and new units; its weight, the number of units
            per task, the scale and the schedule are guesses; `--augment paper` augments nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.injectors import GrowingAdapters, Joined, ScaleShiftStack
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class CAdaConfig(MethodConfig):
    """The units, the weight of their orthogonality and the schedule."""

    rank: int = 8  # r, hidden units that a task adds
    scale: float = 0.1  # s, of the adapter's output
    orthogonal: float = 0.1  # lambda, keeps new units off the older ones
    schedule: TrainConfig = TrainConfig("adam", lr=0.001, epochs=20, batch_size=48)

    def __post_init__(self) -> None:
        at_least(1, "c-ada", rank=self.rank)


@register
class CAda(Method[CAdaConfig]):
    """An adapter that grows, on a backbone that is shifted once."""

    name: ClassVar[str] = "c-ada"
    title: ClassVar[str] = "C-ADA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.10281"
    family: ClassVar[str] = "adapters per task"
    status: ClassVar[Status] = Status(public=False)
    config_type: ClassVar[type[MethodConfig]] = CAdaConfig
    trains: Trains = "every"
    options: ClassVar[tuple[str, ...]] = ("scale",)

    def build(self) -> Program:
        config, spec = self.config, self.spec
        units = GrowingAdapters(spec.width, spec.depth, config.rank, config.scale)
        shift = ScaleShiftStack(spec.width, spec.mlp, spec.depth)
        return self.compose(
            injector=Joined((units, shift)),
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("injected",),
            trained_once=tuple(shift.declare()),
        )

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, and the overlap of new with older units."""
        apart = overlap(learned["adapter_down"], self.config.rank)
        return super().loss(batch, learned) + self.config.orthogonal * apart


def overlap(down: Float[Tensor, "l d r"], new: int) -> Float[Tensor, ""]:
    """Return the sum of squared cosines of a new unit with all older ones, on average."""
    units = F.normalize(down, dim=1)
    cosines = units[:, :, :-new].transpose(1, 2) @ units[:, :, -new:]  # l older new
    return cosines.square().sum(dim=1).mean()
