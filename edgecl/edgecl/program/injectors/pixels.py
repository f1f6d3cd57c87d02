"""Injectors of values that are added to an image."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edgecl.backbones.sites import Injection, Pixels
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match

Form: TypeAlias = Literal["full", "frame", "tile"]


@dataclass(frozen=True)
class PixelPrompts:
    """Values added to the normalised pixels; they start at zero, where all is as without.

    Attributes:
        form: `full` has one for every pixel; `frame` for those at most `width` from the edge
            (visual prompting, Bahng et al., 2022, arXiv 2203.17274); `tile` has a square that
            repeats over the image, and `width` divides `side`.
        per_task: each task appends its own, of which the matched one is added; else all images
            share one.
    """

    side: int  # s, pixels of an image's side
    form: Form
    width: int  # pixels: of a frame's border, or a tile's side
    per_task: bool = False
    site: str = field(default="pixels", init=False)

    def added(self) -> dict[str, TensorSpec]:
        """Declare what is added to one image."""

        def item(axes: str, high: int, wide: int) -> TensorSpec:
            sizes = {"edge": 2, "rgb": 3, "h": high, "w": wide}
            return TensorSpec(axes, {axis: sizes[axis] for axis in axes.split()}, trained=True)

        if self.form == "full":
            return {"pixels": item("rgb h w", self.side, self.side)}
        if self.form == "tile":
            return {"pixel_tile": item("rgb h w", self.width, self.width)}
        inner = self.side - 2 * self.width
        return {
            "pixel_rows": item("edge rgb h w", self.width, self.side),  # at the top, the bottom
            "pixel_columns": item("edge rgb h w", inner, self.width),  # left, right, between them
        }

    def declare(self) -> dict[str, TensorSpec]:
        if not self.per_task:
            return self.added()
        return {
            f"task_{name}": replace(item, axes=f"t {item.axes}", concat_axis="t", start={"t": 1})
            for name, item in self.added().items()
        }

    def slots(self) -> dict[str, Slot]:
        if not self.per_task:
            return fed_slots(self.added(), 1)
        return {
            name: Slot(f"b {item.axes}", item.sizes, None, 1, False, "match")
            for name, item in self.added().items()
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        if not self.per_task:
            return {name: learned[name] for name in self.added()}
        return {name: learned[f"task_{name}"][match.index[:, 0]] for name in self.added()}

    def sites(self, slots: Tensors) -> Injection:
        return (Pixels(self.image(slots)),)

    def image(self, slots: Tensors) -> Tensor:
        """Return what is added, [*g, 3, s, s]."""
        if self.form == "full":
            return slots["pixels"]
        if self.form == "tile":
            times = self.side // self.width
            return torch.tile(slots["pixel_tile"], (times, times))
        top, bottom = slots["pixel_rows"].unbind(-4)
        left, right = slots["pixel_columns"].unbind(-4)
        nothing = left.new_zeros(*left.shape[:-1], self.side - 2 * self.width)
        middle = torch.cat([left, nothing, right], dim=-1)
        return torch.cat([top, middle, bottom], dim=-2)
