"""MulKI, multi-stage knowledge integration (Zhang et al., 2024), on low-rank changes.

https://arxiv.org/abs/2411.06764

Injection:  a low-rank term on the queries, keys, values and output projection of every block of
            the image tower, trained by all tasks; the text tower has its own, which never ship.
Matcher:    none.
Classifier: cosine to the text embeddings of the class names by the fine-tuned text tower, of all
            rows so far anew with every task. Two teachers, the initial CLIP and the former model;
            of no other data than the task's. The four stages of the abstract:
            1. Eliciting: cross-entropy from images to texts, and from texts to the former model's
               image prototypes, the class means.
            2. Adding: each teacher's relations of an image, to its image prototypes (intra-modal)
               and to its texts (inter-modal), are distilled.
            3. Distinguishing: an image weighs its teachers by the probability that they give to its
               class.
            4. Connecting: a task ends with the mean of the weights on its way, drawn from the
               second task on towards those of the former model.
Differs from the paper: it trains all weights, here a product of a small rank added to each
            attention weight. There is no public code, and only the abstract and secondary sources
            were read. Decided here, unverified: the form of every loss, in all of them CLIP's
            temperature; its weights; that relations are soft cross-entropy at the temperature 2 (as
            ZSCL); image prototypes of the task's classes, as it starts, texts of all rows so far;
            the weights of the teachers; the share of the former model; the mean and the crops of
            `--augment paper`, which are ZSCL's; that with augmented views the teachers see the
            batch's view, and image prototypes are of plain images.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Status, Teacher
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_tower_lora import TwoTowerConfig, TwoTowerLora, distilled
from edgecl.optim import TrainConfig
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.statistics import class_means


@dataclass(frozen=True)
class MulKIConfig(TwoTowerConfig):
    """The rank, the weights of the stages and the schedule of every task."""

    align: float = 1.0  # weight of the prototype alignment
    distil: float = 1.0  # weight of the relations, intra-modal and inter-modal each
    temperature: float = 2.0  # of the relations
    former: float = 0.2  # share of the former model in the weights that a task ends with
    schedule: TrainConfig = TrainConfig("adam", lr=5e-4, epochs=20, batch_size=64)

    def __post_init__(self) -> None:
        at_least(0, "mulki", align=self.align, distil=self.distil)
        if not 0 <= self.former < 1 or self.temperature <= 0:
            raise MethodError(
                "mulki.former must be in [0, 1) and mulki.temperature above 0, got "
                f"{self.former} and {self.temperature}. Use 0.2 and 2."
            )


@register
class MulKI(TwoTowerLora[MulKIConfig]):
    """Fine-tuning under two teachers, weighted per image."""

    name: ClassVar[str] = "mulki"
    title: ClassVar[str] = "MulKI"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.06764"
    status: ClassVar[Status] = Status(public=False)
    config_type: ClassVar[type[MethodConfig]] = MulKIConfig
    teachers: ClassVar[tuple[Teacher, ...]] = ("initial", "former")

    def constants(self, task: TaskContext) -> Tensors:
        """Add each teacher's texts of all rows and image prototypes of the task's classes."""
        made = super().constants(task)
        texts = {"initial": task.text.zero_shot(task.row_texts, self.config.templates)}
        texts["former"] = (
            self.embed(task.text, task.row_texts, task.state) if task.index else texts["initial"]
        )
        for teacher, rows in texts.items():
            means = class_means(made[teacher], task.labels, task.classes)
            made[f"{teacher}_texts"] = rows
            made[f"{teacher}_prototypes"] = F.normalize(means, dim=-1)
        return made

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Classify, align with prototypes, distil the relations of two teachers."""
        fixed, own = batch.constants, self.texts.feature(batch.encoded)
        scale = math.exp(self.texts.logit_scale)
        loss = F.cross_entropy(self.current_logits(batch, learned), batch.labels)
        texts = learned["texts"][-batch.classes :]
        classes = torch.arange(batch.classes, device=texts.device)
        aligned = F.cross_entropy(scale * texts @ fixed["former_prototypes"].T, classes)
        relations, right = [], []
        for teacher in self.teachers:
            images = fixed[teacher][batch.index].to(own.dtype)
            to_texts, to_images = (fixed[f"{teacher}_{of}"].T for of in ("texts", "prototypes"))
            pairs = [(scale * images @ to, scale * own @ to) for to in (to_texts, to_images)]
            each = [distilled(*pair, self.config.temperature) for pair in pairs]
            relations.append(torch.stack(each).sum(dim=0))
            logits = (scale * images @ to_texts)[:, -batch.classes :]
            right.append(-F.cross_entropy(logits, batch.labels, reduction="none"))
        shares = teacher_shares(torch.stack(right))
        distil = (shares * torch.stack(relations)).sum(dim=0).mean()
        return loss + self.config.align * aligned + self.config.distil * distil

    def connected(
        self, task: int, mean: Float[Tensor, "l i o"], former: Float[Tensor, "l i o"]
    ) -> Float[Tensor, "l i o"]:
        """Connect the task's mean with the former model, from the second task on."""
        return mean.lerp(former, self.config.former) if task else mean


def teacher_shares(right: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
    """Weigh the teachers of each image by the probability that they give to its class.

    Args:
        right: its logarithm.
    """
    return right.softmax(dim=0)
