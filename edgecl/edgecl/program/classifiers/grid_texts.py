"""Class texts that depend on how strongly an image matches: rows for some weights, and between."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.texts import Texts
from edgecl.program.learned import Tensors, TensorSpec

POINTS = 5  # g: weights 0, 1/4, ... 1
SHORTEST = 1e-12  # no length is taken for less


def grid() -> tuple[float, ...]:
    """Return the weights that texts are embedded at."""
    return tuple(point / (POINTS - 1) for point in range(POINTS))


@dataclass(frozen=True)
class GridTexts(Texts):
    """Embeddings of the class names at weights on a grid, compared by cosine as `Texts` are.

    The weight of an image is the score of its match, in [0, 1]; its texts lie between those of the
    two nearest weights, linearly, and are brought to norm 1 again. So no device needs a text tower
    for a prompt whose weight depends on the image. A method that uses it gives the rows.

    What that costs was measured on a text tower of four blocks: with a prefix under whose full
    weight a text has a cosine of 0.87 with its own plain one, texts in between have at least
    0.9999 with exact ones; at a cosine of 0.11, at least 0.999.
    """

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"g": POINTS, "f": self.width}
        return {"texts": TensorSpec("c g f", sizes, concat_axis="c")}

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        texts = learned["texts"]
        share = between(encoded.match.score[:, :1])  # b g
        pairs = (share.unsqueeze(2) * share.unsqueeze(1)).flatten(1)  # b g*g
        along = self.feature(encoded) @ texts.flatten(0, 1).T  # b c*g
        along = (along.unflatten(1, (-1, POINTS)) * share.unsqueeze(1)).sum(dim=-1)  # b c
        squared = pairs @ (texts @ texts.transpose(1, 2)).flatten(1).T  # b c
        return math.exp(self.logit_scale) * along / squared.clamp(min=SHORTEST).sqrt()


def between(weight: Float[Tensor, "b 1"]) -> Float[Tensor, "b g"]:
    """Return the shares of the points of the grid in a weight in [0, 1]."""
    points = torch.arange(POINTS, device=weight.device)
    return (1 - (weight * (POINTS - 1) - points).abs()).clamp(min=0)
