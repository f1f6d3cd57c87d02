"""APER with adapters, first named ADAM (Zhou et al., IJCV 2024), https://arxiv.org/abs/2303.07338.

Injection:  an AdaptFormer adapter parallel to every block's MLP, trained on the first task only,
            then frozen.
Matcher:    none.
Classifier: cosine to class means of the plain and the adapted feature side by side (equation 7).
Differs from the paper: no dropout inside the adapters.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.optim import TrainConfig
from edgecl.program.injectors import AdapterStack, Injector


@dataclass(frozen=True)
class AperAdapterConfig(MethodConfig):
    """The adapters and the schedule of the first task."""

    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of the adapter's output
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "aper-adapter", rank=self.rank)


@register
class AperAdapter(TwoBranches[AperAdapterConfig]):
    """A frozen branch and one with adapters."""

    name: ClassVar[str] = "aper-adapter"
    title: ClassVar[str] = "APER-Adapter"
    status: ClassVar[Status] = Status(steps=3e-7, points=0.1)
    config_type: ClassVar[type[MethodConfig]] = AperAdapterConfig
    options: ClassVar[tuple[str, ...]] = ("scale",)

    def adapted(self) -> Injector:
        config, spec = self.config, self.spec
        return AdapterStack(spec.width, spec.depth, config.rank, config.scale)
