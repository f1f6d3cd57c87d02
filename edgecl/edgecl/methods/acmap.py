"""ACMap, adapter merging with centroid prototype mapping (Fukuda et al., CVPR 2025).

https://arxiv.org/abs/2412.18219

Injection:  one AdaptFormer adapter parallel to every block's MLP, the mean of the weights of the
            tasks' adapters: A_t = ((t - 1) A_(t-1) + a_t) / t. Each task trains its a_t from where
            the first one ended; from task `merges` on A stays and nothing is trained.
Matcher:    none.
Classifier: cosine to class means under the adapter of their own task, each moved by the shift of
            its task: what the new classes' mean differs by between A_t and A_i. Means are appended,
            one shift per task is replaced. An image runs once, whatever the number of tasks.
Differs from the paper: no dropout inside the adapters. Read were the abstract and the authors'
            code, not the paper. As there, no shift is measured any more at task `merges`, though A
            moves there once more. Adapters that no longer change ship in every pack. Former A_i
            stay on the workstation until then, so a task encodes its images t times.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.first_session import FirstSession
from edgecl.optim import Schedule, TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import AdapterStack
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers.keys import cosine
from edgecl.program.statistics import class_means
from edgecl.program.task_rows import owners, task_rows
from edgecl_deploy.format import MEAN, Enrol


@dataclass(frozen=True)
class ShiftedPrototypes:
    """Class means, each moved by the shift of the task that brought it, compared by cosine."""

    width: int  # d

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"d": self.width}
        prototypes = TensorSpec("c d", sizes, concat_axis="c")
        return {"prototypes": prototypes, "shift": TensorSpec("t d", sizes), **task_rows()}

    def enrol(self) -> Enrol:
        """Declare the mean: a row after those of all tasks has the last one's shift, 0."""
        return Enrol(MEAN, "prototypes", columns=(0, self.width))

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return encoded.features("injected").cls

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        prototypes = learned["prototypes"]
        moved = prototypes + learned["shift"][owners(prototypes, learned)]
        return cosine(self.feature(encoded), moved)


@dataclass(frozen=True)
class AcmapConfig(MethodConfig):
    """The adapters, their merging and the schedule of every task."""

    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of the adapter's output
    merges: int = 10  # tasks whose adapters are averaged
    schedule: TrainConfig = TrainConfig(
        "sgd", lr=0.025, epochs=20, batch_size=48, weight_decay=5e-4
    )

    def __post_init__(self) -> None:
        at_least(1, "acmap", rank=self.rank, merges=self.merges)


@register
class Acmap(FirstSession[AcmapConfig]):
    """One mean adapter; every session has its cosine head, which is then dropped."""

    name: ClassVar[str] = "acmap"
    title: ClassVar[str] = "ACMap"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.18219"
    family: ClassVar[str] = "merged weights"
    status: ClassVar[Status] = Status(steps=1e-6)
    config_type: ClassVar[type[MethodConfig]] = AcmapConfig
    options: ClassVar[tuple[str, ...]] = ("scale",)
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        self.adapters = AdapterStack(spec.width, spec.depth, config.rank, config.scale)
        self.classifier = ShiftedPrototypes(spec.feature_dim)
        return self.compose(
            injector=self.adapters, classifier=self.classifier, passes=("injected",)
        )

    def schedule(self, task: int) -> Schedule:
        """Train nothing once the adapter stays."""
        train = self.config.schedule.of(task)
        return Schedule(train if task < self.config.merges else replace(train, epochs=0))

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start from the end of the first task's training, which is A_1."""
        return fresh | former_adapters(task.state)[0] if self._merges(task) else fresh

    def end_task(self, task: TaskContext, part: Tensors) -> Tensors:
        """Return the mean of the adapters so far."""
        if not self._merges(task):
            return part
        t, former = task.index + 1, task.learned
        return part | {
            name: ((t - 1) * former[name] + part[name]) / t for name in self.adapters.declare()
        }

    def fit(self, task: TaskContext) -> FitResult:
        """Return the class means, and the shifts of the former tasks."""
        means = self._means(task, {})
        shift, state = torch.zeros(task.index + 1, means.shape[1]), task.state
        if self._merges(task) and task.index + 1 < self.config.merges:
            for row, adapters in enumerate(former_adapters(state)):
                shift[row] = means.mean(dim=0) - self._means(task, adapters).mean(dim=0)
        elif task.index:
            shift[:-1] = task.learned["shift"]
        kept = {}
        if task.index + 1 < self.config.merges:
            now = {name: task.learned[name].unsqueeze(0) for name in self.adapters.declare()}
            kept = {n: torch.cat([state[n], new]) if n in state else new for n, new in now.items()}
        return FitResult({"prototypes": means, "shift": shift}, kept)

    def _merges(self, task: TaskContext) -> bool:
        return 0 < task.index < self.config.merges

    def _means(self, task: TaskContext, adapters: Mapping[str, Tensor]) -> Float[Tensor, "c d"]:
        """Return the means of the task's classes under some adapters, A_t if there are none."""
        features = task.encode(lambda e, _: {"feature": self.classifier.feature(e)}, adapters)
        return class_means(features["feature"], task.labels, task.classes)


def former_adapters(state: Tensors) -> list[Tensors]:
    """Return A_1, A_2, ... of the tasks so far."""
    rows = zip(*(tensor.unbind() for tensor in state.values()), strict=True)
    return [dict(zip(state, row, strict=True)) for row in rows]
