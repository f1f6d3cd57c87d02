"""BOFA, bridge-layer orthogonal low-rank fusion (Li et al., AAAI 2026).

https://arxiv.org/abs/2511.11421

Injection:  a change P of CLIP's projection W0, the mean over the tasks of what each found: task 1 a
            free D, a later task A A'D with A the `rank` eigenvectors of smallest eigenvalue of the
            mean uncentred covariance of former tasks' features x before the projection. Former
            images, whose x have next to nothing along A, keep their features but for the mean.
Matcher:    none.
Classifier: 0.9 of the cosine of x (W0 + P) to s text + (1 - s) mean, the class's text embedding and
            mean feature x W0, each at length 1, plus 0.1 of the linear discriminant of x (W0 + P)
            from sums over all tasks. s is the best of 21 on the training images of the first task.
Differs from the paper: read were the abstract and the public code (C3Box), which trains W whole;
            its decay draws W towards 0, here D. It trains as here for 15 epochs, D going on from
            the former task's; its two epochs on A'D alone have a rate near 0 and are left out, as
            is a linear head that nothing reads. It searches s as here and then exchanges the two,
            and multiplies the cosine by the logarithm of CLIP's factor (`factor`). Its discriminant
            reads x at length 1, with the mean of inverse covariances over tasks, ours any length.
            Training reads frozen features, under all templates. A class that comes back in another
            domain has a row in each, the newest trained; one to come scores by its text embedding.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.feature_training import trained_on_features
from edgecl.methods.shared.named_rows import LearnedBesideNames
from edgecl.methods.shared.text_method import TextMethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.additive import CPU
from edgecl.program.classifiers.discriminant import NamedDiscriminant, discriminants, with_one
from edgecl.program.classifiers.mixed import MixedPrototypes, projected, text_share
from edgecl.program.classifiers.ridge import Seen
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import ProjectionChange
from edgecl.program.statistics import along_least


@dataclass(frozen=True)
class BofaConfig(TextMethodConfig):
    """The subspace, the mixture and the schedule of every task."""

    rank: int = 64  # eigenvectors along which later tasks may change the projection
    share: float = 0.1  # of the discriminant in a score
    factor: float = 4.6  # on the cosine in training, the logarithm of 100
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.05, epochs=15, batch_size=128, weight_decay=0.05
    )

    def __post_init__(self) -> None:
        at_least(1, "bofa", rank=self.rank)
        if not (0 < self.share < 1 and self.factor > 0):
            raise MethodError(
                "bofa.share must be in (0, 1) and bofa.factor above 0, got "
                f"{self.share} and {self.factor}. Use 0.1 and 4.6."
            )


@register
class Bofa(LearnedBesideNames[BofaConfig]):
    """A projection that later tasks change where former features are not."""

    name: ClassVar[str] = "bofa"
    title: ClassVar[str] = "BOFA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.11421"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=4e-6)
    config_type: ClassVar[type[MethodConfig]] = BofaConfig

    def build(self) -> Program:
        width, features = self.spec.width, self.spec.feature_dim
        self.lda = NamedDiscriminant(features, "trace", share=self.config.share)
        self.head = MixedPrototypes(self.lda)
        return self.compose(
            injector=ProjectionChange(width, features),
            classifier=self.head,
            passes=("injected",),
        )

    def fit(self, task: TaskContext) -> FitResult:
        """Train the change, project it, and make the head of all rows with the mean so far."""
        plain, x = self._features(task)
        both = replace(task, features={"feature": torch.cat([plain, x], dim=1)})
        size = plain.shape[1] + x.shape[1] + 1
        seen = Seen.of(both, lambda feature, _: with_one(feature), size, domains=True)
        total, rows = seen.total.to(CPU), seen.owner[-task.classes :]
        means = (total.moments[: plain.shape[1], rows] / total.moments[-1, rows]).T.float()
        former, texts = task.learned["texts"].split([len(seen.owner) - len(rows), len(rows)])
        images = F.normalize(means, dim=-1)
        state = dict(task.state)
        if not task.index:
            state["of_text"] = text_share(F.normalize(plain, dim=-1), task.labels, images, texts)
        mixed = state["of_text"] * texts + (1 - state["of_text"]) * images
        state["free"] = self._trained(task, plain, x, torch.cat([former, mixed]))
        change = state["free"]
        if task.index:
            least = along_least(change, state["square"], self.config.rank)
            change = (task.index * task.learned["projection"] + least) / (task.index + 1)
        square = x.double().T @ x.double() / max(1, len(x) - 1)
        state["square"] = state["square"] + square if task.index else square
        head = discriminants(projected(total, change), seen.owner, "trace")
        part = {"projection": change, "texts": mixed, **self.lda.part(head)}
        return FitResult(part, state | {"gram": total.gram, "moments": total.moments})

    def _features(self, task: TaskContext) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n w"]]:
        """Return x W0 and x, read off by changes of the projection that add entries of x to it."""
        width, features = self.spec.width, self.spec.feature_dim

        def under(change: Float[Tensor, "w f"]) -> Float[Tensor, "n f"]:
            found = task.encode(
                lambda e, _: {"feature": e.features("injected").cls}, {"projection": change}
            )
            return found["feature"]

        plain = under(torch.zeros(width, features))
        parts = []
        for entries in torch.eye(width).split(features, dim=1):
            change = F.pad(entries, (0, features - entries.shape[1]))
            parts.append((under(change) - plain)[:, : entries.shape[1]])
        return plain, torch.cat(parts, dim=1)

    def _trained(
        self, task: TaskContext, plain: Tensor, x: Tensor, prototypes: Tensor
    ) -> Float[Tensor, "w f"]:
        """Return D after cross-entropy over all rows, on the cosine times `factor`."""
        start = task.state.get("free", torch.zeros(self.spec.width, self.spec.feature_dim))
        first = len(prototypes) - task.classes
        again = [name in task.names for name in task.class_rows[:first]]
        hidden = F.pad(torch.tensor(again, dtype=torch.bool), (0, task.classes))

        def loss(change: Tensor, batch: Tensor) -> Tensor:
            feature = F.normalize(plain[batch] + x[batch] @ change, dim=-1)
            logits = self.config.factor * feature @ prototypes.T
            logits = logits.masked_fill(hidden, -torch.inf)
            return F.cross_entropy(logits, task.labels[batch] + first)

        return trained_on_features(start, task, self.config.schedule, loss, self.name)
