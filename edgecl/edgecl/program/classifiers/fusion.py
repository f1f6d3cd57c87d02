"""Cross-modal fusion: an image, and what is known of the classes, attend to one another.

Zhou et al., PROOF, TPAMI 2025, https://arxiv.org/abs/2305.19270.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.classifiers.texts import Texts
from edgecl.program.learned import Init, Tensors, TensorSpec, normal, ones, zeros

NORM_EPS = 1e-5
MAPS = ("image", "text")


@dataclass(frozen=True)
class Fusion:
    """One head of self-attention over the image and all rows, a residual path and a LayerNorm.

    Every image is alone with the rows. So what the rows give each other is computed once for all
    images: an image takes the share of a row's attention that its key gets, and the rest stays as
    it was among the rows. An image then costs a few products with the rows instead of attention
    among all of them. As the weights of a query add up to 1, values go through the output's matrix
    before the sum.
    """

    width: int  # f

    def declare(self) -> dict[str, TensorSpec]:
        f, g = {"f": self.width}, {"g": self.width}

        def item(axes: str, init: Init) -> TensorSpec:
            return TensorSpec(axes, f if axes == "f" else f | g, init=init, trained=True)

        weight = normal(self.width**-0.5)  # Xavier's, as all are square
        return {
            "fusion_query": item("g f", weight),
            "fusion_key": item("g f", weight),
            "fusion_value": item("g f", weight),
            "fusion_out": item("f g", weight),
            "fusion_out_bias": item("f", zeros),
            "fusion_scale": item("f", ones),
            "fusion_shift": item("f", zeros),
        }

    def __call__(
        self,
        images: Float[Tensor, "b f"],
        rows: Float[Tensor, "m f"],
        others: Float[Tensor, "n f"],
        learned: Tensors,
    ) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b m f"]]:
        """Return every image, and the rows, as attention over [image; rows; others] leaves them.

        Args:
            others: rows that are attended to only.
        """
        around = torch.cat([rows, others])
        keys, values = self._key(around, learned), self._value(around, learned)
        own_key, own_value = self._key(images, learned), self._value(images, learned)
        query = self._query(images, learned)
        to_own = (query * own_key).sum(dim=-1, keepdim=True)  # b 1
        weights = torch.cat([to_own, query @ keys.T], dim=-1).softmax(dim=-1)
        fused = weights[:, :1] * own_value + weights[:, 1:] @ values

        query = self._query(rows, learned)
        among = query @ keys.T  # m m+n
        mixed = among.softmax(dim=-1) @ values  # m f
        to_image = own_key @ query.T  # b m
        share = (to_image - among.logsumexp(dim=-1)).sigmoid().unsqueeze(-1)
        of_rows = mixed + share * (own_value.unsqueeze(1) - mixed)  # b m f
        return self._closed(images, fused, learned), self._closed(rows, of_rows, learned)

    def _query(self, x: Float[Tensor, "n f"], learned: Tensors) -> Float[Tensor, "n g"]:
        return F.linear(x, learned["fusion_query"]) * self.width**-0.5

    def _key(self, x: Float[Tensor, "n f"], learned: Tensors) -> Float[Tensor, "n g"]:
        return F.linear(x, learned["fusion_key"])

    def _value(self, x: Float[Tensor, "n f"], learned: Tensors) -> Float[Tensor, "n f"]:
        return F.linear(F.linear(x, learned["fusion_value"]), learned["fusion_out"])

    def _closed(
        self, x: Float[Tensor, "n f"], attended: Float[Tensor, "*b n f"], learned: Tensors
    ) -> Float[Tensor, "*b n f"]:
        added = x + attended + learned["fusion_out_bias"]
        scale, shift = learned["fusion_scale"], learned["fusion_shift"]
        return F.layer_norm(added, (self.width,), scale, shift, NORM_EPS)


class Logits(NamedTuple):
    """What scores a class, each a function of the image alone."""

    mapped: Float[Tensor, "b c"]  # image with text
    texts: Float[Tensor, "b c"]  # fused image with fused text
    prototypes: Float[Tensor, "b c"]  # fused image with fused prototype


@dataclass(frozen=True)
class FusedTexts(Texts):
    """Texts and prototypes after the maps and after the fusion."""

    contexts: int = 3

    @property
    def fusion(self) -> Fusion:
        return Fusion(self.width)

    def declare(self) -> dict[str, TensorSpec]:
        f, g = {"f": self.width}, {"g": self.width}
        start = {"m": self.contexts}
        return {
            **super().declare(),
            "prototypes": TensorSpec("c f", f, concat_axis="c"),
            "contexts": TensorSpec("m f", f, "m", start, init=normal(1.0), trained=True),
            **{f"{kind}_map": TensorSpec("g f", f | g) for kind in MAPS},
            **self.fusion.declare(),
        }

    def logits(self, encoded: Encoded, learned: Tensors) -> Logits:
        def mapped(rows: Tensor, kind: str) -> Tensor:
            return F.normalize(F.linear(rows, learned[f"{kind}_map"]), dim=-1)

        images = mapped(self.feature(encoded), "image")
        texts = mapped(learned["texts"], "text")
        rows = torch.cat([mapped(learned["prototypes"], "image"), texts])
        fused, of_rows = self.fusion(images, rows, learned["contexts"], learned)
        products = (of_rows @ fused.unsqueeze(-1)).squeeze(-1)  # b 2*c
        classes = texts.shape[0]
        by_cosine = math.exp(self.logit_scale) * images @ texts.T
        return Logits(by_cosine, products[:, classes:], products[:, :classes])

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        logits = self.logits(encoded, learned)
        return logits.mapped + logits.texts + logits.prototypes
