"""EASE, Expandable Subspace Ensemble (Zhou et al., CVPR 2024), https://arxiv.org/abs/2403.12030.

Injection:  an AdaptFormer adapter parallel to every block's MLP per task, trained on its task and
            then frozen; an image runs once through each of them.
Matcher:    none: all subspaces count.
Classifier: cosine to class prototypes in the subspace of the class's own task, plus alpha times
            the mean cosine in the others (section 4.3). Prototypes of old classes in newer
            subspaces are synthesised from those of newer classes (section 4.2). With beta above 0,
            plus beta times the cosine in the plain backbone, as the authors' code has it for some
            data sets.
Differs from the paper: as in the authors' code, every task synthesises anew, from all classes of a
            subspace's task and later ones; no dropout inside the adapters.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.first_session import FirstSession
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import AdapterStack, Branches
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers.keys import cosine
from edgecl.program.statistics import class_means
from edgecl.program.task_rows import owners, task_rows


@dataclass(frozen=True)
class Subspaces:
    """Prototypes of every class in every subspace; a class's own is that of its task."""

    width: int  # d
    alpha: float  # of the subspaces of other tasks
    beta: float = 0.0  # of the plain backbone

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"d": self.width}
        plain = {"plain_prototypes": TensorSpec("c d", sizes, concat_axis="c")} if self.beta else {}
        return {"prototypes": TensorSpec("c t d", sizes), **task_rows(), **plain}

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features("injected").cls.flatten(1)  # b t*d

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Weigh the cosines (section 4.3); each subspace is normalised by itself."""
        prototypes = learned["prototypes"]
        tasks = torch.arange(prototypes.shape[1], device=prototypes.device)
        own = (owners(prototypes, learned).unsqueeze(1) == tasks).to(prototypes.dtype)  # c t
        other = 1 - own
        share = own + self.alpha * other / other.sum(dim=-1, keepdim=True).clamp(min=1)
        weighed = F.normalize(prototypes, dim=-1) * share.unsqueeze(-1)  # c t d
        features = F.normalize(encoded.features("injected").cls, dim=-1)  # b t d
        scores = features.flatten(1) @ weighed.flatten(1).T
        if not self.beta:
            return scores
        plain = cosine(encoded.features("plain").cls, learned["plain_prototypes"])
        return scores + self.beta * plain

    def fit(self, task: TaskContext) -> FitResult:
        """Return the new classes' means in all subspaces, and the old ones' with the new column."""
        means = class_means(task.features["feature"], task.labels, task.classes)
        new = means.unflatten(1, (-1, self.width))  # c t d
        prototypes = new
        if task.index:
            old = F.pad(task.learned["prototypes"], (0, 0, 0, 1))  # c t d
            prototypes = torch.cat([old, new])
        part = {"prototypes": synthesised(prototypes, owners(prototypes, task.learned))}
        if self.beta:
            plain = class_means(task.features["plain"], task.labels, task.classes)
            part["plain_prototypes"] = plain
        return FitResult(part, {})


def synthesised(
    prototypes: Float[Tensor, "c t d"], tasks: Int[Tensor, " c"]
) -> Float[Tensor, "c t d"]:
    """Fill in the prototypes of classes in the subspaces of later tasks (section 4.2).

    A class of task o is to a subspace n what it is, in the subspace o, to the classes that n knows:
    a softmax over cosines weighs their prototypes.
    """
    filled = prototypes.clone()
    for n in range(1, prototypes.shape[1]):
        known = prototypes[tasks >= n]  # means of images, in n and in all earlier subspaces
        for o in range(n):
            mine = prototypes[tasks == o, o]
            cosine = F.normalize(mine, dim=-1) @ F.normalize(known[:, o], dim=-1).T
            filled[tasks == o, n] = cosine.softmax(dim=-1) @ known[:, n]
    return filled


@dataclass(frozen=True)
class EaseConfig(MethodConfig):
    """The adapters, the weight of other subspaces and the schedule of every task."""

    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of an adapter's output
    alpha: float = 0.1  # of the other tasks' subspaces
    beta: float = 0.0  # of the plain backbone, which 0 leaves out
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.025, epochs=20, batch_size=48, weight_decay=5e-4
    )

    def __post_init__(self) -> None:
        at_least(1, "ease", rank=self.rank)


@register
class Ease(FirstSession[EaseConfig]):
    """A subspace per task; its session has its cosine head, which is then dropped."""

    name: ClassVar[str] = "ease"
    title: ClassVar[str] = "EASE"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.12030"
    family: ClassVar[str] = "subspaces"
    status: ClassVar[Status] = Status(steps=3e-6, points=0.5)
    config_type: ClassVar[type[MethodConfig]] = EaseConfig
    options: ClassVar[tuple[str, ...]] = ("scale", "alpha", "beta")
    trains: Trains = "every"
    trained_branch: ClassVar[int | None] = -1

    def build(self) -> Program:
        config, spec = self.config, self.spec
        self.subspaces = Subspaces(spec.feature_dim, config.alpha, config.beta)
        stack = AdapterStack(spec.width, spec.depth, config.rank, config.scale)
        return self.compose(
            injector=Branches(stack),
            classifier=self.subspaces,
            passes=("plain", "injected") if config.beta else ("injected",),
            cost="T + 1" if config.beta else "T",
        )

    def fit(self, task: TaskContext) -> FitResult:
        """Return the prototypes in every subspace, the plain one included if `beta` counts it."""
        return self.subspaces.fit(replace(task, features=task.encode(self._features)))

    def _features(self, encoded: Encoded, learned: Tensors) -> Tensors:
        plain = {"plain": encoded.features("plain").cls} if self.config.beta else {}
        return {"feature": self.subspaces.feature(encoded)} | plain
