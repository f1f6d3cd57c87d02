"""Class means, compared by cosine."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.statistics import class_means
from edgecl_deploy.format import MEAN, Enrol


@dataclass(frozen=True)
class CosinePrototypes:
    """Class means of the [CLS] features of the passes side by side, compared by cosine.

    The means are of raw features and the passes are concatenated raw, so a pass of larger norm
    weighs more (Zhou et al., IJCV 2024, equation 5; https://arxiv.org/abs/2303.07338).

    More images of a known class move its mean, as if all had been learned at once; in another
    domain it gets a mean of its own.
    """

    width: int  # d
    passes: tuple[str, ...]  # s

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"s": len(self.passes), "d": self.width}
        return {"prototypes": TensorSpec("c s d", sizes, concat_axis="c")}

    def enrol(self) -> Enrol:
        return Enrol(MEAN, "prototypes", columns=(0, len(self.passes) * self.width))

    @property
    def adds(self) -> str:
        return MEAN

    @property
    def summed_size(self) -> int:
        return len(self.passes) * self.width

    @property
    def summed_one(self) -> bool:
        return False

    def summed(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b f"]:
        return feature

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return torch.cat([encoded.features(which).cls for which in self.passes], dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        prototypes = learned["prototypes"].flatten(1)  # c s*d
        return F.normalize(self.feature(encoded), dim=-1) @ F.normalize(prototypes, dim=-1).T

    def fit(self, task: TaskContext) -> FitResult:
        """Return the class means."""
        if task.sums is None:
            means = class_means(task.features["feature"], task.labels, task.classes)
        else:
            means = task.sums.means().float()
        means = means.unflatten(1, (len(self.passes), self.width))
        if not task.moves:
            return FitResult({"prototypes": means})
        fresh = task.counts.tolist()
        live: dict[str, list[int]] = {}  # a class that was merged may have several
        for row, name in enumerate(task.class_rows[: -task.classes]):
            if task.row_images[row]:
                live.setdefault(name, []).append(row)
        for own, name in enumerate(task.names):
            if name in live:
                before = torch.tensor([task.row_images[row] for row in live[name]])
                former = task.learned["prototypes"][live[name]].double()
                mean = (before[:, None, None] * former).sum(dim=0)
                mean += fresh[own] * means[own].double()
                means[own] = mean / (int(before.sum()) + fresh[own])
        moved = tuple(name for name in task.names if name in live)
        return FitResult({"prototypes": means}, moved=moved)
