"""ZSCL, zero-shot continual learning (Zheng et al., ICCV 2023), on low-rank changes.

https://arxiv.org/abs/2303.06628

Injection:  a low-rank term on the queries, keys, values and output projection of every block of
            the image tower, trained by all tasks; the text tower has its own, which never ship.
Matcher:    none.
Classifier: cosine to the text embeddings of the class names by the fine-tuned text tower, of all
            rows so far anew with every task. Trained by cross-entropy over the task's rows with
            label smoothing, by distillation from the initial CLIP in both directions, image to text
            and text to image, and by the squared distance to the former task's weights; a task ends
            with the mean of the weights on its way.
Differs from the paper: it trains all weights, here a product of a small rank added to each
            attention weight; their mean is cut to that rank. It distils on 100 000 ImageNet images
            and the texts of Conceptual Captions, which are not at hand: the reference images are
            the task's own and the reference texts (`references`) a fixed list of plain captions,
            the names of the former tasks' classes, or both. So the images do not cover other
            domains, which protects less (near LwF-VR of the paper's tables). With augmented views
            both teach and learn from the batch's view (there reference images are plain, those of
            the task cropped). The mean has `models` members besides the start, at equal distances
            whatever the length of the task (there after steps 1, 101, 201 and so on). No warm-up.
            Texts train under the first template and ship as the mean over all.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.two_tower_lora import TwoTowerConfig, TwoTowerLora, distilled
from edgecl.optim import TrainConfig
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors

CAPTIONS = (
    "a dog running on the beach", "a cat asleep on a chair", "birds over a lake at dawn",
    "a horse in a field", "fish in clear water", "an insect on a leaf", "a wild animal at night",
    "a man riding a bicycle", "a woman reading a book", "children playing in the park",
    "a crowd at a concert", "a portrait of an old person", "hands holding a cup",
    "a plate of food on a table", "fresh fruit at a market", "a cake with candles",
    "a glass of water", "a bowl of soup", "a red car on the road", "an aeroplane in the sky",
    "a ship in the harbour", "a train at the station", "a street in the city at night",
    "an old house in the village", "a bridge across the river", "the inside of a church",
    "a kitchen with white walls", "a bed in a small room", "mountains covered with snow",
    "a forest in autumn", "waves on a rocky coast", "a desert under a blue sky",
    "flowers in a garden", "a green plant in a pot", "rain on a window", "the moon and stars",
    "a football player on the field", "musicians on a stage", "a computer on a desk",
    "a tool on a workbench", "a pile of clothes", "a sign with letters on it",
    "a handwritten number", "a drawing of a face", "a simple icon on white", "a map of a country",
    "a view of fields from above", "the texture of a wooden surface",
)  # fmt: skip


@dataclass(frozen=True)
class ZSCLConfig(TwoTowerConfig):
    """The rank, the references, the weights of the losses and the schedule of every task."""

    references: Literal["captions", "names", "both"] = "both"  # names: of former tasks' classes
    smoothing: float = 0.2  # of the labels
    distil: float = 1.0  # weight of the distillation, in each direction
    temperature: float = 2.0  # of it
    distance: float = 1.0  # weight of the squared distance to the former weights
    schedule: TrainConfig = TrainConfig("adam", lr=5e-4, epochs=20, batch_size=64)

    def __post_init__(self) -> None:
        at_least(0, "zscl", distil=self.distil, distance=self.distance)
        if not 0 <= self.smoothing < 1 or self.temperature <= 0:
            raise MethodError(
                "zscl.smoothing must be in [0, 1) and zscl.temperature above 0, got "
                f"{self.smoothing} and {self.temperature}. Use 0.2 and 2."
            )


@register
class ZSCL(TwoTowerLora[ZSCLConfig]):
    """Fine-tuning that is held to the initial CLIP and to the former weights."""

    name: ClassVar[str] = "zscl"
    title: ClassVar[str] = "ZSCL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.06628"
    status: ClassVar[Status] = Status(steps=2e-6)
    config_type: ClassVar[type[MethodConfig]] = ZSCLConfig

    def constants(self, task: TaskContext) -> Tensors:
        """Add the initial CLIP's embeddings of the reference texts."""
        former = [name for name in dict.fromkeys(task.row_texts) if name not in task.texts]
        names = [] if self.config.references == "captions" else former
        texts = [task.text.zero_shot(names, self.config.templates)]
        if self.config.references != "names":
            texts.append(task.text.zero_shot(CAPTIONS, ("{}",)))
        return super().constants(task) | {"references": torch.cat(texts)}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy, distillation in both directions, distance to the former weights."""
        config, fixed = self.config, batch.constants
        scores = self.current_logits(batch, learned)
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=config.smoothing)
        changes = self.changes(learned)
        away = [(changes[name] - fixed[f"former_{name}"]).square().sum() for name in self.weights]
        loss = loss + config.distance * torch.stack(away).sum()
        if len(fixed["references"]):  # in the first task there are no former names
            scale = math.exp(self.texts.logit_scale)
            own = self.texts.feature(batch.encoded)
            student, teacher = (
                scale * images @ fixed["references"].T
                for images in (own, fixed["initial"][batch.index].to(own.dtype))
            )
            pairs = (teacher, student), (teacher.T, student.T)
            both = [distilled(*pair, config.temperature).mean() for pair in pairs]
            loss = loss + config.distil * sum(both)
        return loss
