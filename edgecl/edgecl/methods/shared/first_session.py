"""Adaptation on the first task: what is injected is trained once, then frozen."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.spec import BackboneSpec
from edgecl.methods.base import Batch, Method, Pass
from edgecl.methods.shared.every_task import EveryTask
from edgecl.program.injectors import AdapterStack
from edgecl.program.learned import Tensors, TensorSpec, ones, train_once, uniform


class FirstSession(Method):
    """A method that trains its injection on the first task, by a cosine head that is then dropped.

    The head has a learned scale, as in APER (Zhou et al., IJCV 2024) and what follows it. Without
    an injection nothing is trained.
    """

    def declare(self) -> dict[str, TensorSpec]:
        return super().declare() | train_once(self.injector.declare())

    def local(self) -> dict[str, TensorSpec]:
        if not self.injector.declare():
            return {}
        width = self.spec.feature_dim
        return {
            "session_weight": TensorSpec("c d", {"d": width}, init=uniform(width**-0.5)),
            "session_scale": TensorSpec("one", {"one": 1}, init=ones),
        }

    def trains(self, task: int) -> bool:
        return task == 0 and bool(self.injector.declare())

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of the cosine head."""
        feature = F.normalize(batch.encoded.features("injected").cls, dim=-1)
        cosine = feature @ F.normalize(learned["session_weight"], dim=-1).T  # b c
        return F.cross_entropy(learned["session_scale"] * cosine, batch.labels)


class FirstAdapters(FirstSession):
    """One branch with the adapters of the first session, or plain with `first_session=none`."""

    passes: tuple[Pass, ...] = ("injected",)
    graph_config: ClassVar[tuple[str, ...]] = ("scale",)

    def build(self, config: Any, spec: BackboneSpec) -> None:
        if config.first_session == "none":
            self.passes = ("plain",)
        else:
            self.injector = AdapterStack(spec.width, spec.depth, config.rank, config.scale)


class Probe(EveryTask):
    """A method that trains its injection on the first task, together with a linear head.

    Later tasks add their rows to the head in front of the frozen injection: linear probing, so
    what a device holds never changes and a pack holds new rows only.
    """

    def declare(self) -> dict[str, TensorSpec]:
        return super().declare() | train_once(self.injector.declare())
