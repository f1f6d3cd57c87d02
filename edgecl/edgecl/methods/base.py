"""What a method is: a recipe that trains the tensors of a program.

A method holds no tensors either: the learner keeps what was learned and hands it to every hook.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from typing import Any, ClassVar, Generic, Literal, TypeAlias, final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.methods.batch import Batch as Batch
from edgecl.methods.config import ConfigT, MethodConfig, check_later, check_policies
from edgecl.methods.status import Status as Status
from edgecl.optim import Average, Schedule
from edgecl.program.classifiers import ClosedForm
from edgecl.program.classifiers.base import Additive
from edgecl.program.classifiers.ridge import ChoosingRidge
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.program import Program

Teacher: TypeAlias = Literal["initial", "former"]
Trains: TypeAlias = Literal["never", "first", "every"]
Forgets: TypeAlias = Literal["rows", "sums", "tasks", "last"]


class Method(ABC, Generic[ConfigT]):
    """The base of all methods: a subclass sets the names, `build` and, where it trains, `loss`.

    Attributes:
        program: what `build` returned.
        title: the name that papers use.
        paper: its address.
        status: how far it agrees with its public code.
        trains: the tasks that are trained by gradient.
        needs_text: whether it runs on a CLIP only, whose text tower its tasks read.
        teachers: models whose [CLS] features of all images of a training `constants` gets in
            `TaskContext.features`: the `initial` one, without injection, and the `former` one,
            with the injection that the training starts from.
        goes_on: whether the rows of a class that comes back go on from those that it has: what a
            policy keeps of them goes along.
        warm_start: whether a task starts from the ends of the former one's local tensors, which
            the run keeps.
        forgets: what can be taken out as if it had never been: the `rows` of a class, which are of
            its images alone; a class or a task out of `sums`; `tasks`, which know nothing of each
            other; or the `last` task only.
        options: fields of the configuration that shape the exported graph.
        trained_branch: of several injected passes, the one that training runs.
        augmentation: the set of `learning.augment` that training images of the public code go
            through; `none` where it augments nothing, or is not public.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str]
    status: ClassVar[Status] = Status()
    config_type: ClassVar[type[MethodConfig]]
    trains: Trains = "never"
    needs_text: ClassVar[bool] = False
    teachers: ClassVar[tuple[Teacher, ...]] = ()
    goes_on: ClassVar[bool] = False
    warm_start: ClassVar[bool] = False
    forgets: ClassVar[Forgets] = "last"
    options: ClassVar[tuple[str, ...]] = ()
    trained_branch: ClassVar[int | None] = None
    augmentation: ClassVar[str] = "none"

    def __init__(self, config: ConfigT, spec: BackboneSpec):
        self.config = config
        self.spec = spec
        if self.needs_text and spec.text is None:
            raise MethodError(
                f"{self.name} needs a CLIP, whose text tower reads class names, got a backbone "
                "without one. Use --backbone edgecl-clip-s, or another CLIP."
            )
        self.program = self.build()
        shared = any(item.shared for item in self.program.declare().values())
        averages = type(self).average is not Method.average
        trains = self.trains != "never"
        check_policies(self.name, config, shared and self.trains == "every", averages, trains)
        check_later(self.name, config, self.trains != "first")

    # -- what a recipe may override

    @abstractmethod
    def build(self) -> Program:
        """Return the program, by `compose`."""

    def schedule(self, task: int) -> Schedule:
        """Return how a task (from 0) is trained.

        Raises:
            MethodError: if the configuration has no `schedule`.
        """
        if self.config.schedule is None:
            raise MethodError(f"{self.name} trains nothing by gradient: it has no schedule.")
        return Schedule(self.config.schedule.of(task))

    def local(self) -> dict[str, TensorSpec]:
        """Return the tensors that exist during one task's training only and never ship.

        `fit` finds their ends in `TaskContext.learned`. With `warm_start` each starts as the
        former task's ended; one that `fit` left in the state starts as it is there.
        """
        return {}

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Return the task's initial tensors.

        What is declared as trained is then trained; anything else stays as it is returned here.

        Args:
            fresh: new entries, or a copy of the former tensor where it is replaced; in a task that
                is not trained, counts only.
        """
        return fresh

    def constants(self, task: TaskContext) -> Tensors:
        """Return what the loss needs besides what is trained; computed once per task."""
        return {}

    def teacher_rows(self, features: Tensors) -> Tensors:
        """Return what the loss needs of the teachers' features, a row for each image.

        `constants` has them of the images as they are tested; a training that sees augmented views
        replaces them in every epoch by those of its view.
        """
        return {}

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return the task's tensors that are functions of the trained ones, local ones included.

        Args:
            final: the training is over, and the result ships; else it is one step's.
        """
        return {}

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Return the cross-entropy over the task's class rows: other tasks' logits are masked."""
        return F.cross_entropy(self.current_logits(batch, learned), batch.labels)

    def average(self, task: TaskContext, constants: Tensors) -> Average | None:
        """Return a moving average of one task's training, None for its last step."""
        return None

    def end_task(self, task: TaskContext, part: Tensors) -> Tensors:
        """Return the task's tensors after its training, as `fit` gets them and as they ship."""
        return part

    def fit(self, task: TaskContext) -> FitResult:
        """Compute what is not trained, and what the next task needs to know of this one."""
        classifier = self.program.classifier
        if not isinstance(classifier, ClosedForm):
            return FitResult()
        closed = classifier
        if task.sums is not None:
            return closed.fit(task)
        features = task.encode(lambda encoded, learned: {"feature": closed.feature(encoded)})
        return replace(closed.fit(replace(task, features=features)), feature=features["feature"])

    def task_end(self) -> str:
        """Return why `online` cannot take the method, and what to do; "" where it needs no end."""
        classifier = self.program.classifier
        if self.trains != "never" or not isinstance(classifier, Additive):
            return (
                f"{self.name} learns a task as a whole. Choose a method that adds up its images "
                "(simplecil, lda, ranpac), or single-head."
            )
        return classifier.task_end() if isinstance(classifier, ChoosingRidge) else ""

    # -- what a recipe uses

    @final
    def compose(self, **parts: Any) -> Program:
        """Return a program of this name, backbone and options; `parts` are its other fields."""
        return Program(
            name=self.name,
            spec=self.spec,
            reads_text=self.needs_text,
            options={name: asdict(self.config)[name] for name in self.options},
            **parts,
        )

    @final
    def current_logits(self, batch: Batch, learned: Tensors) -> Float[Tensor, "b c"]:
        """Return the scores of the current task's class rows, which are the last."""
        return self.program.classifier.scores(batch.encoded, learned)[:, -batch.classes :]

    @final
    def is_trained(self, task: int) -> bool:
        """Return whether a task (from 0) is trained by gradient."""
        return self.trains == "every" or (self.trains == "first" and task == 0)
