"""Injectors of scales and shifts."""

from dataclasses import dataclass, field

from torch import Tensor

from edgecl.backbones.sites import Injection, Point, ScaleShift
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, zeros
from edgecl.program.matchers import Match

OUTSIDE: tuple[Point, ...] = ("patch", "norm")  # points that belong to no block
INSIDE: tuple[Point, ...] = ("norm1", "qkv", "proj", "norm2", "fc1", "fc2")


@dataclass(frozen=True)
class ScaleShiftStack:
    """A scale and a shift after every operation (SSF, Lian et al., NeurIPS 2022, equation 3).

    What is learned is the scale less one, and the shift: at zero all is as without, exactly.
    """

    width: int  # d
    hidden: int  # of the MLPs
    depth: int  # l
    site: str = field(default="scale_shift", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        wide = {"qkv": 3 * self.width, "fc1": self.hidden}
        declared = {}
        for point in (*OUTSIDE, *INSIDE):
            axes = "f w" if point in OUTSIDE else "l f w"
            sizes = {"l": self.depth, "f": 2, "w": wide.get(point, self.width)}
            sizes = {axis: sizes[axis] for axis in axes.split()}
            declared[f"ssf_{point}"] = TensorSpec(axes, sizes, init=zeros, trained=True)
        return declared

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), 1)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        def item(rows: Tensor, point: Point, block: int | None) -> ScaleShift:
            return ScaleShift(1 + rows[0], rows[1], point, block)

        return (
            *(item(slots[f"ssf_{point}"], point, None) for point in OUTSIDE),
            *(
                item(slots[f"ssf_{point}"][block], point, block)
                for block in range(self.depth)
                for point in INSIDE
            ),
        )
