"""APER with scales and shifts, first named ADAM (Zhou et al., IJCV 2024).

https://arxiv.org/abs/2303.07338

Injection:  a scale and a shift after the patch embedding, every norm and every linear layer (SSF),
            trained on the first task only, then frozen.
Matcher:    none.
Classifier: cosine to class means of the plain and the adapted feature side by side (equation 7).
Differs from the paper: scales start at one and shifts at zero, exactly; the public code draws both
            with a spread of 0.02. Weight decay draws scales to one, there to zero. On the device
            they stay separate from the weights, which the plain branch needs too, so nothing is
            folded.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.optim import TrainConfig
from edgecl.program.injectors import Injector, ScaleShiftStack


@dataclass(frozen=True)
class AperSSFConfig(MethodConfig):
    """The schedule of the first task."""

    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)


@register
class AperSSF(TwoBranches[AperSSFConfig]):
    """A frozen branch and one with scales and shifts."""

    name: ClassVar[str] = "aper-ssf"
    title: ClassVar[str] = "APER-SSF"
    status: ClassVar[Status] = Status(steps=5e-7)
    config_type: ClassVar[type[MethodConfig]] = AperSSFConfig

    def adapted(self) -> Injector:
        spec = self.spec
        return ScaleShiftStack(spec.width, spec.mlp, spec.depth)
