"""Injectors of prompt rows."""

from dataclasses import dataclass, field

from edgecl.backbones.sites import Injection, Tokens
from edgecl.program.injectors.base import Slot
from edgecl.program.learned import Tensors, TensorSpec, uniform
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class PromptPool:
    """A pool of prompts; the matched ones enter block 0 after [CLS] and stay (L2P, equation 4).

    Attributes:
        appended: a task appends `pool` prompts to those of the former ones and trains these only
            (S-Prompts); else all are trained by all tasks.
        positioned: they get the position embedding of [CLS], as in the PyTorch port of L2P.
        bound: they start uniform in [-bound, bound].
    """

    width: int  # d
    pool: int  # prompts at the start
    length: int  # rows of one prompt
    k: int  # prompts per image
    appended: bool = False
    positioned: bool = True
    bound: float = 1.0
    site: str = field(default="tokens", init=False)

    @classmethod
    def of_tasks(cls, width: int, length: int) -> "PromptPool":
        """Return the pool of S-Prompts: a task appends one prompt, which is its own."""
        return cls(width, 1, length, 1, appended=True, positioned=False, bound=width**-0.5)

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "prompts": TensorSpec(
                "m p d",
                {"p": self.length, "d": self.width},
                concat_axis="m" if self.appended else None,
                start={"m": self.pool},
                least={"m": self.k},
                init=uniform(self.bound),
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
        return (Tokens(slots["tokens"], positioned=self.positioned, mask=slots.get("tokens_mask")),)


@dataclass(frozen=True)
class SharedPrompts:
    """Prompt rows after [CLS] that all images share (VPT, Jia et al., ECCV 2022, section 3.2).

    Shallow: one set, before block 0 and carried to the end (equation 4). Deep: a set of its
    own before every block, dropped after it (equation 7). No position embedding.
    """

    width: int  # d
    length: int  # p
    depth: int | None = None  # l, blocks of the deep form; None: shallow
    site: str = field(default="tokens", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        blocks = {} if self.depth is None else {"l": self.depth}
        # Xavier's bound for the projection of the paper's patches, 3 channels of 16 x 16 pixels.
        init = uniform((6 / (3 * 16**2 + self.width)) ** 0.5)
        return {
            "prompts": TensorSpec(
                "p d" if self.depth is None else "l p d",
                {**blocks, "d": self.width},
                start={"p": self.length},
                init=init,
                trained=True,
            )
        }

    def slots(self) -> dict[str, Slot]:
        return {
            name: Slot(item.axes, item.sizes, "p", self.length, True, "learned")
            for name, item in self.declare().items()
        }

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {"prompts": learned["prompts"]}

    def sites(self, slots: Tensors) -> Injection:
        prompts, mask = slots["prompts"], slots.get("prompts_mask")
        if self.depth is None:
            return (Tokens(prompts, mask=mask),)
        return tuple(
            Tokens(prompts[block], block, keep=False, mask=mask) for block in range(self.depth)
        )
