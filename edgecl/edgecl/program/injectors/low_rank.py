"""Injectors of low-rank changes of weights."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.sites import Injection, Lora, Target
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, zeros
from edgecl.program.matchers import Match

TARGETS: tuple[Target, ...] = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(frozen=True)
class LowRankChange:
    """A change of every linear weight of the blocks, as a product a b of a small rank.

    It is trained whole and then cut. While it trains, the factor on the narrow side of the layer
    is the identity and the other one is the change itself, without a bound on its rank.
    """

    width: int  # d
    hidden: int  # of the MLPs
    depth: int  # l
    rank: int  # r
    site: str = field(default="lora", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        start = {"r": self.rank}
        declared = {}
        for target in TARGETS:
            sizes = {"l": self.depth, "i": self.width, "o": self.width}
            if target in {"fc1", "fc2"}:
                sizes["o" if target == "fc1" else "i"] = self.hidden
            a, b = ({axis: sizes[axis] for axis in axes} for axes in ("li", "lo"))
            for name, axes, own in (("a", "l i r", a), ("b", "l r o", b)):
                trained = name == ("a" if target == "fc2" else "b")
                declared[f"{target}_{name}"] = TensorSpec(
                    axes, own, start=start, init=zeros, trained=trained
                )
        return declared

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), self.rank)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(
            Lora(slots[f"{target}_a"][block], slots[f"{target}_b"][block], block, target)
            for block in range(self.depth)
            for target in TARGETS
        )

    def whole(self) -> Tensors:
        """Return no change, in the form that trains without a bound on the rank."""
        tensors = {}
        for name, item in self.declare().items():
            sizes = {**item.sizes, "r": self.width}
            shape = tuple(sizes[axis] for axis in item.axis_names)
            none = torch.zeros(shape)
            tensors[name] = none if item.trained else torch.eye(self.width).expand(shape).clone()
        return tensors

    def cut(self, tensors: Tensors) -> Tensors:
        """Return the best approximation of every change by its rank, in the Frobenius norm."""
        factors: Tensors = {}
        for target in TARGETS:
            a, b = f"{target}_a", f"{target}_b"
            factors[a], factors[b] = truncated_svd(tensors[a], tensors[b], self.rank)
        return factors


def truncated_svd(
    a: Float[Tensor, "l i r"], b: Float[Tensor, "l r o"], rank: int
) -> tuple[Float[Tensor, "l i s"], Float[Tensor, "l s o"]]:
    """Return factors of a b with fewer columns, of equal weight (Eckart and Young, 1936)."""
    left, values, right = torch.linalg.svd(a.double() @ b.double(), full_matrices=False)
    root = values[:, :rank].sqrt()  # l s
    factors = left[:, :, :rank] * root.unsqueeze(1), root.unsqueeze(2) * right[:, :rank]
    return factors[0].float(), factors[1].float()
