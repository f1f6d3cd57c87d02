"""Injectors: what a method learns for its sites, and how a match turns it into an injection.

Between the two stand the slots: the tensors that a staged backbone program takes. `fill` makes
them from the bank, `sites` makes the injection from them. A slot has an axis that may be padded up
to a capacity, for engines that want fixed shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from edgecl.injection import Adapter, Injection, Tokens
from edgecl.learned import Learned, Tensors, uniform, zeros
from edgecl.matching import Match


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
    """

    axes: str
    sizes: Mapping[str, int]
    pad_axis: str | None
    capacity: int
    masked: bool
    source: Literal["match", "learned"]

    def to_json(self) -> dict[str, object]:
        return {
            "axes": self.axes.split(),
            "sizes": dict(self.sizes),
            "pad_axis": self.pad_axis,
            "capacity": self.capacity,
            "masked": self.masked,
            "source": self.source,
        }


@runtime_checkable
class Injector(Protocol):
    """What a method's `injector` must offer."""

    @property
    def site(self) -> str: ...

    def declare(self) -> dict[str, Learned]: ...

    def slots(self) -> dict[str, Slot]: ...

    def fill(self, match: Match, learned: Tensors) -> Tensors: ...

    def sites(self, slots: Tensors) -> Injection: ...


@dataclass(frozen=True)
class NoInjector:
    """The plain backbone."""

    site: str = "none"

    def declare(self) -> dict[str, Learned]:
        return {}

    def slots(self) -> dict[str, Slot]:
        return {}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {}

    def sites(self, slots: Tensors) -> Injection:
        return ()


@dataclass(frozen=True)
class PromptPool:
    """A pool of prompts; the matched ones enter block 0 behind [CLS] and stay (L2P, equation 4).

    They get the position embedding of [CLS], as in the PyTorch port.
    """

    width: int  # d
    pool: int  # prompts at the start
    length: int  # rows of one prompt
    k: int  # prompts per image
    site: str = field(default="tokens", init=False)

    def declare(self) -> dict[str, Learned]:
        return {
            "prompts": Learned(
                "m p d",
                {"p": self.length, "d": self.width},
                start={"m": self.pool},
                least={"m": self.k},
                init=uniform(1.0),
                trained=True,
            )
        }

    def slots(self) -> dict[str, Slot]:
        rows = self.k * self.length
        return {"tokens": Slot("b p d", {"d": self.width}, "p", rows, True, "match")}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        chosen = learned["prompts"][match.index]  # b k p d
        return {"tokens": chosen.flatten(1, 2)}  # b k*p d

    def sites(self, slots: Tensors) -> Injection:
        return (Tokens(slots["tokens"], positioned=True, mask=slots.get("tokens_mask")),)


@dataclass(frozen=True)
class AdapterStack:
    """An AdaptFormer adapter beside every block's MLP (Chen et al., NeurIPS 2022, equation 3)."""

    width: int  # d
    depth: int  # l
    rank: int  # r
    scale: float
    site: str = field(default="adapter", init=False)

    def declare(self) -> dict[str, Learned]:
        sizes = {"l": self.depth, "d": self.width}
        rank = {"r": self.rank}
        # Kaiming uniform with a = sqrt(5): within 1 / sqrt(fan in). The way up starts at zero.
        down = uniform(self.width**-0.5)
        return {
            "adapter_down": Learned("l d r", sizes, start=rank, init=down, trained=True),
            "adapter_down_bias": Learned(
                "l r", {"l": self.depth}, start=rank, init=zeros, trained=True
            ),
            "adapter_up": Learned("l r d", sizes, start=rank, init=zeros, trained=True),
            "adapter_up_bias": Learned("l d", sizes, init=zeros, trained=True),
        }

    def slots(self) -> dict[str, Slot]:
        return {
            name: Slot(
                item.axes,
                item.sizes,
                "r" if "r" in item.axis_names else None,
                self.rank,
                False,
                "learned",
            )
            for name, item in self.declare().items()
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(
            Adapter(
                down=slots["adapter_down"][block],
                down_bias=slots["adapter_down_bias"][block],
                up=slots["adapter_up"][block],
                up_bias=slots["adapter_up_bias"][block],
                block=block,
                scale=self.scale,
            )
            for block in range(self.depth)
        )
