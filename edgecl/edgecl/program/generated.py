"""Learned tensors that a named generator makes; the device makes the same bits.

The one implementation is `edgecl_deploy.format`, which owns what a pack may hold (ADR 0013).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from edgecl_deploy.format import IRWIN_HALL, generate


@dataclass(frozen=True)
class Generated:
    """A generator and its seed.

    Attributes:
        name: a generator of the pack format; the default is nearly normal, with variance 1.
        seed: from 0 to 2^53 - 1.
    """

    seed: int
    name: str = IRWIN_HALL

    def make(self, shape: tuple[int, ...]) -> Tensor:
        """Return the tensor in float32; it is shared, so nobody may write to it."""
        return _make(self.name, self.seed, shape)


@lru_cache(maxsize=4)
def _make(name: str, seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(generate(name, seed, shape).copy())
