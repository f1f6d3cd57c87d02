"""Injectors of adapters that grow with the tasks."""

from dataclasses import dataclass, field

from edgecl.backbones.sites import Adapter, Injection
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, uniform, zeros
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class GrowingAdapters:
    """One adapter parallel to every block's MLP, to which every task appends hidden units (C-ADA).

    A unit is a column of the way down and a row of the way up; both have no bias, which all tasks
    would have to share.
    """

    width: int  # d, of the rows between blocks
    depth: int  # l
    rank: int  # r, units of one task
    scale: float
    site: str = field(default="adapter", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        sizes, rank = {"l": self.depth, "d": self.width}, {"r": self.rank}
        # Kaiming uniform with a = sqrt(5): within 1 / sqrt(fan in). The way up starts at zero.
        starts = {"down": ("l d r", uniform(self.width**-0.5)), "up": ("l r d", zeros)}
        return {
            f"adapter_{way}": TensorSpec(axes, sizes, "r", start=rank, init=init, trained=True)
            for way, (axes, init) in starts.items()
        }

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), self.rank, growing=True)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        down, up = slots["adapter_down"], slots["adapter_up"]
        hidden, out = down.new_zeros(down.shape[-1]), up.new_zeros(self.width)  # no bias
        return tuple(
            Adapter(down[block], hidden, up[block], out, block, self.scale)
            for block in range(self.depth)
        )
