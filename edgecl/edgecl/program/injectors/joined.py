"""Injectors side by side."""

from dataclasses import dataclass

from edgecl.backbones.sites import Injection
from edgecl.program.injectors.base import Injector, Slot
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match


@dataclass(frozen=True)
class Joined:
    """Several injectors; their items add up, so no block may get two prefixes.

    The backbone is asked for the first one's site only: it has all sites or none.
    """

    parts: tuple[Injector, ...]

    @property
    def site(self) -> str:
        return self.parts[0].site

    def declare(self) -> dict[str, TensorSpec]:
        return {name: item for part in self.parts for name, item in part.declare().items()}

    def slots(self) -> dict[str, Slot]:
        return {name: slot for part in self.parts for name, slot in part.slots().items()}

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {n: value for part in self.parts for n, value in part.fill(match, learned).items()}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(item for part in self.parts for item in part.sites(slots))
