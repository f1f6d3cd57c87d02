"""S-Prompts, the image-only form S-iPrompts (Wang et al., NeurIPS 2022).

https://arxiv.org/abs/2207.12819

Injection:  the prompt of the matched task, behind [CLS] in front of block 0, without position
            embedding, carried to the end.
Matcher:    the task that owns the nearest of all tasks' k-means centroids of frozen [CLS] features
            of length 1, by the sum of absolute differences, as in the public code.
Classifier: a linear head per task on [CLS]; rows of tasks that were not matched score `REFUSED`,
            so a wrong match is never repaired.
Differs from the paper: the centroids are of images as they are tested, not of augmented ones; all
            tasks have one schedule (the public code gives the first its own); the language-image
            form is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.classifiers import Encoded, Linear
from edgecl.fitting import TaskView
from edgecl.injectors import PromptPool
from edgecl.learned import Learned, Tensors
from edgecl.matching import Match, NearestCentroid
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, MethodError, Pass, Place, Schedule
from edgecl.statistics import k_means

REFUSED = -1e4  # finite in float16, below any logit of a head on normalised features


@dataclass(frozen=True)
class SPromptsConfig:
    """Sizes of a task's prompt and centroids, and the schedule."""

    length: int = 10  # rows of a prompt
    centroids: int = 5  # per task
    schedule: Schedule = Schedule("sgd", lr=0.01, epochs=50, batch_size=128, weight_decay=2e-4)

    def __post_init__(self) -> None:
        if min(self.length, self.centroids) < 1:
            raise MethodError(
                "s-prompts.length and s-prompts.centroids must be at least 1, got "
                f"{self.length} and {self.centroids}. Raise it."
            )


@dataclass(frozen=True)
class TaskHeads(Linear):
    """Linear heads, of which the matched task's alone may win.

    `owner` holds the task of every row. Tasks are counted in float32, and in float16 up to 2,048.
    """

    def declare(self) -> dict[str, Learned]:
        return {**super().declare(), "owner": Learned("c", {}, concat_axis="c")}

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        task = encoded.match.index[:, :1].to(learned["owner"].dtype)
        away = learned["owner"] - task  # b c
        refused = torch.full_like(away, REFUSED)
        return torch.where(away.abs() < 0.5, super().scores(encoded, learned), refused)


@register
class SPrompts(Method):
    """A prompt and a head per domain, chosen by the nearest centroid."""

    name: ClassVar[str] = "s-prompts"
    title: ClassVar[str] = "S-Prompts"
    paper: ClassVar[str] = "https://arxiv.org/abs/2207.12819"
    family: ClassVar[str] = "prompts per task"
    config_type: ClassVar[type] = SPromptsConfig
    passes: tuple[Pass, ...] = ("plain", "injected")

    def build(self, config: SPromptsConfig, place: Place) -> None:
        self.injector = PromptPool(
            place.inner or place.width, 1, config.length, 1,
            appended=True, positioned=False, bound=place.width**-0.5,
        )  # fmt: skip
        self.matcher = NearestCentroid(place.width, config.centroids)
        self.classifier = TaskHeads(place.width, on="cls")

    def trains(self, task: int) -> bool:
        return True

    def start(self, task: TaskView, fresh: Tensors) -> Tensors:
        """Place the task's centroids and own its rows."""
        assert task.plain is not None, "the method has a plain pass"
        queries = F.normalize(task.plain.cls, dim=-1)
        centroids = k_means(queries, self.config.centroids, task.generator)
        owner = torch.full((task.classes,), float(task.index))
        return {**fresh, "centroids": centroids[None], "owner": owner}

    def own_match(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Match the newest task."""
        index = torch.full((len(query), 1), len(learned["prompts"]) - 1, device=query.device)
        return Match(index, query.new_ones(len(query), 1))

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows."""
        scores = self.classifier.scores(batch.encoded, learned)
        return F.cross_entropy(scores[:, -batch.classes :], batch.labels)
