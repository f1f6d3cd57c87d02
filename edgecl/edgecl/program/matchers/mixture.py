"""Matchers that mix the whole bank instead of choosing from it."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Tensors, TensorSpec, uniform
from edgecl.program.matchers.base import Match

SHORTEST = 1e-12  # no length is taken for less: a query of zeros has weights of 0


@dataclass(frozen=True)
class AttendedKeys:
    """A weight for every component at every block, by its attention and its key.

    It is cos(q * A, K): neither a softmax nor a choice, and weights may be negative (CODA-Prompt).
    What is reported as the match is the component of the largest sum of weights over the blocks.
    """

    width: int  # d
    blocks: int  # l
    components: int  # m, that each task adds
    name: ClassVar[str] = "attended-keys"

    def declare(self) -> dict[str, TensorSpec]:
        item = TensorSpec(
            "m l d",
            {"l": self.blocks, "d": self.width},
            concat_axis="m",
            start={"m": self.components},
            init=uniform(1.0),
            trained=True,
        )
        return {"component_keys": item, "component_attention": item}

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        keys = F.normalize(learned["component_keys"], dim=-1).permute(1, 2, 0)  # l d m
        attention = learned["component_attention"].permute(1, 2, 0)  # l d m
        # Two products with the bank instead of a vector [d] per image, block and component.
        along = query @ (attention * keys)  # l b m
        length = (query.square() @ attention.square()).clamp(min=SHORTEST**2).sqrt()
        weights = (along / length).transpose(0, 1)  # b l m
        score, index = weights.sum(dim=1).topk(1, dim=-1)
        return Match(index, score, weights)
