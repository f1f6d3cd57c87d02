"""VPT-deep, visual prompt tuning (Jia et al., ECCV 2022), https://arxiv.org/abs/2203.12119.

Injection:  learned rows behind [CLS] in front of every block, dropped behind it, the same for every
            image (equation 7).
Matcher:    none.
Classifier: linear on [CLS] of the prompted backbone; logits of other tasks are masked in training.
Differs from the paper: it is a tuner for one task and a building block here, no incremental
            method. The rule for later tasks is ours: the prompts are trained with the head's rows
            on the first task and then frozen; a later task trains its own rows only, in front of
            those prompts. Sizes and schedule are the public code's defaults without its warm-up; it
            searches them per task. The bound of the start is that of 16 px patches.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.classifiers import Linear
from edgecl.first_session import Probe
from edgecl.injectors import SharedPrompts
from edgecl.methods import register
from edgecl.methods.base import MethodError, Pass, Place, Schedule


@dataclass(frozen=True)
class VPTDeepConfig:
    """The prompts and the schedule."""

    length: int = 5  # p, rows of a prompt
    schedule: Schedule = Schedule("sgd", lr=0.01, epochs=30, batch_size=32, weight_decay=1e-4)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise MethodError(f"vpt-deep.length must be at least 1, got {self.length}. Raise it.")


@register
class VPTDeep(Probe):
    """A prompt in every block, learned once."""

    name: ClassVar[str] = "vpt-deep"
    title: ClassVar[str] = "VPT-Deep"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    family: ClassVar[str] = "building blocks"
    config_type: ClassVar[type] = VPTDeepConfig
    passes: tuple[Pass, ...] = ("injected",)

    def build(self, config: VPTDeepConfig, place: Place) -> None:
        self.injector = SharedPrompts(place.row, config.length, place.depth)
        self.classifier = Linear(place.width, on="cls")
