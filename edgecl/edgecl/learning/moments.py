"""Second moments of what enters the attention of every block, over the images of a task."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecl.backbones.vit import ViT
from edgecl.learning.task_images import TaskImages
from edgecl.program.learned import Tensors


class Moments:
    """Sums of x x' over the tokens x that enter each block's attention.

    Args:
        images: how many come; what fills up the last batch is left out.
    """

    def __init__(self, model: ViT, images: int):
        config = model.config
        self.images = images
        self._seen = [0] * config.depth
        self._tokens = 0
        self._sums = torch.zeros(config.depth, config.width, config.width, dtype=torch.float64)

    def add(self, block: int, x: Float[Tensor, "b n d"]) -> None:
        """Take in what enters one block's attention: products in float32, sums in float64."""
        rows = x[: self.images - self._seen[block]].flatten(0, 1)  # b*n d
        self._seen[block] += len(x)
        self._sums[block] += (rows.T @ rows).double().cpu()
        self._tokens += len(rows)

    def mean(self) -> Float[Tensor, "l d d"]:
        """Return the mean over the tokens."""
        return self._sums / (self._tokens / len(self._sums))


@contextmanager
def watched(model: ViT, moments: Moments) -> Iterator[None]:
    """Let moments take in what enters every block's attention."""
    with ExitStack() as hooks:
        for block, module in enumerate(model.blocks):

            def add(_: nn.Module, inputs: tuple[Any, ...], block: int = block) -> None:
                moments.add(block, inputs[0])

            attention = module.get_submodule("attn")
            hooks.callback(attention.register_forward_pre_hook(add).remove)
        yield


def attention_moments(images: TaskImages, learned: Tensors) -> Float[Tensor, "l d d"]:
    """Return the mean of x x' over all tokens x of all images, of a program with one injected pass.

    Args:
        learned: with which the program runs.
    """
    model = images.encoder.backbone.model
    assert isinstance(model, ViT)
    assert images.encoder.method.program.passes == ("injected",)
    moments = Moments(model, len(images))
    with watched(model, moments):
        images.encode(lambda *_: {}, learned, "second moments")
    return moments.mean()
