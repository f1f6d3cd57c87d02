"""Injectors of adapters and of low-rank terms that grow with the tasks."""

from dataclasses import dataclass, field

from edgecl.backbones.sites import Adapter, Injection, Lora, Target
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


@dataclass(frozen=True)
class GrowingLora:
    """LoRA in the attention of every block, to which every task appends a product a b of its own.

    All products are added to the weights, so one pass serves all tasks.
    """

    width: int  # d, of the rows between blocks
    depth: int  # l
    rank: int  # r, of one task
    targets: tuple[Target, ...]  # m of them, each from d to d
    designed: bool = False  # one way down a for all targets, which the method computes
    scaled: bool = False  # products have a magnitude each, replaced by every task
    site: str = field(default="lora", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        sizes, one = {"l": self.depth, "d": self.width, "r": self.rank}, {"t": 1}
        # Kaiming uniform with a = sqrt(5): within 1 / sqrt(fan in). The way up starts at zero.
        down = uniform(self.width**-0.5)
        declared = {
            self.down(target): TensorSpec(
                "t l d r", sizes, "t", start=one, init=down, trained=not self.designed
            )
            for target in self.targets
        }
        for target in self.targets:
            declared[f"lora_{target}_b"] = TensorSpec(
                "t l r d", sizes, "t", start=one, init=zeros, trained=True
            )
        if self.scaled:
            fixed = {"l": self.depth, "m": len(self.targets)}
            declared["lora_scale"] = TensorSpec("t l m", fixed)
        return declared

    def down(self, target: Target) -> str:
        """Return the name of a target's way down."""
        return "lora_a" if self.designed else f"lora_{target}_a"

    def slots(self) -> dict[str, Slot]:
        return {
            name: Slot(item.axes, item.sizes, "t", 1, False, "learned", growing=True)
            for name, item in self.declare().items()
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        items = []
        for block in range(self.depth):
            for column, target in enumerate(self.targets):
                a = slots[self.down(target)][:, block]  # t d r
                b = slots[f"lora_{target}_b"][:, block]  # t r d
                if self.scaled:
                    b = b * slots["lora_scale"][:, block, column, None, None]
                together = a.transpose(0, 1).flatten(1), b.flatten(0, 1)  # d t*r, t*r d
                items.append(Lora(*together, block, target))
        return tuple(items)
