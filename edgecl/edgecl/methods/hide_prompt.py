"""HiDe-Prompt (Wang et al., NeurIPS 2023), https://arxiv.org/abs/2310.07234.

Injection:  a prefix per task at the first blocks, concatenated: what is trained, drawn a little to
            the mean of the former ones (the prompt ensemble), in training as after it.
Matcher:    the task that owns the likeliest class, by a head on the frozen [CLS] feature
            (task-identity inference); in training the task's own.
Classifier: linear on [CLS]; trained on the task's rows, then, as the matcher's MLP and head, again
            on features drawn from the statistics of all classes (task-adaptive prediction).
Differs from the paper: the matcher is trained in the same loop and at the same learning rate as the
            prefix, for 20 epochs rather than 50, and its gradient counts in the norm that is
            clipped; a class is stored as one normal distribution with independent features (an
            option of the public code, whose default is ten centroids), its variances over n, not
            n - 1; an alignment draws 24 features of every class per epoch (the public code 120, for
            as many steps as old classes); prompts and head have one learning rate by default,
            0.0028125 (there the head's is a tenth of it but on CUB, see `head_rate`); settings are
            those of CIFAR-100; keys and values are split where they belong (the public code mixes
            images here); at most as many blocks as the backbone has.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.head_alignment import Logits, linear, realigned, with_classes
from edgecl.optim import Schedule, TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.fitting import FitResult, TaskContext, continued
from edgecl.program.injectors import TaskPrefixes
from edgecl.program.learned import Tensors
from edgecl.program.matchers import TaskInference

TEMPERATURE = 0.8  # of the contrast, over raw products as in the public code


@dataclass(frozen=True)
class HiDePromptConfig(MethodConfig):
    """Sizes, the weights of the contrast and of the ensemble, and both schedules."""

    blocks: int = 5  # that take a prefix, from block 0 on
    length: int = 5  # rows of its keys, and as many of its values
    contrast: float = 0.1  # lambda, pushes images away from each other and from former classes
    ensemble: float = 0.01  # alpha, share of the former tasks in a prefix
    head_rate: float = 1.0  # of the head's learning rate over the prefix's
    schedule: TrainConfig = TrainConfig("adam", lr=0.0028125, epochs=20, batch_size=24, clip=1.0)
    align: TrainConfig = TrainConfig("sgd", lr=0.005, epochs=30, batch_size=24, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "hide-prompt", blocks=self.blocks, length=self.length)
        if not (0 <= self.ensemble <= 1 and self.head_rate > 0):
            raise MethodError(
                "hide-prompt.ensemble must be in [0, 1] and hide-prompt.head_rate above 0, got "
                f"{self.ensemble} and {self.head_rate}. Change it."
            )


@register
class HiDePrompt(Method[HiDePromptConfig]):
    """A prefix per task, a head that infers the task, and statistics that keep both heads fair."""

    name: ClassVar[str] = "hide-prompt"
    title: ClassVar[str] = "HiDe-Prompt"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.07234"
    family: ClassVar[str] = "prefixes per task"
    status: ClassVar[Status] = Status(steps=1e-5)
    config_type: ClassVar[type[MethodConfig]] = HiDePromptConfig
    augmentation: ClassVar[str] = "hide"
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        blocks = tuple(range(min(config.blocks, spec.depth)))
        self.inference = TaskInference(spec.feature_dim, 2 * spec.feature_dim)
        return self.compose(
            injector=TaskPrefixes(spec.width, blocks, config.length),
            matcher=self.inference,
            classifier=Linear(spec.feature_dim, on="cls", replaced=True),
            passes=("plain", "injected"),
        )

    def schedule(self, task: int) -> Schedule:
        """Train the head at a rate of its own."""
        head = self.program.classifier.declare()
        return replace(super().schedule(task), rates=dict.fromkeys(head, self.config.head_rate))

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        return continued(task, fresh, "task_prefixes")

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of both heads over the task's rows, and the contrast."""
        queries = batch.encoded.features("plain").cls
        inferred = self.inference.logits(queries, learned)[:, -batch.classes :]
        each = super().loss(batch, learned) + F.cross_entropy(inferred, batch.labels)
        return each + self.config.contrast * contrast(batch)

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Draw the prefix to the mean of the former ones: training sees what ships."""
        if not task.index:
            return {}
        own = leaves["task_prefixes"]
        former = task.learned["task_prefixes"].to(own.device).mean(dim=0, keepdim=True)
        return {"task_prefixes": own.lerp(former, self.config.ensemble)}

    def fit(self, task: TaskContext) -> FitResult:
        """Keep the statistics of the task's classes; from the second task on, align both heads.

        The matcher's head is its MLP, too.
        """
        state: Tensors = {}
        for name, features in task.encode(both_features).items():
            state |= with_classes(task.state, name, features, task.labels, task.classes)
        if not task.index:
            return FitResult({}, state)

        declared = self.inference.declare()
        heads: tuple[tuple[str, Iterable[str], Logits], ...] = (
            ("feature", ("head_weight", "head_bias"), linear),
            ("query", (name for name in declared if declared[name].trained), self.inference.logits),
        )
        part: Tensors = {}
        for read, names, logits in heads:
            head = {name: task.learned[name] for name in names}
            spread = state[f"{read}_means"], state[f"{read}_variances"]
            schedule = self.config.align.of(task.index)
            part |= realigned(head, logits, *spread, schedule, task.generator)
        return FitResult(part, state)


def both_features(encoded: Encoded, learned: Tensors) -> Tensors:
    """Return the features that the two heads read."""
    return {"feature": encoded.features("injected").cls, "query": encoded.features("plain").cls}


def contrast(batch: Batch) -> Float[Tensor, ""]:
    """Tell every feature from all others and from the means of former classes."""
    features = batch.encoded.features("injected").cls
    former = batch.constants.get("feature_means", features[:0])
    rows = torch.cat([former, features])
    alike = rows @ rows.T / TEMPERATURE
    return F.cross_entropy(alike, torch.arange(len(rows), device=rows.device))
