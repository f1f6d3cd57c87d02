"""Injectors of prefixes: learned rows that are keys and values of the attention of some blocks.

The axis s holds the two kinds: 0 keys, 1 values. A prefix of one image is in one piece after the
batch axis, so no reshape can mix images, or keys with values.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.sites import Injection, Prefix
from edgecl.program.injectors.base import Slot
from edgecl.program.learned import Init, Tensors, TensorSpec, uniform
from edgecl.program.matchers import Match

Mode = Literal["concatenated", "compensated", "residual"]
WIDE = uniform(1.0)


def silent(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start with keys uniform in [-1, 1] and values of zero: a residual prefix that does nothing.

    Args:
        shape: [..., s, p, d].
    """
    rows = WIDE(shape, generator)
    rows[..., 1, :, :] = 0
    return rows


def weighted(
    rows: Float[Tensor, "*b l 2 p d"], weight: Float[Tensor, "*b"]
) -> Float[Tensor, "*b l 2 p d"]:
    """Give residual prefixes a weight: what they add is linear in their values, which carry it."""
    kinds = torch.stack([torch.ones_like(weight), weight], dim=-1)  # *b s
    return rows * kinds[..., None, :, None, None]


@dataclass(frozen=True)
class Prefixes:
    """What all injectors of prefixes share."""

    width: int  # d, of the rows between blocks
    blocks: tuple[int, ...]  # l of them
    length: int  # p, rows of the keys, and as many of the values
    mode: Mode = "concatenated"
    site: str = field(default="prefix", init=False)

    @property
    def sizes(self) -> dict[str, int]:
        return {"l": len(self.blocks), "s": 2, "d": self.width}

    def at_blocks(
        self, rows: Float[Tensor, "*b l 2 p d"], mask: Float[Tensor, " p"] | None
    ) -> Injection:
        """Give each block its keys and values."""
        return tuple(
            Prefix(rows[..., i, 0, :, :], rows[..., i, 1, :, :], block, self.mode, mask=mask)
            for i, block in enumerate(self.blocks)
        )


@dataclass(frozen=True)
class SharedPrefix(Prefixes):
    """One prefix for all images; every task goes on training it."""

    init: Init = WIDE

    def declare(self) -> dict[str, TensorSpec]:
        start = {"g": self.length}
        return {
            "shared_prefix": TensorSpec(
                "l s g d", self.sizes, start=start, init=self.init, trained=True
            )
        }

    def slots(self) -> dict[str, Slot]:
        return {"shared_prefix": Slot("l s g d", self.sizes, "g", self.length, True, "learned")}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {"shared_prefix": learned["shared_prefix"]}

    def sites(self, slots: Tensors) -> Injection:
        return self.at_blocks(slots["shared_prefix"], slots.get("shared_prefix_mask"))


@dataclass(frozen=True)
class MatchedPrefix(Prefixes):
    """A prefix that the match makes: its length in a slot may vary, up to `length`.

    A residual one has that length: zeros add nothing.
    """

    def slots(self) -> dict[str, Slot]:
        if self.mode == "residual":
            sizes = {**self.sizes, "p": self.length}
            return {"prefix": Slot("b l s p d", sizes, None, self.length, False, "match")}
        return {"prefix": Slot("b l s p d", self.sizes, "p", self.length, True, "match")}

    def sites(self, slots: Tensors) -> Injection:
        return self.at_blocks(slots["prefix"], slots.get("prefix_mask"))


@dataclass(frozen=True)
class TaskPrefixes(MatchedPrefix):
    """A bank with one prefix per task; an image gets the one it matches best.

    In mode `residual` the score of the match is the prefix's weight.
    """

    init: Init = WIDE

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "task_prefixes": TensorSpec(
                "t l s p d",
                {**self.sizes, "p": self.length},
                concat_axis="t",
                start={"t": 1},
                init=self.init,
                trained=True,
            )
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        rows = learned["task_prefixes"][match.index[:, 0]]  # b l s p d
        residual = self.mode == "residual"
        return {"prefix": weighted(rows, match.score[:, 0]) if residual else rows}


@dataclass(frozen=True)
class MixedPrefixes(MatchedPrefix):
    """A bank of components; an image gets their sum under its weights, block by block."""

    components: int = 1  # m, that each task adds

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "components": TensorSpec(
                "m l s p d",
                {**self.sizes, "p": self.length},
                concat_axis="m",
                start={"m": self.components},
                init=uniform(1.0),
                trained=True,
            )
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        bank = learned["components"].flatten(2).transpose(0, 1)  # l m s*p*d
        mixed = match.mixture.transpose(0, 1) @ bank  # l b s*p*d
        return {"prefix": mixed.transpose(0, 1).unflatten(-1, (2, self.length, self.width))}
