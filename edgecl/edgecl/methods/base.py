"""What a method is: an injector, a matcher and a classifier, and the loss that trains them.

A method holds no tensors. `learned` is an argument of everything, so the function that trains is
the function that is exported.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.optim import TrainConfig
from edgecl.program.classifiers import Classifier, ClosedForm, Encoded
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import Injector, NoInjector, Slot
from edgecl.program.learned import Tensors, TensorSpec, interface_digest
from edgecl.program.matchers import Match, Matcher, NoMatcher, TaskMatcher

Pass = Literal["plain", "injected"]
Status = Literal["compared", "tested"]
Teacher = Literal["initial", "former"]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of the current task, as a loss sees it.

    Attributes:
        labels: counted from the task's first row.
        classes: of the task.
        constants: what the former task's `fit` kept, and what `constants` made.
        index: the positions of the images among all that train the task.
    """

    encoded: Encoded
    labels: Int[Tensor, " b"]
    classes: int
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    index: Int[Tensor, " b"] | None = None


class Method(ABC):
    """The base of all methods; a subclass sets the three components and, where it trains, `loss`.

    Attributes:
        title: the name that papers use.
        paper: its address.
        passes: the kinds of runs through the backbone; `build` may set others.
        status: `compared` if its accuracy was held against the public code, on the same backbone,
            images and order (benchmarks/results/fidelity.md); else `tested`, by our tests alone.
        runs: how many runs one image costs where they are not one of each kind, such as `T`;
            `build` may set others.
        taps: how many of the last blocks give their [CLS] to the classifier; set by `build`.
        tokens: whether the classifier reads all rows behind the last block.
        carries: whether a task starts from the ends of the former one's local tensors, which the
            run keeps.
        needs_text: whether it runs on a CLIP only, whose text tower its tasks see.
        teachers: models whose [CLS] features of all images of a training `constants` gets in
            `TaskContext.features`: the `initial` one, without injection, and the `former` one, with
            the injection that the training starts from.
        graph_config: fields of the configuration that shape the exported graph.
        trained_branch: of several injected passes, the one that training runs.
        room: tasks that the fixed slots of an exported program hold, where they grow by task.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str]
    status: ClassVar[Status] = "tested"
    config_type: ClassVar[type]
    passes: tuple[Pass, ...]
    runs: str = ""
    taps: int = 0
    tokens: ClassVar[bool] = False
    warm_start: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    teachers: ClassVar[tuple[Teacher, ...]] = ()
    graph_config: ClassVar[tuple[str, ...]] = ()
    trained_branch: ClassVar[int | None] = None
    room: int = 20

    injector: Injector = NoInjector()
    matcher: Matcher = NoMatcher()
    classifier: Classifier

    def __init__(self, config: Any, spec: BackboneSpec):
        self.config = config
        self.spec = spec
        if self.needs_text and spec.text is None:
            raise MethodError(
                f"{self.name} needs a CLIP, whose text tower reads class names, got a backbone "
                "without one. Use --backbone edgecl-clip-s, or another CLIP."
            )
        self.build(config, spec)
        if self.injector.site not in spec.sites | {"none"}:
            raise MethodError(
                f"{self.name} needs a backbone with the site `{self.injector.site}`, got one with "
                f"{sorted(spec.sites) or 'none'}. "
                "Use a ViT such as vit-s14, or a closed-form method."
            )
        if self.taps > spec.depth:
            raise MethodError(
                f"{self.name} reads the last {self.taps} blocks of its backbone, got one with "
                f"{spec.depth}. Use a ViT such as vit-s14."
            )

    @abstractmethod
    def build(self, config: Any, spec: BackboneSpec) -> None:
        """Set `injector`, `matcher` and `classifier`."""

    @property
    def schedule(self) -> TrainConfig | None:
        return getattr(self.config, "schedule", None)

    @property
    def memory(self) -> int:
        """Return the bytes of training images that the run may remember for later tasks, 0 if none.

        A remembered image's label in a batch is below 0: all count from the task's first row.
        """
        return getattr(self.config, "memory", 0)

    def declare(self) -> dict[str, TensorSpec]:
        return {
            **self.injector.declare(),
            **self.matcher.declare(),
            **self.classifier.declare(),
        }

    def local(self) -> dict[str, TensorSpec]:
        """Declare tensors that live during one task's training only and never ship.

        `fit` finds their ends in `TaskContext.learned`; one that is kept under the same name
        (`warm_start`) starts the next task as it is.
        """
        return {}

    def constants(self, task: TaskContext) -> Tensors:
        """Return what the loss and `after_step` need beside what is trained; made once per task."""
        return {}

    def parametrize(self, leaves: Tensors, task: TaskContext) -> Tensors:
        """Return the task's tensors that are functions of the trained ones, local ones included.

        Training runs with them, and they ship as its end leaves them.
        """
        return {}

    def trains(self, task: int) -> bool:
        """Say whether the task (0-based) is trained by gradient."""
        return False

    def rates(self, task: int) -> Mapping[str, float]:
        """Return factors on the schedule's learning rate in a task (0-based), 1 where absent."""
        return {}

    def own_match(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Say what the images of the task that is learned match; its rows of the bank are the last.

        Used in training and for the statistics behind it. Where every task has an entry it trains
        its own, whatever the matcher would choose.
        """
        if isinstance(self.matcher, TaskMatcher):
            return self.matcher.own(query, learned)
        return self.matcher(query, learned)

    def rematch(self, encoded: Encoded, learned: Tensors) -> Match:
        """Say what the images match where only the passes can tell; else what the matcher said."""
        return encoded.match

    @property
    def rematches(self) -> bool:
        return type(self).rematch is not Method.rematch

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        raise MethodError(f"{self.name} trains nothing by gradient.")

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Return the task's tensors in front of its training, or where nothing is trained.

        What is declared as trained becomes a leaf; anything else stays as it is given here.

        Args:
            fresh: new rows, or a copy of the former tensor where it is replaced; in a task that is
                not trained, counts only.
        """
        return fresh

    def end_task(self, task: TaskContext, part: Tensors) -> Tensors:
        """Return the task's tensors behind its training, as they ship and as `gather` sees them."""
        return part

    def frozen(self, task: int, epoch: int) -> bool:
        """Say whether the injection rests in an epoch (0-based): no gradient, no decay.

        Features are kept while it does, so `after_step` may not change what training runs.
        """
        return False

    def after_step(self, task: int, part: Tensors) -> None:  # noqa: B027  # for most, nothing
        """Change tensors in place behind a step of the optimiser.

        Args:
            part: the task's, local ones, and what `kept` of a batch holds.
        """

    def settle(self, task: int, part: Tensors) -> None:  # noqa: B027  # for most, nothing
        """Change tensors in place behind the last step, as `after_step`; then they are final."""

    def unseen(self, text: TextEncoder, names: Sequence[str], learned: Tensors) -> Tensors:
        """Return rows of the classifier for classes that were not learned, by their names alone.

        One for every tensor with the axis c, of a method that needs text. They rank classes that
        the protocols ask for before their task; they never ship.

        Args:
            learned: with what `fit` kept.

        Raises:
            MethodError: of a method that cannot.
        """
        raise MethodError(f"{self.name} scores only classes that it learned.")

    @property
    def fits(self) -> bool:
        """Say whether `gather` and `fit` run behind the training."""
        return isinstance(self.classifier, ClosedForm)

    def gather(self, encoded: Encoded, learned: Tensors) -> Tensors:
        """Return what `fit` needs of a batch of the task's images, one row per image."""
        return {"feature": self.classifier.feature(encoded)}

    def fit(self, task: TaskContext) -> FitResult:
        """Compute what is not trained, and what the next task needs to know of this one."""
        assert isinstance(self.classifier, ClosedForm), f"{self.name} fits nothing"
        return self.classifier.fit(task)

    def slots(self) -> dict[str, Slot]:
        return {name: slot.with_room(self.room) for name, slot in self.injector.slots().items()}

    @property
    def interface(self) -> str:
        """Return the digest that a pack and a program must share."""
        config = {name: asdict(self.config)[name] for name in self.graph_config}
        digest = self.spec.weights_digest if self.needs_text else self.spec.digest
        return interface_digest(self.name, config, self.declare(), digest)
