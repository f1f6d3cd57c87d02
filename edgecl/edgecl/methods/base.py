"""What a method is: an injector, a matcher and a classifier, and the loss that trains them.

A method holds no tensors. `learned` is an argument of everything, so the function that trains is
the function that is exported.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.text_encoder import TextSide
from edgecl.errors import EdgeclError
from edgecl.program.classifiers.base import Classifier, ClosedForm, Encoded
from edgecl.program.fitting import Fitted, TaskView
from edgecl.program.injectors import Injector, NoInjector, Slot
from edgecl.program.learned import Learned, Tensors, interface_digest
from edgecl.program.matchers import Match, Matcher, NoMatcher, TaskMatcher

Pass = Literal["plain", "injected"]
Status = Literal["compared", "tested"]
Teacher = Literal["initial", "former"]


class MethodError(EdgeclError):
    """A method cannot be found, configured or run on this backbone."""


def at_least(least: int | float, method: str, **fields: int | float) -> None:
    """Check fields of a method's configuration.

    Raises:
        MethodError: if one is smaller.
    """
    for name, value in fields.items():
        if not value >= least:  # nor is NaN
            raise MethodError(f"{method}.{name} must be at least {least}, got {value}. Raise it.")


@dataclass(frozen=True)
class Schedule:
    """How one task is trained. A new optimiser is made for every task."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01  # at the start
    epochs: int = 20
    batch_size: int = 48
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0  # on the tensors that are trained in this task only
    cosine: bool = True  # anneal to zero over the task, else constant
    clip: float | None = None  # largest norm of the gradient

    def __post_init__(self) -> None:
        wanted = {
            "epochs": self.epochs >= 0,
            "batch_size": self.batch_size >= 1,
            "lr": self.lr > 0,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "clip": self.clip is None or self.clip > 0,
        }
        wrong = [f"{name}={getattr(self, name)}" for name, holds in wanted.items() if not holds]
        if wrong:
            raise MethodError(
                "A schedule needs epochs >= 0, batch_size >= 1, lr > 0, momentum in [0, 1), "
                f"weight_decay >= 0 and clip > 0 or none, got {', '.join(wrong)}. "
                "Set them with --set schedule.NAME=VALUE."
            )


@dataclass(frozen=True)
class TextPlace:
    """What a method must know of a CLIP's text tower."""

    width: int  # w, of the rows between blocks
    depth: int  # blocks
    context_length: int  # tokens at most
    logit_scale: float  # the logarithm of the factor on the cosine
    digest: str  # of both towers


