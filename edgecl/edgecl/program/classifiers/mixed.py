"""Prototypes between the mean image and the name of a class, beside a linear discriminant.

Li et al., BOFA, AAAI 2026, https://arxiv.org/abs/2511.11421.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.discriminant import NamedDiscriminant
from edgecl.program.classifiers.ridge import Sums
from edgecl.program.learned import Tensors, TensorSpec

GRID = 21  # shares of the text that are tried


@dataclass(frozen=True)
class MixedPrototypes:
    """The cosine to a prototype, and a share of the discriminant of features of any length.

    `texts` holds the prototypes: of a class that is known by name alone its text embedding.
    """

    lda: NamedDiscriminant

    def declare(self) -> dict[str, TensorSpec]:
        return self.lda.declare()

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return F.normalize(encoded.features("injected").cls, dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        by_prototype = self.feature(encoded) @ learned["texts"].T
        along = F.linear(encoded.features("injected").cls, learned["head_weight"])
        discriminant = along * learned["head_scale"] + learned["head_bias"]
        return learned["text_scale"] * by_prototype + discriminant

    def unlearned(self, texts: Float[Tensor, "c f"]) -> Tensors:
        """Return the rows of classes that are known by name alone."""
        return self.lda.unlearned(texts)


def text_share(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    images: Float[Tensor, "c f"],
    texts: Float[Tensor, "c f"],
) -> Float[Tensor, ""]:
    """Return the smallest share of the text among those that label most images right.

    Args:
        features: at length 1, as all others.
        images: the mean of each class.
    """
    shares = torch.linspace(0, 1, GRID)
    right = [
        (features @ (share * texts + (1 - share) * images).T).argmax(dim=-1).eq(labels).sum()
        for share in shares
    ]
    return shares[torch.stack(right).argmax()]


def projected(total: Sums, change: Float[Tensor, "w f"]) -> Sums:
    """Return the sums of the features f + x change and of 1, from those of [f, x, 1]."""
    width = change.shape[1]
    by = torch.zeros(len(total.gram), width + 1, dtype=torch.float64)
    by[:width, :width] = torch.eye(width)
    by[width:-1, :width] = change
    by[-1, -1] = 1
    return Sums(by.T @ total.gram @ by, by.T @ total.moments)
