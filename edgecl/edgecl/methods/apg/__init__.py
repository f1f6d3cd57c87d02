"""APG, adaptive prompt generation (Tang et al., ICCV 2023), https://arxiv.org/abs/2308.10445.

Injection:  one prompt after [CLS], made of [CLS] in the middle of the pass and carried to the end:
            two layers, attention over itself and one token per class, two layers. Every task trains
            the eight layers and appends the tokens of its classes; those of former ones stay.
Matcher:    none: the attention weighs all tokens.
Classifier: ten proxies per class, sum softmax(l) l over their logits l; every task trains all.
            Beside the cross-entropy over all classes, that of the attention over the class tokens.
            Former classes are drawn from a Gaussian of [CLS] at the prompt's block, whose prompt is
            held to the class's mean (L1), and from one of the feature, for the head. After a task
            (not the first) both go on alone, on draws of all classes.
Differs from the paper: as the public code runs CIFAR-100, whose rate falls to batch_size / 1024 of
            itself after the first task (`later`) and whose softmax is multiplied by the scale of
            the logits once more. No dropout in the generator; smoothed labels but no mixup, cutmix
            or RandAugment. The soft triplet of the attention is left out: its reference is itself,
            so its gradient is 0. Draws are `replay` per image, made once a task, and in the tuning
            `batch_size` of every class per epoch (2,000 there). The bound on the prompt's length
            takes [CLS] for the mean over all tokens. The prompt enters at most before the last
            block. A class that comes back in another domain has a token and a row in each.
            Ships 8 d^2 numbers and all proxies anew with every task: the largest pack of all.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.apg.aims import Aims, made_of
from edgecl.methods.apg.past import Draws, appended, drawn_of, remembered
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.feature_training import trained_on_draws
from edgecl.optim import Schedule, TrainConfig
from edgecl.program import Encoded, Program
from edgecl.program.classifiers.proxies import Proxies
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import AttendedPrompt
from edgecl.program.learned import Tensors

TOKENS = "class_tokens"
MORE = 0.25  # of the tuning's epochs, for every former task


@dataclass(frozen=True)
class APGConfig(MethodConfig):
    """Where the prompt enters, sizes and both schedules."""

    block: int = 6  # before which the prompt enters, from 0
    proxies: int = 10  # of a class
    replay: int = 4  # draws of former classes for an image
    later: float = 0.09375  # of the rate, after the first task
    schedule: TrainConfig = TrainConfig(
        "adamw", lr=0.001, epochs=100, batch_size=96, weight_decay=0.05, warm_up=5, lr_min=4.7e-5
    )
    tuning: TrainConfig = TrainConfig(
        "adamw", lr=9.4e-5, epochs=20, batch_size=24, weight_decay=0.05, warm_up=5, lr_min=9.4e-6
    )

    def __post_init__(self) -> None:
        at_least(1, "apg", block=self.block, proxies=self.proxies, replay=self.replay)
        at_least(1e-6, "apg", later=self.later)


@register
class APG(Method[APGConfig]):
    """A prompt that the pass itself generates from what the classes' tokens know."""

    name: ClassVar[str] = "apg"
    title: ClassVar[str] = "APG"
    paper: ClassVar[str] = "https://arxiv.org/abs/2308.10445"
    family: ClassVar[str] = "generated prompts"
    status: ClassVar[Status] = Status(steps=4e-12)
    config_type: ClassVar[type[MethodConfig]] = APGConfig
    options: ClassVar[tuple[str, ...]] = ("block",)
    trains: Trains = "every"

    def build(self) -> Program:
        spec = self.spec
        block = max(1, min(self.config.block, spec.depth - 1))
        self.prompt = AttendedPrompt(spec.width, block)
        self.head = Proxies(spec.feature_dim, self.config.proxies)
        self.aims = Aims(self.prompt, self.head)
        return self.compose(
            injector=self.prompt,
            classifier=self.head,
            passes=("injected",),
            taps=spec.depth - block + 1,  # the first is what the prompt is made of
        )

    def schedule(self, task: int) -> Schedule:
        """Train later tasks more slowly."""
        rates = dict.fromkeys(self.program.declare(), self.config.later) if task else {}
        return Schedule(self.config.schedule, rates)

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start the tokens of later tasks uniform in [0, 1]."""
        if not task.index:
            return fresh
        tokens = torch.rand(fresh[TOKENS].shape, generator=task.generator)
        return fresh | {TOKENS: tokens}

    def constants(self, task: TaskContext) -> Tensors:
        """Return draws of former classes, as many for every image."""
        if not task.index:
            return {}
        return Draws(task.state).for_images(len(task.labels), self.config.replay, task.generator)

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Return what images and, from the second task on, the draws that go with them ask for."""
        scores = self.head.scores(batch.encoded, learned)
        former = scores.shape[1] - batch.classes
        loss = self.aims.own(scores, batch.labels + former, made_of(batch.encoded), learned)
        if not former:
            return loss
        return loss + self.aims.held(drawn_of(batch), learned)

    def fit(self, task: TaskContext) -> FitResult:
        """Tune generator and head on draws of all classes, and remember the task's."""
        if not task.index:
            return FitResult({}, self._known(task, {}))
        start = {name: task.learned[name] for name in self.program.declare()}
        former = len(task.class_rows) - task.classes
        tokens, start[TOKENS] = start[TOKENS].split([former, task.classes])
        draws, config = Draws(self._known(task, {})), self.config.tuning

        def loss(leaves: Tensors, drawn: Tensors) -> Tensor:
            return self.aims.held(drawn, leaves | {TOKENS: torch.cat([tokens, leaves[TOKENS]])})

        ends = trained_on_draws(
            start,
            lambda: draws.take(config.batch_size, task.generator),
            replace(config, epochs=round(config.epochs * (1 + MORE * task.index))),
            task.generator,
            loss,
        )
        tuned = ends | {TOKENS: torch.cat([tokens, ends[TOKENS]])}
        return FitResult(ends, self._known(task, tuned))

    def _known(self, task: TaskContext, tuned: Tensors) -> Tensors:
        """Return the statistics of all classes, the task's own under the tuned tensors."""

        def rows(encoded: Encoded, learned: Tensors) -> Tensors:
            x, feature = made_of(encoded), self.head.feature(encoded)
            return {"x": x, "prompt": self.prompt.made(x, learned)[0], "feature": feature}

        return appended(task.state, remembered(task.encode(rows, tuned), task))
