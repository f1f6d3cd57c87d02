"""A linear head with several rows per class."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from edgecl.program.classifiers.base import Encoded
from edgecl.program.learned import Tensors, TensorSpec, normal, zeros


@dataclass(frozen=True)
class Proxies:
    """Scores sum_p softmax_p(l) l of the logits l of a class's proxies; every task trains all."""

    width: int  # d
    count: int  # p, of a class

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"p": self.count, "d": self.width}
        start = normal(self.width**-0.5)  # as Kaiming starts a linear layer
        return {
            "proxies": TensorSpec("c p d", sizes, init=start, trained=True),
            "proxy_bias": TensorSpec("c p", {"p": self.count}, init=zeros, trained=True),
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return encoded.features("injected").cls

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        return self.of(self.feature(encoded), learned)

    def of(self, feature: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b c"]:
        """Return the scores of features."""
        logits = feature @ learned["proxies"].flatten(0, 1).T + learned["proxy_bias"].flatten()
        logits = logits.unflatten(-1, (-1, self.count))  # b c p
        return (logits.softmax(dim=-1) * logits).sum(dim=-1)
