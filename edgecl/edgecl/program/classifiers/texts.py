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


@dataclass(frozen=True)
class MappedTexts(Texts):
    """Embeddings of the class names against a linear map of the image features.

    What is learned is the map less the identity: at zero it is CLIP.
    """

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "map": TensorSpec("g f", {"g": self.width, "f": self.width}),
            **super().declare(),
        }

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        feature = F.normalize(mapped(self.feature(encoded), learned["map"]), dim=-1)
        return math.exp(self.logit_scale) * feature @ learned["texts"].T


def mapped(features: Float[Tensor, "n f"], change: Float[Tensor, "g f"]) -> Float[Tensor, "n g"]:
    """Return the features under the map that is the identity and a change."""
    return features + F.linear(features, change)
