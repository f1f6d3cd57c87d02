"""Injectors: what a method learns for its sites, and how a match turns it into an injection.

Between the two are the slots: the tensors that a staged backbone program takes. `fill` makes
them from the bank, `sites` makes the injection from them. A slot has an axis that may be padded up
to a capacity, for engines that want fixed shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from edgecl.backbones.sites import Injection
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class Slot:
    """One tensor input of a staged backbone program.

    Attributes:
        axes: axis names; "b" first if the slot differs between images.
        sizes: the fixed axes.
        pad_axis: the axis that may be empty (no injection) or padded to `capacity`; None: zeros
            are neutral.
        masked: padding needs a mask on the attention keys (zeros would take softmax mass).
        source: whether the matcher makes it or a learned tensor is fed as it is.
        growing: `capacity` is what one task adds; a program has room for so many tasks.
    """

    axes: str
    sizes: Mapping[str, int]
    pad_axis: str | None
    capacity: int
    masked: bool
    source: Literal["match", "learned"]
    growing: bool = False

    def with_capacity(self, tasks: int) -> "Slot":
        """Return the slot of a program with room for so many tasks."""
        room = self.capacity * (tasks if self.growing else 1)
        return replace(self, capacity=room, growing=False)

    def to_json(self) -> dict[str, object]:
        return {
            "axes": self.axes.split(),
            "sizes": dict(self.sizes),
            "pad_axis": self.pad_axis,
            "capacity": self.capacity,
            "masked": self.masked,
            "source": self.source,
        }


def fed_slots(
    declared: Mapping[str, TensorSpec], room: int, *, growing: bool = False
) -> dict[str, Slot]:
    """Return the slots of learned tensors that are fed as they are.

    Args:
        room: the capacity of the axis r, where a tensor has one.
        growing: that is of one task.
    """
    return {
        name: Slot(
            item.axes,
            item.sizes,
            "r" if "r" in item.axis_names else None,
            room,
            False,
            "learned",
            growing,
        )
        for name, item in declared.items()
    }


@runtime_checkable
class Injector(Protocol):
    """What a method's `injector` must offer."""

    @property
    def site(self) -> str: ...

    def declare(self) -> dict[str, TensorSpec]: ...

    def slots(self) -> dict[str, Slot]: ...

    def fill(self, match: Match, learned: Tensors) -> Tensors: ...

    def sites(self, slots: Tensors) -> Injection: ...


@dataclass(frozen=True)
class NoInjector:
    """The plain backbone."""

    site: str = "none"

    def declare(self) -> dict[str, TensorSpec]:
        return {}

    def slots(self) -> dict[str, Slot]:
        return {}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {}

    def sites(self, slots: Tensors) -> Injection:
        return ()
