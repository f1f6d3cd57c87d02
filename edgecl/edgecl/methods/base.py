"""What a method is: an injector, a matcher and a classifier, and the loss that trains them.

A method holds no tensors. `learned` is an argument of everything, so the function that trains is
the function that is exported.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones import Backbone
from edgecl.classifiers import Classifier, Encoded
from edgecl.errors import EdgeclError
from edgecl.injectors import Injector, NoInjector, Slot
from edgecl.learned import Learned, Tensors, interface_digest
from edgecl.matching import Matcher, NoMatcher

Pass = Literal["plain", "injected"]


class MethodError(EdgeclError):
    """A method cannot be found, configured or run on this backbone."""


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
        if self.epochs < 0 or self.batch_size < 1 or self.lr <= 0:
            raise MethodError(
                "A schedule needs epochs >= 0, batch_size >= 1 and lr > 0, got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}. "
                "Set them with --set schedule.NAME=VALUE."
            )


@dataclass(frozen=True)
class Place:
    """What a method must know of the backbone that it runs on."""

    width: int  # d, of the features
    depth: int  # blocks, 0 where there are no sites
    sites: frozenset[str]
    digest: str

    @classmethod
    def of(cls, backbone: Backbone) -> "Place":
        """Describe a loaded backbone."""
        depth = len(getattr(backbone.model, "blocks", ()))
        return cls(backbone.width, depth, backbone.sites, backbone.digest)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Place":
        """Read what `to_json` gave."""
        return cls(value["width"], value["depth"], frozenset(value["sites"]), value["digest"])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sites": sorted(self.sites)}


class Batch(NamedTuple):
    """One batch of the current task, as a loss sees it; labels count from the task's first row."""

    encoded: Encoded
    labels: Int[Tensor, " b"]
    classes: int


class Method(ABC):
    """The base of all methods; a subclass sets the three components and, where it trains, `loss`.

    Attributes:
        title: the name that papers use.
        paper: its address.
        passes: the runs through the backbone that one image costs.
        graph_config: fields of the configuration that shape the exported graph.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str]
    config_type: ClassVar[type]
    passes: ClassVar[tuple[Pass, ...]]
    graph_config: ClassVar[tuple[str, ...]] = ()

    injector: Injector = NoInjector()
    matcher: Matcher = NoMatcher()
    classifier: Classifier

    def __init__(self, config: Any, place: Place):
        self.config = config
        self.place = place
        self.build(config, place)
        if self.injector.site not in place.sites | {"none"}:
            raise MethodError(
                f"{self.name} needs a backbone with the site `{self.injector.site}`, got one with "
                f"{sorted(place.sites) or 'none'}. "
                "Use a ViT such as vit-s14, or a closed-form method."
            )

    @abstractmethod
    def build(self, config: Any, place: Place) -> None:
        """Set `injector`, `matcher` and `classifier`."""

    @property
    def schedule(self) -> Schedule | None:
        return getattr(self.config, "schedule", None)

    def declare(self) -> dict[str, Learned]:
        return {
            **self.injector.declare(),
            **self.matcher.declare(),
            **self.classifier.declare(),
        }

    def local(self) -> dict[str, Learned]:
        """Declare tensors that live during one task's training only and never ship."""
        return {}

    def trains(self, task: int) -> bool:
        """Say whether the task (0-based) is trained by gradient."""
        return False

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        raise MethodError(f"{self.name} trains nothing by gradient.")

    def slots(self) -> dict[str, Slot]:
        return self.injector.slots()

    @property
    def interface(self) -> str:
        """Return the digest that a pack and a program must share."""
        config = {name: asdict(self.config)[name] for name in self.graph_config}
        return interface_digest(self.name, config, self.declare(), self.place.digest)
