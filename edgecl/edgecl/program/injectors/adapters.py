"""Injectors of adapters."""

from dataclasses import dataclass, field
from typing import Literal

from edgecl.backbones.sites import Adapter, Injection
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, uniform, zeros
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class AdapterStack:
    """An adapter parallel to a part of the first blocks.

    Parallel to the MLP, with a ReLU, it is AdaptFormer's (Chen et al., NeurIPS 2022, equation 3).
    """

    width: int  # d
    depth: int  # l, blocks from the first on
    rank: int  # r
    scale: float
    at: Literal["mlp", "attention"] = "mlp"
    activation: Literal["relu", "gelu"] = "relu"
    site: str = field(default="adapter", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"l": self.depth, "d": self.width}
        rank = {"r": self.rank}
        # Kaiming uniform with a = sqrt(5): within 1 / sqrt(fan in). The way up starts at zero.
        down = uniform(self.width**-0.5)
        return {
            "adapter_down": TensorSpec("l d r", sizes, start=rank, init=down, trained=True),
            "adapter_down_bias": TensorSpec(
                "l r", {"l": self.depth}, start=rank, init=zeros, trained=True
            ),
            "adapter_up": TensorSpec("l r d", sizes, start=rank, init=zeros, trained=True),
            "adapter_up_bias": TensorSpec("l d", sizes, init=zeros, trained=True),
        }

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), self.rank)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(
            Adapter(
                down=slots["adapter_down"][..., block, :, :],
                down_bias=slots["adapter_down_bias"][..., block, :],
                up=slots["adapter_up"][..., block, :, :],
                up_bias=slots["adapter_up_bias"][..., block, :],
                block=block,
                scale=self.scale,
                at=self.at,
                activation=self.activation,
            )
            for block in range(self.depth)
        )
