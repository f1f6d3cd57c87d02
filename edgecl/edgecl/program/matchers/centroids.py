"""Matchers that compare the query with centroids of each task's features."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers.base import Match, newest
from edgecl.program.statistics import k_means


@dataclass(frozen=True)
class NearestCentroid:
    """The task that owns the centroid nearest to the query, by the sum of absolute differences.

    The query has length 1; the centroids are means of such queries and stay as they are
    (S-Prompts). The score is the distance, negated. A method that uses it gives every task its
    centroids (`Method.start`).
    """

    width: int  # d
    count: int  # j, centroids of one task
    name: ClassVar[str] = "nearest-centroid"

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"j": self.count, "d": self.width}
        return {"centroids": TensorSpec("m j d", sizes, concat_axis="m", start={"m": 1})}

    def of(self, queries: Float[Tensor, "n d"], generator: torch.Generator) -> Tensors:
        """Return a task's centroids from the queries of its images."""
        return {"centroids": k_means(F.normalize(queries, dim=-1), self.count, generator)[None]}

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        unit = F.normalize(query, dim=-1)[:, None, None]
        distance = (unit - learned["centroids"]).abs().sum(dim=-1).amin(dim=-1)  # b m
        index = distance.argmin(dim=-1, keepdim=True)  # among equal ones the oldest task
        return Match(index, -distance.amin(dim=-1, keepdim=True))

    def own(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Match the newest task."""
        return newest(query, len(learned["centroids"]))
