"""EASE, Expandable Subspace Ensemble (Zhou et al., CVPR 2024), https://arxiv.org/abs/2403.12030.

Injection:  an AdaptFormer adapter beside every block's MLP per task, trained on its task and then
            frozen; an image runs once through each of them.
Matcher:    none: all subspaces count.
Classifier: cosine to class prototypes in the subspace of the class's own task, plus alpha times
            the mean cosine in the others (section 4.3). Prototypes of old classes in newer
            subspaces are synthesised from those of newer classes (section 4.2).
Differs from the paper: as in the authors' code, every task synthesises anew, from all classes of a
            subspace's task and later ones; no dropout inside the adapters.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.classifiers import Encoded
from edgecl.first_session import FirstSession
from edgecl.fitting import Fitted, TaskView
from edgecl.injectors import AdapterStack, Branches
from edgecl.learned import Learned, Tensors
from edgecl.methods import register
from edgecl.methods.base import MethodError, Pass, Place, Schedule
from edgecl.statistics import class_means


@dataclass(frozen=True)
class Subspaces:
    """Prototypes of every class in every subspace, and whose subspace is a class's own."""

    width: int  # d
    alpha: float

    def declare(self) -> dict[str, Learned]:
        return {"prototypes": Learned("c t d", {"d": self.width}), "owner": Learned("c t", {})}

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features("injected").cls.flatten(1)  # b t*d

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Weigh the cosines (section 4.3); each subspace is normalised by itself."""
        own = learned["owner"]
        other = 1 - own
        share = own + self.alpha * other / other.sum(dim=-1, keepdim=True).clamp(min=1)  # c t
        weighed = F.normalize(learned["prototypes"], dim=-1) * share.unsqueeze(-1)  # c t d
        features = F.normalize(encoded.features("injected").cls, dim=-1)  # b t d
        return features.flatten(1) @ weighed.flatten(1).T

    def fit(self, task: TaskView) -> Fitted:
        """Return the new classes' means in all subspaces, and the old ones' with the new column."""
        means = class_means(task.features["feature"], task.labels, task.classes)
        new = means.unflatten(1, (-1, self.width))  # c t d
        owners = torch.full((task.classes,), task.index)
        prototypes = new
        if task.index:
            old = F.pad(task.learned["prototypes"], (0, 0, 0, 1))  # c t d
            prototypes = torch.cat([old, new])
            owners = torch.cat([task.learned["owner"].argmax(dim=-1), owners])
        owner = F.one_hot(owners, task.index + 1).float()
        return Fitted({"prototypes": synthesised(prototypes, owners), "owner": owner}, {})


def synthesised(
    prototypes: Float[Tensor, "c t d"], owners: Int[Tensor, " c"]
) -> Float[Tensor, "c t d"]:
    """Fill in the prototypes of classes in the subspaces of later tasks (section 4.2).

    A class of task o is to a subspace n what it is, in the subspace o, to the classes that n knows:
    a softmax over cosines weighs their prototypes.
    """
    filled = prototypes.clone()
    for n in range(1, prototypes.shape[1]):
        known = prototypes[owners >= n]  # means of images, in n and in all earlier subspaces
        for o in range(n):
            mine = prototypes[owners == o, o]
            cosine = F.normalize(mine, dim=-1) @ F.normalize(known[:, o], dim=-1).T
            filled[owners == o, n] = cosine.softmax(dim=-1) @ known[:, n]
    return filled


@dataclass(frozen=True)
class EaseConfig:
    """The adapters, the weight of other subspaces and the schedule of every task."""

    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of an adapter's output
    alpha: float = 0.1  # of the other tasks' subspaces
    schedule: Schedule = Schedule("sgd", lr=0.025, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise MethodError(f"ease.rank must be at least 1, got {self.rank}. Raise it.")


@register
class Ease(FirstSession):
    """A subspace per task; its session has its cosine head, which is then dropped."""

    name: ClassVar[str] = "ease"
    title: ClassVar[str] = "EASE"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.12030"
    family: ClassVar[str] = "subspaces"
    config_type: ClassVar[type] = EaseConfig
    passes: tuple[Pass, ...] = ("injected",)
    runs: ClassVar[str] = "T"
    graph_config: ClassVar[tuple[str, ...]] = ("scale", "alpha")
    trained_branch: ClassVar[int | None] = -1

    def build(self, config: EaseConfig, place: Place) -> None:
        stack = AdapterStack(place.row, place.depth, config.rank, config.scale)
        self.injector = Branches(stack)
        self.classifier = Subspaces(place.width, config.alpha)

    def trains(self, task: int) -> bool:
        return True
