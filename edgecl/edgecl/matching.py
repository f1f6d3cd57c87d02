"""Matchers: from the query of one image to weights over the bank.

Every matcher is a function of ONE image: nothing here looks along the batch axis (batch voting
leaks the task).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.learned import Learned, Tensors, uniform


@dataclass(frozen=True, eq=False)
class Match:
    """What a matcher chose: indices into the bank, best first, and how strongly."""

    index: Int[Tensor, "b k"]
    score: Float[Tensor, "b k"]


@runtime_checkable
class Matcher(Protocol):
    """What a method's `matcher` must offer."""

    name: ClassVar[str]

    def declare(self) -> dict[str, Learned]: ...

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match: ...


@dataclass(frozen=True)
class NoMatcher:
    """One path for all images: index 0 with score 1."""

    name: ClassVar[str] = "none"

    def declare(self) -> dict[str, Learned]:
        return {}

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        index = torch.zeros(query.shape[0], 1, dtype=torch.int64, device=query.device)
        return Match(index, query.new_ones(query.shape[0], 1))


@dataclass(frozen=True)
class TopK:
    """The k keys of the pool nearest to the query by cosine (L2P, equation 3).

    Among equal keys any may be chosen.
    """

    width: int  # d
    pool: int  # keys at the start
    k: int
    name: ClassVar[str] = "top-k"

    def declare(self) -> dict[str, Learned]:
        return {
            "prompt_keys": Learned(
                "m d",
                {"d": self.width},
                start={"m": self.pool},
                least={"m": self.k},
                init=uniform(1.0),
                trained=True,
            )
        }

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        cosine = F.normalize(query, dim=-1) @ F.normalize(learned["prompt_keys"], dim=-1).T  # b m
        score, index = cosine.topk(self.k, dim=-1)
        return Match(index, score)
