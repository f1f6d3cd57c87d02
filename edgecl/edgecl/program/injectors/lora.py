"""Injectors of low-rank terms that are trained as such."""

from dataclasses import dataclass, field

from edgecl.backbones.sites import Injection, Lora, Target
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, uniform, zeros
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class LoraStack:
    """LoRA in the attention of the first blocks (Hu et al., ICLR 2022, equation 3)."""

    width: int  # d, of the rows between blocks
    depth: int  # l, blocks from the first on
    rank: int  # r
    targets: tuple[Target, ...] = ("k", "v")  # each from d to d
    site: str = field(default="lora", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        sizes, rank = {"l": self.depth, "d": self.width}, {"r": self.rank}
        # Kaiming uniform with a = sqrt(5), as for an adapter's way down; the way up starts at zero.
        starts = {"a": ("l d r", uniform(self.width**-0.5)), "b": ("l r d", zeros)}
        return {
            f"lora_{target}_{factor}": TensorSpec(axes, sizes, start=rank, init=init, trained=True)
            for target in self.targets
            for factor, (axes, init) in starts.items()
        }

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), self.rank)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(
            Lora(
                slots[f"lora_{target}_a"][..., block, :, :],
                slots[f"lora_{target}_b"][..., block, :, :],
                block,
                target,
            )
            for block in range(self.depth)
            for target in self.targets
        )
