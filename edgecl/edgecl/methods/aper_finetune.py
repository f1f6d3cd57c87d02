"""APER with fine-tuning, first named ADAM (Zhou et al., IJCV 2024).

https://arxiv.org/abs/2303.07338

Injection:  the change of every linear weight of the blocks (queries, keys, values, output
            projection, both layers of the MLP) as a product of a small rank added to the layer;
            fine-tuned on the first task only, without a bound on the rank, then cut by a singular
            value decomposition and frozen.
Matcher:    none.
Classifier: cosine to class means of the plain and the fine-tuned feature side by side (equation 7).
Differs from the paper: the paper ships the whole second backbone; here its change travels, of rank
            r. Biases, norms, the patch embedding, [CLS] and the position embedding stay frozen.
            Weight decay pulls the change to zero instead of the weights. With few images in the
            first task it does harm, the less the smaller r is (ADR 0015).
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.optim import TrainConfig
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import LowRankChange
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class AperFinetuneConfig(MethodConfig):
    """The rank that ships and the schedule of the first task."""

    rank: int = 16  # r, of every weight's change; the backbone's width is exact
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=5, batch_size=128, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "aper-finetune", rank=self.rank)


@register
class AperFinetune(TwoBranches[AperFinetuneConfig]):
    """A frozen branch and a fine-tuned one."""

    name: ClassVar[str] = "aper-finetune"
    title: ClassVar[str] = "APER-Finetune"
    status: ClassVar[Status] = Status(steps=5e-5)
    config_type: ClassVar[type[MethodConfig]] = AperFinetuneConfig

    def adapted(self) -> LowRankChange:
        config, spec = self.config, self.spec
        exact = min(spec.width, spec.mlp)
        if spec.depth and config.rank > exact:
            raise MethodError(
                f"aper-finetune.rank must be at most {exact}, the width of the backbone, got "
                f"{config.rank}. Lower it: {exact} is exact."
            )
        self.change = LowRankChange(spec.width, spec.mlp, spec.depth, config.rank)
        return self.change

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start every weight's change at zero and whole."""
        return fresh | self.change.whole() if self.is_trained(task.index) else fresh

    def end_task(self, task: TaskContext, part: Tensors) -> Tensors:
        """Cut the changes to the rank that ships."""
        return part | self.change.cut(part)
