"""A convolutional network as a backbone: the same interface as `ViT`, without sites."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._libraries import import_timm
from edgecl.backbones.sites import Injection
from edgecl.backbones.vit import Features


class CNN(nn.Module):
    """A network of timm without its classifier, for closed-form methods.

    Takes normalised pixels of any size that the network accepts and returns `Features`: `cls` is
    the pooled feature, `prompt` is zeros.
    """

    sites: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, model: str):
        super().__init__()
        self.network: Any = import_timm().create_model(model, num_classes=0)
        self.model = model

    @property
    def width(self) -> int:
        """Return the width of the features."""
        return int(self.network.head_hidden_size)

    def forward(
        self,
        pixels: Float[Tensor, "b 3 h w"],
        injection: Injection = (),
        taps: int = 0,
        tokens: bool = False,
    ) -> Features:
        if injection or taps or tokens:
            raise BackboneError(
                f"{self.model} has no sites, so the injection must be empty, got {len(injection)} "
                f"items, {taps} taps and tokens={tokens}. "
                "Use a method without injection (SimpleCIL, RanPAC), or a ViT."
            )
        cls: Tensor = self.network(pixels)
        return Features(cls, torch.zeros_like(cls))
