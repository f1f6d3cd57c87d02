"""VPT, visual prompt tuning, shallow or deep (Jia et al., ECCV 2022).

https://arxiv.org/abs/2203.12119

Injection:  learned rows after [CLS], the same for every image. Shallow: before block 0,
            carried to the end (equation 4). Deep: before every block, dropped after it
            (equation 7).
Matcher:    none.
Classifier: linear on [CLS] of the prompted backbone; logits of other tasks are masked in training.
Differs from the paper: it is a tuner for one task and a building block here, no incremental
            method. The rule for later tasks is ours: the rows are trained with the head's on the
            first task and then frozen; a later task trains its own rows of the head only, before
            those prompts. Sizes and schedule are the public code's defaults without its warm-up;
            it searches them per task. Weight decay is on the head's bias too. The bound of the
            start is that of 16 px patches.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.injectors import SharedPrompts


@dataclass(frozen=True)
class VPTConfig(MethodConfig):
    """The prompts and the schedule."""

    length: int = 5  # p, rows of a prompt
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=30, batch_size=32, weight_decay=1e-4)

    def __post_init__(self) -> None:
        at_least(1, "vpt", length=self.length)


@register
class VPTShallow(Method[VPTConfig]):
    """A prompt at the input, learned once."""

    name: ClassVar[str] = "vpt-shallow"
    title: ClassVar[str] = "VPT-Shallow"
    status: ClassVar[Status] = Status(steps=2e-5)
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    family: ClassVar[str] = "building blocks"
    config_type: ClassVar[type[MethodConfig]] = VPTConfig

    trains: Trains = "every"

    def build(self) -> Program:
        prompts = self.prompts()
        return self.compose(
            injector=prompts,
            classifier=Linear(self.spec.feature_dim, on="cls"),
            passes=("injected",),
            trained_once=tuple(prompts.declare()),
        )

    def prompts(self) -> SharedPrompts:
        """Return the injection, which only the first task trains."""
        return SharedPrompts(self.spec.width, self.config.length)


@register
class VPTDeep(VPTShallow):
    """A prompt in every block, learned once."""

    name: ClassVar[str] = "vpt-deep"
    title: ClassVar[str] = "VPT-Deep"
    status: ClassVar[Status] = Status(steps=3e-5)

    def prompts(self) -> SharedPrompts:
        return SharedPrompts(self.spec.width, self.config.length, self.spec.depth)
