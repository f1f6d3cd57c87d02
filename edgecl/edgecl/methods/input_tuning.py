"""Input tuning: a frozen backbone whose images are changed (Marullo et al., 2023).

https://arxiv.org/abs/2306.02947

Injection:  x + delta of the normalised pixels x, before the patches. `full` learns delta for every
            pixel, `frame` for those near the edge, `tile` one patch that repeats, which is a bias
            of the patch embedding. It starts at zero.
Matcher:    of `tasks=own`, that of S-Prompts: the task that owns the nearest centroid; else none.
Classifier: linear on [CLS] of the changed image; logits of other tasks are masked in training, and
            with `tasks=own` always.
Differs from the paper: only its abstract was read: learnable parameters that transform the input of
            a frozen backbone, with the usual head. That they are added, where, their three forms,
            their start and the schedule are ours (the frame and its width are those of visual
            prompting, Bahng et al., arXiv 2203.17274), and so is what later tasks do: `first`
            freezes delta after the first task, `all` goes on training it in every task, `own`
            gives each task its delta and its heads.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Method, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.s_prompts import MatchedHeads
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import PixelPrompts
from edgecl.program.injectors.pixels import Form
from edgecl.program.learned import Tensors
from edgecl.program.matchers import NearestCentroid, NoMatcher

WHOLE = 224  # pixels of the side at which a border is stated


@dataclass(frozen=True)
class InputTuningConfig(MethodConfig):
    """The form of what is added, which tasks train it, and the schedule."""

    form: Form = "full"  # full, frame or tile
    tasks: Literal["first", "all", "own"] = "first"  # that train it; own: each has another
    border: int = 30  # pixels of a frame at an image of 224, in proportion at other sizes
    centroids: int = 5  # per task, of `own`
    schedule: TrainConfig = TrainConfig("adam", lr=0.01, epochs=20, batch_size=48)

    def __post_init__(self) -> None:
        if not (1 <= self.border < WHOLE // 2 and self.centroids >= 1):
            raise MethodError(
                f"input-tuning.border must be in [1, {WHOLE // 2}) and centroids at least 1, got "
                f"{self.border} and {self.centroids}. Use 30 and 5."
            )


@register
class InputTuning(Method[InputTuningConfig]):
    """What is added to every image, learned with a linear head."""

    name: ClassVar[str] = "input-tuning"
    title: ClassVar[str] = "Input tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.02947"
    family: ClassVar[str] = "pixel prompts"
    config_type: ClassVar[type[MethodConfig]] = InputTuningConfig
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        own = config.tasks == "own"
        self.centroids = NearestCentroid(spec.feature_dim, config.centroids)
        patch = spec.side // math.isqrt(max(1, spec.tokens - 1))
        width = patch if config.form == "tile" else max(1, config.border * spec.side // WHOLE)
        prompts = PixelPrompts(spec.side, config.form, width, per_task=own)
        head = MatchedHeads if own else Linear
        return self.compose(
            injector=prompts,
            matcher=self.centroids if own else NoMatcher(),
            classifier=head(spec.feature_dim, on="cls"),
            passes=("plain", "injected") if own else ("injected",),
            trained_once=tuple(prompts.declare()) if config.tasks == "first" else (),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Place the task's centroids, where it has some."""
        if self.config.tasks != "own":
            return fresh
        return fresh | self.centroids.of(task.queries, task.generator)
