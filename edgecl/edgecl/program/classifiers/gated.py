"""Ridge regression behind a gate: CLIP's own answer decides whether it is asked.

Xu et al., RAIL, NeurIPS 2024, https://arxiv.org/abs/2406.18868.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.ridge import Ridge, Seen
from edgecl.program.fitting import TaskContext
from edgecl.program.generated import Generated
from edgecl.program.learned import Tensors, TensorSpec


@dataclass(frozen=True)
class GatedRidge(Ridge):
    """CLIP's probabilities over all names, mixed with ridge scores where a learned name leads.

    A row whose scale is 0 is of a class that was not learned: its name alone counts.
    """

    width: int  # f
    logit_scale: float  # the logarithm of the factor on the cosine
    ridge: float  # lambda
    share: float  # of the probabilities in a mixed score
    seed: int  # of the projection

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"f": self.width, "m": self.size}
        return {
            "texts": TensorSpec("c f", {"f": self.width}, concat_axis="c"),
            "projection": TensorSpec("f m", sizes, generated=Generated(self.seed)),
            **super().declare(),
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return F.normalize(super().feature(encoded), dim=-1)

    def expand(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b m"]:
        return (feature @ learned["projection"]).relu()

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        by_name = self.feature(encoded) @ learned["texts"].T
        likely = (math.exp(self.logit_scale) * by_name).softmax(dim=-1)
        mixed = self.share * likely + (1 - self.share) * super().scores(encoded, learned)
        leads = learned["head_scale"][by_name.argmax(dim=-1)] > 0
        return torch.where(leads.unsqueeze(-1), mixed, likely)

    def chosen(self, task: TaskContext, seen: Seen) -> float:
        return self.ridge

    def unlearned(self, texts: Float[Tensor, "c f"]) -> Tensors:
        """Return the rows of classes that are known by name alone."""
        count = len(texts)
        nothing = {"head_weight": torch.zeros(count, self.size), "head_scale": torch.zeros(count)}
        return nothing | {"texts": texts}
