"""The sums of one task, as a run keeps them: a task can be taken out of the total.

The total of a run is what the sums of its tasks give, added up in their order. Without one of them
the others give, bit for bit, the total of a run that never had it.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from edgecl.program.learned import Tensors
from edgecl_deploy.format import packed as triangle
from edgecl_deploy.format import unpacked as symmetric

# What a run keeps of the sums: the total, or also those of each task.
KeptSums: TypeAlias = Literal["total", "task"]
# Where a lambda is from: the rule of the method, generalised cross-validation, the former task, or
# whoever asked for the task.
How: TypeAlias = Literal["choose", "gcv", "keep", "given"]
HOWS: tuple[How, ...] = get_args(How)  # by their numbers in a file


def packed(gram: Float64[Tensor, "m m"]) -> Float64[Tensor, "..."]:
    """Return the lower triangle [m (m + 1) / 2], row by row; the whole where it is not symmetric.

    No law makes a matrix product of a matrix and itself symmetric to the last bit.
    """
    return torch.from_numpy(triangle(gram.numpy())) if torch.equal(gram, gram.T) else gram


def unpacked(stored: Float64[Tensor, "..."]) -> Float64[Tensor, "m m"]:
    """Return what `packed` was given."""
    if stored.dim() == 2:
        return stored
    size = (math.isqrt(8 * len(stored) + 1) - 1) // 2
    return torch.from_numpy(symmetric(stored.numpy(), size))


@dataclass(frozen=True)
class After:
    """What is known after a task besides its sums.

    Attributes:
        class_rows: the class of every class row so far, the task's last.
        images: of all tasks so far.
        moves: as of `TaskContext`.
    """

    class_rows: tuple[str, ...]
    images: int
    moves: bool


@dataclass(frozen=True, eq=False)
class TaskSums:
    """The sums over the images of one task, and the weight that was chosen on them.

    Attributes:
        gram: H'H.
        moments: H'Y of each class row that the task brought.
        weight: the lambda of a ridge head, before `Sums.factor` raised it; 0 where there is none.
        how: where it is from; None where there is none, or an older version stored it.
    """

    gram: Float64[Tensor, "m m"]
    moments: Float64[Tensor, "m k"]
    weight: float = 0.0
    how: How | None = None

    @classmethod
    def of(
        cls,
        gram: Float64[Tensor, "m m"],
        moments: Float64[Tensor, "m c"],
        owner: Int[Tensor, " c"],
        classes: int,
        weight: float = 0.0,
        how: How | None = None,
    ) -> "TaskSums":
        """Take the sums of a task out of those of all class rows.

        Args:
            owner: of every class row, the one under which its sums are; the task's are the last.
            classes: how many the task brought.
        """
        own = owner[len(owner) - classes :].to(moments.device)
        return cls(gram.cpu(), moments[:, own].cpu(), weight, how)

    def among(self, owner: Int[Tensor, " c"]) -> Float64[Tensor, "m c"]:
        """Return H'Y of all class rows so far, `owner` as of `of`."""
        moments = torch.zeros(len(self.moments), len(owner), dtype=self.moments.dtype)
        classes = self.moments.shape[1]
        for own, row in enumerate(owner[len(owner) - classes :].tolist()):
            moments[:, row] += self.moments[:, own]
        return moments

    def to_tensors(self) -> Tensors:
        """Return what a file holds."""
        weight = torch.tensor([self.weight], dtype=torch.float64)
        found = {"gram": packed(self.gram), "moments": self.moments.contiguous(), "weight": weight}
        return found if self.how is None else found | {"how": torch.tensor([HOWS.index(self.how)])}

    @classmethod
    def of_tensors(cls, stored: Tensors) -> "TaskSums":
        """Read what `to_tensors` gave."""
        how = HOWS[int(stored["how"])] if "how" in stored else None
        return cls(unpacked(stored["gram"]), stored["moments"], float(stored["weight"]), how)
