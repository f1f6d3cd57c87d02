"""S-Prompts, the image-only form S-iPrompts (Wang et al., NeurIPS 2022).

https://arxiv.org/abs/2207.12819

Injection:  the prompt of the matched task, after [CLS] before block 0, without position
            embedding, carried to the end.
Matcher:    the task that owns the nearest of all tasks' k-means centroids of frozen [CLS] features
            of length 1, by the sum of absolute differences, as in the public code.
Classifier: a linear head per task on [CLS]; rows of tasks that were not matched score `REFUSED`,
            so a wrong match is never repaired.
Differs from the paper: the centroids are of images as they are tested, not of augmented ones; all
            tasks have one schedule by default (the public code gives the first its own, see
            `schedule.later`); heads start from N(0, 0.02), not as torch's linear layers. The
            language-image form is s-liprompts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Forgets, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import PromptPool
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import NearestCentroid
from edgecl.program.task_rows import may_win, task_rows

REFUSED = -1e4  # finite in float16, below any logit of a head on normalised features


@dataclass(frozen=True)
class SPromptsConfig(MethodConfig):
    """Sizes of a task's prompt and centroids, and the schedule."""

    length: int = 10  # rows of a prompt
    centroids: int = 5  # per task
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.01, epochs=50, batch_size=128, weight_decay=2e-4
    )

    def __post_init__(self) -> None:
        at_least(1, "s-prompts", length=self.length, centroids=self.centroids)


@dataclass(frozen=True)
class MatchedHeads(Linear):
    """Linear heads, of which the matched task's alone may win."""

    def declare(self) -> dict[str, TensorSpec]:
        return {**super().declare(), **task_rows()}

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        scores = super().scores(encoded, learned)
        own = may_win(learned["head_weight"], learned, encoded.match.index[:, :1])
        return torch.where(own, scores, torch.full_like(scores, REFUSED))


@register
class SPrompts(Method[SPromptsConfig]):
    """A prompt and a head per domain, chosen by the nearest centroid."""

    name: ClassVar[str] = "s-prompts"
    title: ClassVar[str] = "S-Prompts"
    paper: ClassVar[str] = "https://arxiv.org/abs/2207.12819"
    family: ClassVar[str] = "prompts per task"
    status: ClassVar[Status] = Status(steps=9e-7)
    forgets: ClassVar[Forgets] = "tasks"
    config_type: ClassVar[type[MethodConfig]] = SPromptsConfig
    augmentation: ClassVar[str] = "coda"
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        self.centroids = NearestCentroid(spec.feature_dim, config.centroids)
        return self.compose(
            injector=PromptPool.of_tasks(spec.width, config.length),
            matcher=self.centroids,
            classifier=MatchedHeads(spec.feature_dim, on="cls"),
            passes=("plain", "injected"),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Place the task's centroids."""
        return fresh | self.centroids.of(task.queries, task.generator)
