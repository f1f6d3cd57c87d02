"""Matchers: from the query of one image to weights over the bank.

Every matcher is a function of ONE image: nothing here looks along the batch axis (batch voting
leaks the task).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.errors import MethodError
from edgecl.program.learned import Tensors, TensorSpec


@dataclass(frozen=True, eq=False)
class Match:
    """What a matcher chose: indices into the bank, best first, and how strongly.

    Attributes:
        weights: of every entry of the bank at each of l blocks, where nothing is chosen but mixed.
    """

    index: Int[Tensor, "b k"]
    score: Float[Tensor, "b k"]
    weights: Float[Tensor, "b l m"] | None = None

    @property
    def mixture(self) -> Float[Tensor, "b l m"]:
        """Return the weights.

        Raises:
            MethodError: if the matcher chooses entries.
        """
        if self.weights is None:
            raise MethodError(
                "An injector that mixes needs a matcher that weighs every entry, got one that "
                "chooses. Use AttendedKeys."
            )
        return self.weights


@runtime_checkable
class Matcher(Protocol):
    """What a method's `matcher` must offer."""

    name: ClassVar[str]

    def declare(self) -> dict[str, TensorSpec]: ...

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match: ...


@runtime_checkable
class TaskMatcher(Matcher, Protocol):
    """A matcher whose bank has an entry per task, of which a task trains its own, the newest."""

    def own(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match: ...


@dataclass(frozen=True)
class NoMatcher:
    """One path for all images: index 0 with score 1."""

    name: ClassVar[str] = "none"

    def declare(self) -> dict[str, TensorSpec]:
        return {}

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        index = torch.zeros(query.shape[0], 1, dtype=torch.int64, device=query.device)
        return Match(index, query.new_ones(query.shape[0], 1))


def newest(query: Float[Tensor, "b d"], entries: int) -> Match:
    """Match every image with the last entry of the bank, with score 1."""
    index = torch.full((query.shape[0], 1), entries - 1, device=query.device)
    return Match(index, query.new_ones(query.shape[0], 1))
