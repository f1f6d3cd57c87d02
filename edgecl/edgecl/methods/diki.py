"""DIKI (Tang et al., ECCV 2024, "Mind the Interference"), https://arxiv.org/abs/2407.05342.

Injection:  a residual prefix per task at the first blocks of both towers, w softmax(q K') V added
            to the attention over the tokens; V starts at zero, so an untrained prefix does nothing.
Matcher:    the task whose Gaussian of frozen image features of length 1 gives the image the highest
            density, with w = sigmoid(log N / d - 1); in training the task's own with w = 1.
Classifier: cosine of the injected image feature with the class's text at the image's w, under
            CLIP's temperature; texts are embedded at five weights, others are between (GridTexts).
Differs from the paper: match and w are of one image (the public code takes the majority of a test
            batch for the match and the mean of its w for the texts); a class's text has the prefix
            of its own task whatever task is matched, so texts are only appended, and one without a
            task is CLIP's own at every w; the jitter of the covariance is the one under which
            held-out images are likeliest, and w is measured by their densities (1e-7, and 1, suit
            more images than features: `jitter` and `calibrate`); the templates are one set for all
            tasks where the stream has none; the rate anneals by epochs, to 0; the last epoch is
            kept, not the best on a validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.text_method import TextMethod, TextMethodConfig, text_spec
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers.grid_texts import POINTS, GridTexts, grid
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import TaskPrefixes
from edgecl.program.injectors.prefixes import SharedPrefix, silent, weighted
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import TaskGaussians, task_gaussian


@dataclass(frozen=True)
class DikiConfig(TextMethodConfig):
    """Sizes of the prefixes, how Gaussians are made, the templates and the schedule."""

    blocks: int = 8  # of either tower that take a prefix, from block 0 on
    length: int = 8  # rows of its keys, and as many of its values
    jitter: float | None = None  # on the diagonal of the Gaussian's covariance; none: the likeliest
    calibrate: bool = True  # measure w by held-out images, else by 1
    schedule: TrainConfig = TrainConfig("sgd", lr=5.0, epochs=10, batch_size=128, momentum=0.0)

    def __post_init__(self) -> None:
        at_least(1, "diki", blocks=self.blocks, length=self.length)
        if self.jitter is not None and not self.jitter >= 1e-10:
            raise MethodError(f"diki.jitter must be at least 1e-10, got {self.jitter}. Use 1e-7.")


@register
class Diki(TextMethod[DikiConfig]):
    """Residual prefixes in both towers, as strong as the image is like the task."""

    name: ClassVar[str] = "diki"
    title: ClassVar[str] = "DIKI"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.05342"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=9e-6, points=0.0)
    config_type: ClassVar[type[MethodConfig]] = DikiConfig
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec

        def first(depth: int) -> tuple[int, ...]:
            return tuple(range(min(config.blocks, depth)))

        text, length = text_spec(spec), config.length
        self.text_prefix = SharedPrefix(text.width, first(text.depth), length, "residual")
        return self.compose(
            injector=TaskPrefixes(spec.width, first(spec.depth), length, "residual", init=silent),
            matcher=TaskGaussians(spec.feature_dim),
            classifier=GridTexts(spec.feature_dim, text.logit_scale, on="injected"),
            passes=("plain", "injected"),
        )

    def local(self) -> dict[str, TensorSpec]:
        """Declare the text tower's prefix, which no later task and no device needs."""
        sizes = {**self.text_prefix.sizes, "p": self.config.length}
        return {"text_prefix": TensorSpec("l s p d", sizes, init=silent, trained=True)}

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Fit the task's Gaussian."""
        c = self.config
        return fresh | task_gaussian(task.queries, task.labels, c.jitter, c.calibrate)

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return the texts of the task's classes: at weight 1 while that is the only one used."""
        prefix = leaves["text_prefix"]
        if final:
            return {"texts": torch.stack([self.texts(task, prefix, w) for w in grid()], dim=1)}
        texts = self.texts(task, prefix, 1.0, training=True)
        return {"texts": texts.unsqueeze(1).expand(-1, POINTS, -1)}

    def texts(
        self,
        task: TaskContext,
        prefix: Float[Tensor, "l 2 p w"],
        weight: float,
        *,
        training: bool = False,
    ) -> Float[Tensor, "c f"]:
        """Embed the class names with the task's prefix under a weight; the mean over templates."""
        sites = self.text_prefix.at_blocks(weighted(prefix, prefix.new_tensor(weight)), None)
        return task.text.averaged(task.texts, self.config.templates, sites, training=training)

    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return CLIP's own embeddings at every weight: a class without a task has no prefix."""
        rows = super().zero_shot_rows(text, names, learned)["texts"]
        return {"texts": rows.unsqueeze(1).repeat(1, POINTS, 1)}
