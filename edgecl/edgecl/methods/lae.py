"""LAE, Learning-Accumulation-Ensemble (Gao et al., ICCV 2023), https://arxiv.org/abs/2303.10070.

Injection:  one small adapter, LoRA or prefix in the first blocks, which all tasks train (online),
            and its exponential moving average (offline, section 3.3); an image runs through both.
            The adapter is parallel to the attention, LoRA on keys and values, and the prefix gives
            back the softmax mass that it takes from the tokens (section 3.4, "compensated").
Matcher:    none.
Classifier: linear, shared; the larger of the two softmax probabilities (section 3.3).
Differs from the paper: in the first task the offline copy equals the online one, so that it can
            ship; the authors make it at the start of the second. Scores are logarithms of the
            probabilities. The head starts as timm's. The scale of what is injected is 1; the public
            code learns it from 1 on.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.spec import BackboneSpec
from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import Average, Schedule, TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import AdapterStack, Branches, Injector, LoraStack, SharedPrefix
from edgecl.program.learned import Tensors

ONLINE, OFFLINE = 0, 1  # the branches


class Ensemble(Linear):
    """A linear head on every branch; the branches vote by their probabilities."""

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features("injected").cls.flatten(1)  # b t*d

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        """Return the logarithm of the larger probability: the same order, and no saturation."""
        return self.logits(encoded, learned).log_softmax(dim=-1).amax(dim=1)

    def logits(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b *t c"]:
        cls = encoded.features("injected").cls
        return F.linear(cls, learned["head_weight"], learned["head_bias"])


@dataclass(frozen=True)
class LAEConfig(MethodConfig):
    """What is injected, how it is averaged and the schedule of every task."""

    kind: Literal["adapter", "lora", "prefix"] = "adapter"
    blocks: int = 5  # from the first on
    rank: int = 5  # r, of an adapter or of LoRA
    length: int = 10  # p, rows of a prefix
    decay: float = 0.9999  # of the moving average, per step
    rest: float = 0.6  # share of the epochs that train the head only, from the second task on
    schedule: TrainConfig = TrainConfig("adam", lr=0.0028125, epochs=5, batch_size=24, cosine=False)

    def __post_init__(self) -> None:
        at_least(1, "lae", blocks=self.blocks, rank=self.rank, length=self.length)
        if not (0 <= self.decay <= 1 and 0 <= self.rest <= 1):
            raise MethodError(
                f"lae.decay and lae.rest must be in [0, 1], got {self.decay} and {self.rest}. "
                "Use 0.9999 and 0.6."
            )
        weight_decay = max(self.schedule.of(task).weight_decay for task in (0, 1))
        if weight_decay:
            raise MethodError(
                "lae.schedule.weight_decay must be 0, since it would move the offline copy, got "
                f"{weight_decay}. Leave it out."
            )


@register
class LAE(Method[LAEConfig]):
    """A fast and a slow copy of one injection."""

    name: ClassVar[str] = "lae"
    title: ClassVar[str] = "LAE"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.10070"
    family: ClassVar[str] = "ensembles"
    status: ClassVar[Status] = Status(steps=2e-5, points=-1.2)
    config_type: ClassVar[type[MethodConfig]] = LAEConfig
    augmentation: ClassVar[str] = "coda"
    trains: Trains = "every"
    trained_branch: ClassVar[int | None] = ONLINE

    def build(self) -> Program:
        self.injector = Branches(tuner(self.config, self.spec), count=2)
        self.classifier = Ensemble(self.spec.feature_dim, on="cls")
        return self.compose(
            injector=self.injector, classifier=self.classifier, passes=("injected",), cost="2"
        )

    def schedule(self, task: int) -> Schedule:
        """Train the head only at first, from the second task on (section 3.3)."""
        train = self.config.schedule.of(task)
        rest = round(self.config.rest * train.epochs) if task else 0
        return Schedule(train, frozen_epochs=dict.fromkeys(self.injector.declare(), rest))

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of the online copy over the task's rows."""
        current = self.classifier.logits(batch.encoded, learned)[:, -batch.classes :]
        return F.cross_entropy(current, batch.labels)

    def average(self, task: TaskContext, constants: Tensors) -> Average:
        """Return the offline copy's movement; in the first task it equals the online one."""
        share = 1 - self.config.decay if task.index else 1.0
        return OfflineCopy(tuple(self.injector.declare()), share)


@dataclass(frozen=True)
class OfflineCopy:
    """Moves the offline copy a little towards the online one after every step (section 3.3)."""

    names: tuple[str, ...]
    share: float

    def update(self, tensors: Tensors) -> None:
        for name in self.names:
            tensors[name][OFFLINE].lerp_(tensors[name][ONLINE], self.share)

    def finish(self, tensors: Tensors) -> None:
        pass


def small(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start uniform in [0, 0.01]."""
    return torch.rand(shape, generator=generator) * 0.01


def tuner(config: LAEConfig, spec: BackboneSpec) -> Injector:
    """Return the injection of one copy."""
    depth = min(config.blocks, spec.depth)
    if config.kind == "adapter":
        return AdapterStack(spec.width, depth, config.rank, 1.0, at="attention", activation="gelu")
    if config.kind == "lora":
        return LoraStack(spec.width, depth, config.rank)
    return SharedPrefix(spec.width, tuple(range(depth)), config.length, "compensated", init=small)
