"""PromptFusion (Chen et al., ECCV 2024), on one backbone.

https://arxiv.org/abs/2303.07223

Injection:  two sets of prompts before the first block, which all tasks train: an image runs
            once with those of the stabiliser (CLIP) and once with those of the booster (a ViT).
Matcher:    none.
Classifier: of the stabiliser, cosine between the mean of its prompts' outputs and text embeddings
            with a context of the class's own, trained in its task and then frozen; of the booster,
            a linear head on the mean of its prompts' outputs, of all tasks. A trained share
            sigmoid(lambda) of the booster's logits is added to the rest of the stabiliser's.
            Trained over all rows so far, the log-probability of every row under a trained weight.
Memory:     `memory` bytes of images of former tasks, those nearest to their class's mean.
Differs from the paper: the booster is a ViT of its own there, here it runs on the CLIP's image
            tower: no second backbone. As there the stabiliser's image feature is the mean of the
            prompts' outputs, but after the last norm. Prompts start as VPT's, of both branches and
            as many; the booster's get no position embedding. The authors train the weights of the
            log-probabilities for every position of a batch: here alpha has one number per class and
            beta one for all former rows; alpha counts in the first task too, and starts anew in
            every task. Their placeholder words after the context are left out, and the context is
            shorter (30 rows there). A class that was not learned has zeros in the head. The memory
            is of bytes: the default holds a quarter as many images of 224 pixels as of 112.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Batch, Status, Trains
from edgecl.methods.config import MemoryBy, MethodConfig
from edgecl.methods.shared.text_method import TextMethod, TextMethodConfig, text_spec
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Linear, Texts
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import Branches, SharedPrompts
from edgecl.program.learned import Tensors, TensorSpec, normal, ones

STABILISER, BOOSTER = 0, 1  # the branches


@dataclass(frozen=True)
class Blend:
    """The logits of two branches, a trained share of each."""

    width: int  # f
    logit_scale: float  # the logarithm of the factor on the cosine

    def declare(self) -> dict[str, TensorSpec]:
        return {
            **Texts(self.width, self.logit_scale).declare(),
            **Linear(self.width, on="prompt", replaced=True).declare(),
            "blend": TensorSpec("o", {"o": 1}, init=ones, trained=True),  # lambda
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return encoded.features("injected").prompt.flatten(1)  # b t*f

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        prompts = encoded.features("injected").prompt  # b t f
        cosine = F.normalize(prompts[:, STABILISER], dim=-1) @ learned["texts"].T
        linear = F.linear(prompts[:, BOOSTER], learned["head_weight"], learned["head_bias"])
        share = learned["blend"].sigmoid()
        return (1 - share) * math.exp(self.logit_scale) * cosine + share * linear


@dataclass(frozen=True)
class PromptFusionConfig(TextMethodConfig):
    """The prompts, the texts, the memory and the schedule of every task."""

    length: int = 30  # p, rows of each branch's prompts
    context: int = 8  # rows before a class name
    memory: int = 112 * 112 * 3 * 2000  # bytes: 2,000 images of 112 px
    memory_by: MemoryBy = "mean"  # nearest to the class's mean, or what the model is surest of
    template: str = "{}."  # after the context; {} stands for the class name
    templates: tuple[str, ...] = ()  # of classes that were not learned; none: those of the CLIP
    schedule: TrainConfig = TrainConfig(
        "adamw", lr=0.002, epochs=3, batch_size=32, weight_decay=1e-4, clip=1.0
    )

    def __post_init__(self) -> None:
        at_least(1, "promptfusion", length=self.length, context=self.context, memory=self.memory)


@register
class PromptFusion(TextMethod[PromptFusionConfig]):
    """A stable and a plastic branch, fused."""

    name: ClassVar[str] = "promptfusion"
    title: ClassVar[str] = "PromptFusion"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07223"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=5e-7)
    config_type: ClassVar[type[MethodConfig]] = PromptFusionConfig
    trains: Trains = "every"

    def build(self) -> Program:
        spec = self.spec
        self.blend = Blend(spec.feature_dim, text_spec(spec).logit_scale)
        return self.compose(
            injector=Branches(SharedPrompts(spec.width, self.config.length), count=2),
            classifier=self.blend,
            passes=("injected",),
            cost="2",
        )

    def local(self) -> dict[str, TensorSpec]:
        sizes = {"p": self.config.context, "w": text_spec(self.spec).width}
        return {
            "context": TensorSpec("c p w", sizes, init=normal(0.01), trained=True),
            "alpha": TensorSpec("c", {}, init=ones, trained=True),
            "beta": TensorSpec("o", {"o": 1}, init=ones, trained=True),
        }

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return the embeddings of the task's classes, each under its own context."""
        context = leaves["context"]
        tokens = task.text.tokens(task.texts, self.config.template, self.config.context)
        return {"texts": task.text.embed(tokens, context=context, training=not final)}

    def constants(self, task: TaskContext) -> Tensors:
        """Return theta, the weight of former rows, which grows with the tasks."""
        return {"theta": torch.tensor(task.index / 2)}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Weigh the log-probabilities: theta / sigmoid(beta) of former rows, sigmoid(alpha)."""
        scores = self.blend.scores(batch.encoded, learned)
        former = scores.shape[1] - batch.classes
        old = (batch.constants["theta"] / learned["beta"].sigmoid()).expand(former)
        weights = torch.cat([old, learned["alpha"].sigmoid()])
        return F.nll_loss(scores.log_softmax(dim=-1) * weights, batch.labels + former)

    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return CLIP's own embeddings; the booster has no score for them."""
        return {
            "texts": text.zero_shot(names, self.config.templates),
            "head_weight": torch.zeros(len(names), self.spec.feature_dim),
            "head_bias": torch.zeros(len(names)),
        }
