"""Injectors of a row that [CLS] makes of a bank, before one block."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.attended import attended
from edgecl.backbones.sites import AttendedToken, Injection
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec, normal, ones, zeros
from edgecl.program.matchers import Match

LAYERS = 8  # of the generator: two on the way in, four of its attention, two on the way out
ROOM = 10  # classes of a task, for which fixed slots have room


@dataclass(frozen=True)
class AttendedPrompt:
    """One row after [CLS], from a block on, made by attention over one row per class (APG).

    Every task trains what makes it, and appends the rows of its classes.
    """

    width: int  # d
    block: int  # that it enters first
    heads: int = 4
    site: str = field(default="tokens", init=False)

    def generator(self) -> dict[str, TensorSpec]:
        """Declare what makes the row."""
        layers, width = {"g": LAYERS}, {"d": self.width}
        weight = {**layers, **width, "e": self.width}
        start = normal(0.02)
        return {
            "generator_weight": TensorSpec("g d e", weight, init=start, trained=True),
            "generator_bias": TensorSpec("g d", layers | width, init=zeros, trained=True),
            "generator_scale": TensorSpec("d", width, init=ones, trained=True),
            "generator_shift": TensorSpec("d", width, init=zeros, trained=True),
        }

    def declare(self) -> dict[str, TensorSpec]:
        rows = TensorSpec("c d", {"d": self.width}, "c", init=normal(0.02), trained=True)
        return {**self.generator(), "class_tokens": rows}

    def slots(self) -> dict[str, Slot]:
        bank = Slot("c d", {"d": self.width}, "c", ROOM, True, "learned", growing=True)
        return {**fed_slots(self.generator(), 1), "class_tokens": bank}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return (self.item(slots),)

    def item(self, slots: Tensors) -> AttendedToken:
        """Return the item of the site."""
        return AttendedToken(
            weight=slots["generator_weight"],
            bias=slots["generator_bias"],
            norm_scale=slots["generator_scale"],
            norm_shift=slots["generator_shift"],
            bank=slots["class_tokens"],
            block=self.block,
            heads=self.heads,
            mask=slots.get("class_tokens_mask"),
        )

    def made(
        self, x: Float[Tensor, "b d"], learned: Tensors
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "h b c"]]:
        """Return the row of each [CLS], and its attention logits over the bank."""
        row, logits = attended(self.item(learned), x)
        return row, logits[..., 1:]
