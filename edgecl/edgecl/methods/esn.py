"""ESN, isolation and impartial aggregation (Wang et al., AAAI 2023).

https://arxiv.org/abs/2211.15969

Injection:  a prompt after [CLS] before block 0, carried to the end; trained on the first
            task, then frozen, so one pass serves all tasks.
Matcher:    after the pass, the task whose head has the lowest free energy F = -T log sum exp(h/T),
            by the vote of the temperatures that the tasks have appended (equations 9 and 10). A
            task appends the one that assigns most of its own training images to it (algorithm 1).
            The same F, at T = 1, is drawn to the anchor in training (equation 7): what votes has
            one level in all tasks. The public code flips the logits' sign, which no vote reads.
Classifier: per task a block of class attention over all rows after the last block, before the final
            norm; its token goes to the task's linear head. The matched task's rows are logits, the
            others' come below them in their order. A task ships 3 MB at width 384, 12 MB at 768.
Differs from the paper: a head's bias starts where its energy is at the anchor, which a short
            training need not reach; the task token starts at random, not as the backbone's [CLS];
            keys have no bias, to which a softmax is blind; candidates are the public code's twelve
            temperatures, and one appended twice votes once, as there; 10 rows of prompt (100
            there), frozen as in the paper's text (there each task's own).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.classifiers.class_attention import TaskBlocks
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import SharedPrompts
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import EnergyVote, Match
from edgecl.program.matchers.energy import LOWEST, coolest_right
from edgecl.program.task_rows import owners

CANDIDATES = (0.001, 0.01, *(tenth / 10 for tenth in range(1, 11)))  # temperatures
BELOW = 1.0  # from the matched task's lowest row down to the best of the others


@dataclass(frozen=True)
class TaskHeads(Linear):
    """A linear head per task on the task's own token."""

    blocks: TaskBlocks = field(kw_only=True)

    def declare(self) -> dict[str, TensorSpec]:
        return {**self.blocks.declare(), **super().declare()}

    def logits(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Return every row's logit, of the token of the task that owns it."""
        blocks = self.blocks(encoded.tokens("injected"), learned)
        every = blocks @ learned["head_weight"].T + learned["head_bias"]
        tasks = torch.arange(every.shape[0], device=every.device)
        own = owners(learned["head_weight"], learned) == tasks[:, None]  # t c
        return (every * own.unsqueeze(1).to(every.dtype)).sum(dim=0)

    def newest(self, encoded: Encoded, learned: Tensors, classes: int) -> Float[Tensor, "b c"]:
        """Return the logits of the newest task's rows; no other block runs."""
        last = {name: learned[name][-1:] for name in [*self.blocks.declare(), "task_rows"]}
        head = {name: learned[name][-classes:] for name in super().declare()}
        return self.logits(encoded, last | head)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Return the matched task's logits, and those of the others moved below all of them."""
        logits = self.logits(encoded, learned)
        own = owners(learned["head_weight"], learned) == encoded.match.index[:, :1]  # b c
        floor = torch.where(own, logits, -LOWEST).amin(dim=1, keepdim=True) - BELOW
        highest = torch.where(own, LOWEST, logits).amax(dim=1, keepdim=True)
        return torch.where(own, logits, logits - highest + floor)


@dataclass(frozen=True)
class VoteOfHeads:
    """The match of an image by the logits of all heads."""

    heads: TaskHeads
    vote: EnergyVote

    def __call__(self, encoded: Encoded, learned: Tensors) -> Match:
        return self.vote.vote(self.heads.logits(encoded, learned), learned)


@dataclass(frozen=True)
class EsnConfig(MethodConfig):
    """The prompt, the energy that heads are drawn to, and the schedule."""

    length: int = 10  # p, rows of the prompt
    anchor: float = -10.0  # Delta, free energy of a task's own images
    align: float = 0.1  # lambda, of the squared distance from it
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.01, epochs=30, batch_size=128, weight_decay=5e-4
    )

    def __post_init__(self) -> None:
        at_least(1, "esn", length=self.length)


@register
class Esn(Method[EsnConfig]):
    """A classifier per task on one prompted backbone, and a vote on which of them to trust."""

    name: ClassVar[str] = "esn"
    title: ClassVar[str] = "ESN"
    paper: ClassVar[str] = "https://arxiv.org/abs/2211.15969"
    family: ClassVar[str] = "classifiers per task"
    status: ClassVar[Status] = Status(steps=2e-6)
    config_type: ClassVar[type[MethodConfig]] = EsnConfig
    augmentation: ClassVar[str] = "coda"
    trains: Trains = "every"

    def build(self) -> Program:
        spec = self.spec
        injector = SharedPrompts(spec.width, self.config.length)
        self.heads = TaskHeads(spec.width, on="cls", blocks=TaskBlocks(spec.width))
        return self.compose(
            injector=injector,
            matcher=EnergyVote(),
            late_matcher=VoteOfHeads(self.heads, EnergyVote()),
            classifier=self.heads,
            passes=("injected",),
            reads_tokens=True,
            trained_once=tuple(injector.declare()),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start the head at the anchor: without a logit its energy is -b - log(classes)."""
        bias = -self.config.anchor - math.log(task.classes)
        return super().begin_task(task, fresh) | {"head_bias": torch.full((task.classes,), bias)}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, and the distance of the energy from the anchor."""
        logits = self.heads.newest(batch.encoded, learned, batch.classes)
        away = (logits.logsumexp(dim=-1) + self.config.anchor).square().mean()  # equations 5, 7
        return F.cross_entropy(logits, batch.labels) + self.config.align * away

    def fit(self, task: TaskContext) -> FitResult:
        """Append the task's temperature."""
        found = task.encode(lambda *images: {"logits": self.heads.logits(*images)})
        chosen = coolest_right(found["logits"], torch.tensor(CANDIDATES), task.learned)
        return FitResult({"temperatures": chosen[None]}, {})
