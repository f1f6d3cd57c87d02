"""APER with adapters, first named ADAM (Zhou et al., IJCV 2024), https://arxiv.org/abs/2303.07338.

Injection:  an AdaptFormer adapter beside every block's MLP, trained on the first task only, then
            frozen.
Matcher:    none.
Classifier: cosine to class means of the plain and the adapted feature side by side (equation 7).
Differs from the paper: no dropout inside the adapters.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.classifiers import CosinePrototypes
from edgecl.injectors import AdapterStack
from edgecl.learned import Learned, Tensors, uniform
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, MethodError, Pass, Place, Schedule


@dataclass(frozen=True)
class AperAdapterConfig:
    """The adapters and the schedule of the first task."""

    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of the adapter's output
    schedule: Schedule = Schedule("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise MethodError(f"aper-adapter.rank must be at least 1, got {self.rank}. Raise it.")


@register
class AperAdapter(Method):
    """A frozen branch beside one that was adapted on the first task."""

    name: ClassVar[str] = "aper-adapter"
    title: ClassVar[str] = "APER-Adapter"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07338"
    family: ClassVar[str] = "two branches"
    config_type: ClassVar[type] = AperAdapterConfig
    passes: ClassVar[tuple[Pass, ...]] = ("plain", "injected")
    graph_config: ClassVar[tuple[str, ...]] = ("scale",)

    def build(self, config: AperAdapterConfig, place: Place) -> None:
        self.injector = AdapterStack(place.width, place.depth, config.rank, config.scale)
        self.classifier = CosinePrototypes(place.width, self.passes)

    def local(self) -> dict[str, Learned]:
        width = self.place.width
        return {
            "session_weight": Learned("c d", {"d": width}, init=uniform(width**-0.5)),
            "session_scale": Learned("one", {"one": 1}, init=lambda shape, _: torch.ones(shape)),
        }

    def trains(self, task: int) -> bool:
        return task == 0

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of a cosine head with a learned scale, dropped after the task."""
        feature = F.normalize(batch.encoded.features("injected").cls, dim=-1)
        cosine = feature @ F.normalize(learned["session_weight"], dim=-1).T  # b c
        return F.cross_entropy(learned["session_scale"] * cosine, batch.labels)
