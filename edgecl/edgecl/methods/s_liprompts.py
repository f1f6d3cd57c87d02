"""S-Prompts, the language-image form S-liPrompts (Wang et al., NeurIPS 2022).

https://arxiv.org/abs/2207.12819

Injection:  the prompt of the matched task, after [CLS] before block 0, without position
            embedding, carried to the end.
Matcher:    the task that owns the nearest of all tasks' k-means centroids of frozen image features
            of length 1, by the sum of absolute differences, as in the public code.
Classifier: cosine between the prompted image's feature and the class's text, under CLIP's
            temperature. A task's texts are read after a soft context of its own, which is trained
            with the prompt; the embeddings ship, the context does not. Rows of tasks that were not
            matched are refused: they fall below all others, so a wrong match is never repaired.
            They keep their order, which counts where only their classes may be chosen (MTIL).
            Rows of classes that were not learned belong to no task and are never refused: they are
            CLIP's own texts, compared with the same prompted feature.
Differs from the paper: the image prompt enters after the norm that CLIP has before its
            blocks, where the public code has it before that; the centroids are of images as
            they are tested, not of augmented ones; all tasks have one schedule by default (the
            public code gives the first its own, see `schedule.later`). The context has as many of
            its rows as fit into the text tower with the task's longest class name.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Forgets, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.text_method import TextMethod, TextMethodConfig, text_spec
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Texts
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import PromptPool
from edgecl.program.learned import Tensors, TensorSpec, normal
from edgecl.program.matchers import NearestCentroid
from edgecl.program.task_rows import may_win, task_rows


@dataclass(frozen=True)
class SLiPromptsConfig(TextMethodConfig):
    """Sizes of a task's prompt, context and centroids, the texts and the schedule."""

    length: int = 10  # rows of an image prompt
    context: int = 16  # rows of a text prompt at most
    centroids: int = 5  # per task
    template: str = "{}."  # after the context; {} stands for the class name
    templates: tuple[str, ...] = ()  # of classes that were not learned; none: those of the CLIP
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.01, epochs=50, batch_size=128, weight_decay=2e-4
    )

    def __post_init__(self) -> None:
        sizes = {"length": self.length, "context": self.context, "centroids": self.centroids}
        at_least(1, "s-liprompts", **sizes)


@dataclass(frozen=True)
class TaskTexts(Texts):
    """Texts of which those of the matched task, or of no task, may win."""

    def declare(self) -> dict[str, TensorSpec]:
        return {**super().declare(), **task_rows()}

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Take the whole range of the scores from rows that are refused."""
        scores = super().scores(encoded, learned)
        own = may_win(learned["texts"], learned, encoded.match.index[:, :1])
        return torch.where(own, scores, scores - 2 * math.exp(self.logit_scale))


@register
class SLiPrompts(TextMethod[SLiPromptsConfig]):
    """A prompt per domain for images and one for texts, chosen by the nearest centroid."""

    name: ClassVar[str] = "s-liprompts"
    title: ClassVar[str] = "S-liPrompts"
    paper: ClassVar[str] = "https://arxiv.org/abs/2207.12819"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=9e-6)
    forgets: ClassVar[Forgets] = "tasks"
    config_type: ClassVar[type[MethodConfig]] = SLiPromptsConfig
    trains: Trains = "every"
    augmentation: ClassVar[str] = "coda"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        self.centroids = NearestCentroid(spec.feature_dim, config.centroids)
        return self.compose(
            injector=PromptPool.of_tasks(spec.width, config.length),
            matcher=self.centroids,
            classifier=TaskTexts(spec.feature_dim, text_spec(spec).logit_scale, on="injected"),
            passes=("plain", "injected"),
        )

    def local(self) -> dict[str, TensorSpec]:
        sizes = {"p": self.config.context, "w": text_spec(self.spec).width}
        return {"context": TensorSpec("p w", sizes, init=normal(0.02), trained=True)}

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Place the task's centroids."""
        return fresh | self.centroids.of(task.queries, task.generator)

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Read the task's class names after the context."""
        tokens = task.text.tokens(task.texts, self.config.template)
        room = text_spec(self.spec).context_length - tokens.shape[1]
        context = leaves["context"][:room]
        return {"texts": task.text.embed(tokens, context=context, training=not final)}
