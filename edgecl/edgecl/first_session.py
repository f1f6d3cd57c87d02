"""Adaptation on the first task: what is injected is trained once, then frozen."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.fitting import TaskView
from edgecl.learned import Learned, Tensors, uniform
from edgecl.methods.base import Batch, Method


class FirstSession(Method):
    """A method that trains its injection on the first task, by a cosine head that is then dropped.

    The head has a learned scale, as in APER (Zhou et al., IJCV 2024) and what follows it. Without
    an injection nothing is trained.
    """

    def local(self) -> dict[str, Learned]:
        if not self.injector.declare():
            return {}
        width = self.place.width
        return {
            "session_weight": Learned("c d", {"d": width}, init=uniform(width**-0.5)),
            "session_scale": Learned("one", {"one": 1}, init=lambda shape, _: torch.ones(shape)),
        }

    def trains(self, task: int) -> bool:
        return task == 0 and bool(self.injector.declare())

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of the cosine head."""
        feature = F.normalize(batch.encoded.features("injected").cls, dim=-1)
        cosine = feature @ F.normalize(learned["session_weight"], dim=-1).T  # b c
        return F.cross_entropy(learned["session_scale"] * cosine, batch.labels)


class Probe(Method):
    """A method that trains its injection on the first task, together with a linear head.

    Later tasks add their rows to the head in front of the frozen injection: linear probing, so
    what a device holds never changes and a pack holds new rows only.
    """

    def trains(self, task: int) -> bool:
        return True

    def start(self, task: TaskView, fresh: Tensors) -> Tensors:
        """Leave the injection out of the later tasks' parts."""
        frozen = self.injector.declare() if task.index else {}
        return {name: tensor for name, tensor in fresh.items() if name not in frozen}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows."""
        current = self.classifier.scores(batch.encoded, learned)[:, -batch.classes :]
        return F.cross_entropy(current, batch.labels)
