"""Injectors of a change of the projection."""

from dataclasses import dataclass, field

from edgecl.backbones.sites import Injection, Projection
from edgecl.program.injectors.base import Slot, fed_slots
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class ProjectionChange:
    """What is added to the projection of the last rows into the features; a method computes it."""

    width: int  # w, of what the projection reads
    features: int  # f
    site: str = field(default="projection", init=False)

    def declare(self) -> dict[str, TensorSpec]:
        return {"projection": TensorSpec("w f", {"w": self.width, "f": self.features})}

    def slots(self) -> dict[str, Slot]:
        return fed_slots(self.declare(), 1)

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {"projection": learned["projection"]}

    def sites(self, slots: Tensors) -> Injection:
        return (Projection(slots["projection"]),)
