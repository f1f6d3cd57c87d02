"""VPT-shallow, visual prompt tuning (Jia et al., ECCV 2022), https://arxiv.org/abs/2203.12119.

Injection:  learned rows behind [CLS] in front of block 0, carried to the end, the same for every
            image (equation 4).
Matcher:    none.
Classifier: linear on [CLS] of the prompted backbone; logits of other tasks are masked in training.
Differs from the paper: it is a tuner for one task and a building block here, no incremental
            method. The rule for later tasks is ours: the prompt is trained with the head's rows on
            the first task and then frozen; a later task trains its own rows only, in front of that
            prompt. Sizes and schedule are the public code's defaults without its warm-up; it
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
class VPTShallowConfig:
    """The prompt and the schedule."""

    length: int = 5  # p, rows of the prompt
    schedule: Schedule = Schedule("sgd", lr=0.01, epochs=30, batch_size=32, weight_decay=1e-4)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise MethodError(
                f"vpt-shallow.length must be at least 1, got {self.length}. Raise it."
            )


@register
class VPTShallow(Probe):
    """A prompt at the input, learned once."""

    name: ClassVar[str] = "vpt-shallow"
    title: ClassVar[str] = "VPT-Shallow"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    family: ClassVar[str] = "building blocks"
    config_type: ClassVar[type] = VPTShallowConfig
    passes: tuple[Pass, ...] = ("injected",)

    def build(self, config: VPTShallowConfig, place: Place) -> None:
        self.injector = SharedPrompts(place.row, config.length)
        self.classifier = Linear(place.width, on="cls")
