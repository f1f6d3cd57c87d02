"""Embeddings of class names, compared by cosine."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.learned import Tensors, TensorSpec
from edgecl_deploy.format import TEXT, Enrol


@dataclass(frozen=True)
class Texts:
    """Embeddings of the class names, compared by cosine under CLIP's temperature.

    Radford et al., ICML 2021, figure 3; https://arxiv.org/abs/2103.00020. A method that uses it
    gives the rows (`Method.start`, `parametrize` or `fit`), all of norm 1.
    """

    width: int  # f, that both towers share
    logit_scale: float  # the logarithm of the factor on the cosine
    on: Literal["plain", "injected"] = "plain"
    replaced: bool = False  # every task makes all rows anew

    def declare(self) -> dict[str, TensorSpec]:
        axis = None if self.replaced else "c"
        return {"texts": TensorSpec("c f", {"f": self.width}, concat_axis=axis)}

    def enrol(self) -> Enrol:
        return Enrol(TEXT, "texts", columns=(0, self.width))

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return F.normalize(encoded.features(self.on).cls, dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        return math.exp(self.logit_scale) * self.feature(encoded) @ learned["texts"].T
