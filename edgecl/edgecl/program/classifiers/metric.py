"""A head whose classes have a metric each."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.learned import Tensors, TensorSpec, zeros


@dataclass(frozen=True)
class ClassMetrics:
    """Scores -|L_c (f - mu_c)|^2 + b_c, with a Mahalanobis metric L_c' L_c of rank r per class."""

    width: int  # d
    rank: int  # r

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"d": self.width}
        return {
            "metric": TensorSpec("c r d", {**sizes, "r": self.rank}, "c", trained=True),
            "centre": TensorSpec("c d", sizes, "c", trained=True),
            "class_bias": TensorSpec("c", {}, "c", init=zeros, trained=True),
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return encoded.features("injected").cls

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        metric, centre = learned["metric"], learned["centre"]
        mapped = F.linear(self.feature(encoded), metric.flatten(0, 1))  # b c*r
        there = (metric @ centre.unsqueeze(-1)).squeeze(-1)  # c r
        away = mapped.unflatten(-1, (-1, self.rank)) - there  # b c r
        return learned["class_bias"] - away.square().sum(dim=-1)