@dataclass(frozen=True)
class Place:
    """What a method must know of the backbone that it runs on."""

    width: int  # d, of the features
    depth: int  # blocks, 0 where there are no sites
    sites: frozenset[str]
    digest: str
    inner: int | None = None  # w, of the rows between blocks; None: as wide as the features
    hidden: int | None = None  # of the MLPs; None: four times as wide as the rows
    tokens: int = 0  # n, [CLS] and the patches; 0 where there are no sites
    text: TextPlace | None = None  # of a CLIP

    @property
    def row(self) -> int:
        """Return the width of the rows between blocks."""
        return self.inner or self.width

    @property
    def mlp(self) -> int:
        """Return the hidden width of the MLPs."""
        return self.hidden or 4 * self.row

    @property
    def made_on(self) -> str:
        """Return the digest of all weights, the text tower's among them."""
        return self.text.digest if self.text else self.digest

    @classmethod
    def of(cls, backbone: Backbone | Clip) -> "Place":
        """Describe a loaded backbone, or the two towers of a CLIP."""
        if isinstance(backbone, Clip):
            sizes = backbone.text.config
            text = TextPlace(
                sizes.width, sizes.depth, sizes.context_length, backbone.logit_scale,
                backbone.digest,
            )  # fmt: skip
            return replace(cls.of(backbone.visual), text=text)
        depth = len(getattr(backbone.model, "blocks", ()))
        config = getattr(backbone.model, "config", None)
        inner = config.width if config is not None and config.projection else None
        hidden = int(config.width * config.mlp_ratio) if config is not None else None
        tokens = 1 + config.patches if config is not None else 0
        return cls(backbone.width, depth, backbone.sites, backbone.digest, inner, hidden, tokens)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Place":
        """Read what `to_json` gave."""
        own = (value["width"], value["depth"], frozenset(value["sites"]), value["digest"])
        text = value.get("text")
        return cls(
            *own, value.get("inner"), value.get("hidden"), value.get("tokens", 0),
            None if text is None else TextPlace(**text),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sites": sorted(self.sites)}


class Batch(NamedTuple):
    """One batch of the current task, as a loss sees it.

    Attributes:
        labels: counted from the task's first row.
        classes: of the task.
        kept: what the former task's `fit` kept, and what `prepare` made.
        rows: the positions of the images among all that train the task.
    """

    encoded: Encoded
    labels: Int[Tensor, " b"]
    classes: int
    kept: Mapping[str, Tensor] = MappingProxyType({})
    rows: Int[Tensor, " b"] | None = None


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
        teachers: models whose [CLS] features of all images of a training `prepare` gets in
            `TaskView.features`: the `initial` one, without injection, and the `former` one, with
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
    carries: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    teachers: ClassVar[tuple[Teacher, ...]] = ()
    graph_config: ClassVar[tuple[str, ...]] = ()
    trained_branch: ClassVar[int | None] = None
    room: int = 20

    injector: Injector = NoInjector()
    matcher: Matcher = NoMatcher()
    classifier: Classifier

    def __init__(self, config: Any, place: Place):
        self.config = config
        self.place = place
        if self.needs_text and place.text is None:
            raise MethodError(
                f"{self.name} needs a CLIP, whose text tower reads class names, got a backbone "
                "without one. Use --backbone edgecl-clip-s, or another CLIP."
            )
        self.build(config, place)
        if self.injector.site not in place.sites | {"none"}:
            raise MethodError(
                f"{self.name} needs a backbone with the site `{self.injector.site}`, got one with "
                f"{sorted(place.sites) or 'none'}. "
                "Use a ViT such as vit-s14, or a closed-form method."
            )
        if self.taps > place.depth:
            raise MethodError(
                f"{self.name} reads the last {self.taps} blocks of its backbone, got one with "
                f"{place.depth}. Use a ViT such as vit-s14."
            )

    @abstractmethod
    def build(self, config: Any, place: Place) -> None:
        """Set `injector`, `matcher` and `classifier`."""

    @property
    def schedule(self) -> Schedule | None:
        return getattr(self.config, "schedule", None)

    @property
    def memory(self) -> int:
        """Return the bytes of training images that the run may remember for later tasks, 0 if none.

        A remembered image's label in a batch is below 0: all count from the task's first row.
        """
        return getattr(self.config, "memory", 0)

    def declare(self) -> dict[str, Learned]:
        return {
            **self.injector.declare(),
            **self.matcher.declare(),
            **self.classifier.declare(),
        }

    def local(self) -> dict[str, Learned]:
        """Declare tensors that live during one task's training only and never ship.

        `fit` finds their ends in `TaskView.learned`; one that is kept under the same name
        (`carries`) starts the next task as it is.
        """
        return {}

    def prepare(self, task: TaskView) -> Tensors:
        """Return what the loss and `after_step` need beside what is trained; made once per task."""
        return {}

    def derived(self, leaves: Tensors, task: TaskView) -> Tensors:
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

    def start(self, task: TaskView, fresh: Tensors) -> Tensors:
        """Return the task's tensors in front of its training, or where nothing is trained.

        What is declared as trained becomes a leaf; anything else stays as it is given here.

        Args:
            fresh: new rows, or a copy of the former tensor where it is replaced; in a task that is
                not trained, counts only.
        """
        return fresh

    def end(self, task: TaskView, part: Tensors) -> Tensors:
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

    def unseen(self, text: TextSide, names: Sequence[str], learned: Tensors) -> Tensors:
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

    def fit(self, task: TaskView) -> Fitted:
        """Compute what is not trained, and what the next task needs to know of this one."""
        assert isinstance(self.classifier, ClosedForm), f"{self.name} fits nothing"
        return self.classifier.fit(task)

    def slots(self) -> dict[str, Slot]:
        return {name: slot.with_room(self.room) for name, slot in self.injector.slots().items()}

    @property
    def interface(self) -> str:
        """Return the digest that a pack and a program must share."""
        config = {name: asdict(self.config)[name] for name in self.graph_config}
        digest = self.place.made_on if self.needs_text else self.place.digest
        return interface_digest(self.name, config, self.declare(), digest)
