"""Matchers that compare the query with learned keys by cosine."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Tensors, TensorSpec, uniform
from edgecl.program.matchers.base import Match, newest


@dataclass(frozen=True)
class TopK:
    """The k keys of the pool nearest to the query by cosine (L2P, equation 3).

    Among equal keys any may be chosen.
    """

    width: int  # d
    pool: int  # keys at the start
    k: int
    name: ClassVar[str] = "top-k"

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "prompt_keys": TensorSpec(
                "m d",
                {"d": self.width},
                start={"m": self.pool},
                least={"m": self.k},
                init=uniform(1.0),
                trained=True,
            )
        }

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        score, index = cosine(query, learned["prompt_keys"]).topk(self.k, dim=-1)
        return Match(index, score)


@dataclass(frozen=True)
class TaskKeys:
    """The task whose key is nearest to the query by cosine (DualPrompt)."""

    width: int  # d
    bound: float = 1.0  # keys start uniform in [-bound, bound]
    name: ClassVar[str] = "task-key"

    def declare(self) -> dict[str, TensorSpec]:
        return {
            "task_keys": TensorSpec(
                "t d",
                {"d": self.width},
                concat_axis="t",
                start={"t": 1},
                init=uniform(self.bound),
                trained=True,
            )
        }

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        score, index = cosine(query, learned["task_keys"]).topk(1, dim=-1)
        return Match(index, score)

    def own(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Match the newest task; the score is the cosine with its key."""
        keys = learned["task_keys"]
        return replace(newest(query, len(keys)), score=cosine(query, keys[-1:]))


def cosine(query: Float[Tensor, "b d"], keys: Float[Tensor, "m d"]) -> Float[Tensor, "b m"]:
    """Return the cosine of every query with every key."""
    return F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T
