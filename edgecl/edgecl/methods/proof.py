"""PROOF (Zhou et al., TPAMI 2025), https://arxiv.org/abs/2305.19270.

Injection:  none.
Matcher:    none.
Classifier: a task trains one linear map of image features and one of texts, on top of those of the
            former tasks, which are frozen; a sum of linear maps is one map, and that is what ships.
            A class scores the sum of three logits: the cosine of mapped image and mapped text under
            CLIP's temperature; and the products of the fused image with the class's fused text and
            with its fused prototype (its mean frozen feature, mapped as images are). Fusion is one
            attention over [image; prototypes; texts; contexts]; all tasks train it, and each its
            own contexts. It sees ONE image. Texts are those of the frozen tower. A class that was
            not learned has no prototype: its text takes its place.
Memory:     images of former tasks, up to `memory` bytes, chosen by `memory_by`; all train over all
            rows.
Differs from the paper: the public code averages fused texts and prototypes over the batch, goes on
            training its former text maps, and tests with features of any length and without the
            temperature; here they are the image's own, all former maps are frozen, and what is
            tested is what is trained: features of length 1 before a map and after it. The maps have
            no bias and start at the identity, a later task's at zero, so that a task starts where
            the former one ended, and to that the decay draws it (there to zero); the public code
            draws each at random, which a few hundred steps do not undo. No dropout. The contrastive
            loss is over the classes instead of the batch, where images of one class would repel
            each other. The memory counts bytes and holds the images nearest to their class's mean,
            not herded ones: by default as many as 2,000 of 112 pixels, at 224 a quarter of that.
            CLIP's temperature is frozen, where the public code trains it.
"""

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
from edgecl.program.classifiers.fusion import MAPS, FusedTexts
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors, TensorSpec, zeros
from edgecl.program.statistics import class_means


@dataclass(frozen=True)
class ProofConfig(TextMethodConfig):
    """Contexts, the texts, the memory and the schedule."""

    contexts: int = 3  # rows that a task adds to the fusion
    memory: int = 112 * 112 * 3 * 2000  # bytes: 2,000 images of 112 px, 20 of each of 100 classes
    memory_by: MemoryBy = "mean"  # nearest to the class's mean, or what the model is surest of
    schedule: TrainConfig = TrainConfig("sgd", lr=0.001, epochs=5, batch_size=64, weight_decay=0.05)

    def __post_init__(self) -> None:
        at_least(1, "proof", contexts=self.contexts, memory=self.memory)


@register
class Proof(TextMethod[ProofConfig]):
    """Maps that add up, and classes whose rows look at the image."""

    name: ClassVar[str] = "proof"
    title: ClassVar[str] = "PROOF"
    paper: ClassVar[str] = "https://arxiv.org/abs/2305.19270"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=2e-5)
    config_type: ClassVar[type[MethodConfig]] = ProofConfig
    trains: Trains = "every"

    def build(self) -> Program:
        scale = text_spec(self.spec).logit_scale
        self.fusion = FusedTexts(self.spec.feature_dim, scale, contexts=self.config.contexts)
        return self.compose(classifier=self.fusion, passes=("plain",))

    def local(self) -> dict[str, TensorSpec]:
        sizes = {"f": self.spec.feature_dim, "g": self.spec.feature_dim}
        return {
            f"{kind}_map_added": TensorSpec("g f", sizes, init=zeros, trained=True) for kind in MAPS
        }

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Return the text embeddings of the task's classes, and their images' means."""
        means = class_means(F.normalize(task.queries, dim=-1), task.labels, task.classes)
        texts = task.text.zero_shot(task.texts, self.config.templates)
        return {**fresh, "texts": texts, "prototypes": F.normalize(means, dim=-1)}

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Add the task's maps to those of the former tasks, which are frozen."""
        made = {}
        for kind in MAPS:
            added = leaves[f"{kind}_map_added"]
            former = task.learned.get(f"{kind}_map", torch.eye(len(added)))
            made[f"{kind}_map"] = former.to(added.device) + added
        return made

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy of each of the logits over all rows, those of the memory among them."""
        logits = self.fusion.logits(batch.encoded, learned)
        rows = batch.labels + len(learned["texts"]) - batch.classes
        return torch.stack([F.cross_entropy(one, rows) for one in logits]).sum()

    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return CLIP's own embeddings, in place of the prototypes too."""
        texts = text.zero_shot(names, self.config.templates)
        return {"texts": texts, "prototypes": texts}
