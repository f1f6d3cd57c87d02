"""APER with prompts, shallow or deep; first named ADAM (Zhou et al., IJCV 2024).

https://arxiv.org/abs/2303.07338

Injection:  learned rows after [CLS], the same for every image. Shallow (VPT-shallow): before
            block 0, carried to the end. Deep (VPT-deep): before every block, dropped after
            it. Trained on the first task only, then frozen.
Matcher:    none.
Classifier: cosine to class means of the plain and the prompted feature side by side (equation 7).
Differs from the paper: rows start uniform, as VPT's do; the public code starts all of them at zero,
            where equal rows get equal gradients and stay one and the same row.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.optim import TrainConfig
from edgecl.program.injectors import Injector, SharedPrompts


@dataclass(frozen=True)
class AperVptShallowConfig(MethodConfig):
    """The prompt and the schedule of the first task."""

    length: int = 5  # p, rows of a prompt
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "aper-vpt", length=self.length)


@dataclass(frozen=True)
class AperVptDeepConfig(AperVptShallowConfig):
    """The prompts and the schedule of the first task."""

    schedule: TrainConfig = TrainConfig("sgd", lr=0.05, epochs=5, batch_size=16, weight_decay=5e-4)


@register
class AperVptShallow(TwoBranches[AperVptShallowConfig]):
    """A frozen branch and one with a prompt at its input."""

    name: ClassVar[str] = "aper-vpt-shallow"
    title: ClassVar[str] = "APER-VPT-Shallow"
    status: ClassVar[Status] = Status(steps=1e-6)
    config_type: ClassVar[type[MethodConfig]] = AperVptShallowConfig

    def adapted(self) -> Injector:
        config, spec = self.config, self.spec
        return SharedPrompts(spec.width, config.length)


@register
class AperVptDeep(TwoBranches[AperVptDeepConfig]):
    """A frozen branch and one with a prompt in every block."""

    name: ClassVar[str] = "aper-vpt-deep"
    title: ClassVar[str] = "APER-VPT-Deep"
    status: ClassVar[Status] = Status(steps=5e-7)
    config_type: ClassVar[type[MethodConfig]] = AperVptDeepConfig

    def adapted(self) -> Injector:
        config, spec = self.config, self.spec
        return SharedPrompts(spec.width, config.length, spec.depth)
