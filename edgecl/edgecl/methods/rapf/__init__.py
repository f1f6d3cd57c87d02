"""RAPF, adaptive representation adjustment and parameter fusion (Huang et al., ECCV 2024).

https://arxiv.org/abs/2407.14143

Injection:  none.
Matcher:    none.
Classifier: cosine between A f, f the image feature, and the class's text embedding, under CLIP's
            temperature. All tasks train A, by cross-entropy over all rows so far on the task's
            images and on features drawn from the Gaussians of former classes; a former class whose
            name is near a new one is held to its name by a margin. After a task A is fused with the
            one before, U S V: the entries of U'A that moved most are new, the others in part.
Differs from the paper: read were the public code and the abstract. A starts at the identity, so
            that nothing learned is CLIP itself, and what ships is A - I; the public code starts as
            a linear layer of torch does (`start=random`). Training reads frozen features, without
            augmentation; a task of few images gets more epochs; the draws go through all former
            classes before one comes again. As many draws for every data set, in float32, without
            the code's `shrinkage`. Texts are read by the templates of the CLIP. A class that comes
            back in another domain has a Gaussian and a row in each, which score alike. Memory: a
            mean and a covariance per class row, which stay on the workstation.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.rapf.objective import Drawn, Objective, fused
from edgecl.methods.shared.feature_training import trained_on_features
from edgecl.methods.shared.head_alignment import Gaussians
from edgecl.methods.shared.named_rows import NamedRows
from edgecl.methods.shared.text_method import TextMethodConfig, text_spec
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers.texts import MappedTexts
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import uniform


@dataclass(frozen=True)
class RapfConfig(TextMethodConfig):
    """How A starts, what is drawn, how it is fused, and the schedule of every task."""

    start: Literal["identity", "random"] = "identity"  # of A in the first task
    former: int = 2  # former classes in a batch
    draws: int = 20  # features of each; twice as many of each near pair
    near: float = 0.55  # distance of two names' embeddings below which they are a pair
    margin: float = 0.1  # of the cosine with the own name over that with the new one
    fresh: float = 0.6  # least share of the new A in an entry after the fusion
    schedule: TrainConfig = TrainConfig(
        "adam", lr=1e-3, epochs=15, batch_size=100, cosine=False, milestones=(4, 10), min_steps=300
    )

    def __post_init__(self) -> None:
        at_least(1, "rapf", former=self.former, draws=self.draws)
        if not 0 <= self.fresh <= 1:
            raise MethodError(f"rapf.fresh must be in [0, 1], got {self.fresh}. Use 0.6.")


@register
class Rapf(NamedRows[RapfConfig]):
    """One linear map of image features, trained by all tasks."""

    name: ClassVar[str] = "rapf"
    title: ClassVar[str] = "RAPF"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.14143"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=7e-6)
    config_type: ClassVar[type[MethodConfig]] = RapfConfig

    def build(self) -> Program:
        self.factor = torch.tensor(text_spec(self.spec).logit_scale).exp()
        texts = MappedTexts(self.spec.feature_dim, text_spec(self.spec).logit_scale)
        return self.compose(classifier=texts, passes=("plain",))

    def fit(self, task: TaskContext) -> FitResult:
        """Train A on the task's features and on drawn ones, and fuse it with the one before."""
        config = self.config
        own = Gaussians.of(task.queries, task.labels, task.classes, task.index)
        former = Gaussians.from_tensors(task.state) if task.index else None
        before = task.learned["map"] if task.index else self._start(task)
        drawn = Drawn(config.former, config.draws, config.near, config.margin)
        loss = Objective(task, self.factor, former, drawn)
        after = trained_on_features(before, task, config.schedule, loss, self.name)
        if former is None:
            return FitResult({"map": after}, own.to_tensors())
        part = {"map": fused(after, before, config.fresh)}
        return FitResult(part, former.plus(own).to_tensors())

    def _start(self, task: TaskContext) -> Float[Tensor, "g f"]:
        """Return A - I before the first task."""
        size = self.spec.feature_dim
        if self.config.start == "identity":
            return torch.zeros(size, size)
        return uniform(size**-0.5)((size, size), task.generator) - torch.eye(size)
