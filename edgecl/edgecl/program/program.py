"""A program: the one function that trains, evaluates and is exported, from image to scores.

A program holds no tensors. `learned` is an argument of everything, so the function that trains is
the function that is exported. Export and verification need a program and never a method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones.sites import Injection
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.vit import Features
from edgecl.errors import MethodError
from edgecl.program.classifiers.base import Classifier, Encoded, Enrolling
from edgecl.program.injectors import Branches, Injector, NoInjector, Slot
from edgecl.program.learned import Tensors, TensorSpec, interface_digest, train_once
from edgecl.program.matchers import Match, Matcher, NoMatcher, TaskMatcher
from edgecl_deploy.format import MEAN, RIDGE, TEXT, Enrol

Pass: TypeAlias = Literal["plain", "injected"]


@runtime_checkable
class BackboneModel(Protocol):
    """A frozen encoder: normalised pixels [b, 3, s, s] and an injection, to features.

    `taps` asks for [CLS] after each of so many of the last blocks, `tokens` for all tokens after
    the last one.
    """

    def __call__(
        self, pixels: Tensor, injection: Injection = (), taps: int = 0, tokens: bool = False
    ) -> Features: ...


@runtime_checkable
class LateMatcher(Protocol):
    """A matcher that reads what the passes returned, such as the logits of all heads."""

    def __call__(self, encoded: Encoded, learned: Tensors) -> Match: ...


class Outputs(NamedTuple):
    """What a program returns for a batch; row i is a function of image i alone."""

    scores: Float[Tensor, "b c"]
    feature: Float[Tensor, "b f"]
    match: Int[Tensor, "b k"]
    match_score: Float[Tensor, "b k"]


@dataclass(frozen=True)
class OwnRows:
    """What the images of a class are compared with, to tell an image of none (ADR 0053).

    Attributes:
        columns: the part of `feature` that is; None for all of it.
        tensor: the learned tensor that holds the row of each class; None: the mean of features of
            length 1, which a pack then holds beside its learned tensors.
        of_images: a row is of the images of its class, so each is compared with that of the others.
    """

    columns: tuple[int, int] | None = None
    tensor: str | None = None
    of_images: bool = True


@dataclass(frozen=True)
class Program:
    """The parts of a method that are exported.

    Attributes:
        name: of the method.
        spec: of the backbone.
        passes: the kinds of runs through the backbone.
        late_matcher: replaces the match after the passes, before the classifier.
        cost: backbone runs per image where they are not one per pass; T is the number of tasks.
        taps: how many of the last blocks return their [CLS] to the classifier.
        reads_tokens: whether the classifier reads all tokens after the last block.
        reads_text: whether the method reads class names by the text tower of a CLIP.
        trained_once: tensors of the injector that only the first task trains and ships.
        options: the fields of the method's configuration that shape the graph.
        capacity: tasks that the fixed slots of an exported program hold, where they grow by task.
    """

    name: str
    spec: BackboneSpec
    classifier: Classifier
    passes: tuple[Pass, ...]
    injector: Injector = NoInjector()
    matcher: Matcher = NoMatcher()
    late_matcher: LateMatcher | None = None
    cost: str = ""
    taps: int = 0
    reads_tokens: bool = False
    reads_text: bool = False
    trained_once: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    capacity: int = 20

    def __post_init__(self) -> None:
        if self.injector.site not in self.spec.sites | {"none"}:
            raise MethodError(
                f"{self.name} needs a backbone with the site `{self.injector.site}`, got one with "
                f"{sorted(self.spec.sites) or 'none'}. "
                "Use a ViT such as vit-s14, or a closed-form method."
            )
        if self.taps > self.spec.depth:
            raise MethodError(
                f"{self.name} reads the last {self.taps} blocks of its backbone, got one with "
                f"{self.spec.depth}. Use a ViT such as vit-s14."
            )

    def declare(self) -> dict[str, TensorSpec]:
        """Return the specification of every learned tensor."""
        injected = self.injector.declare()
        once = {name: injected[name] for name in self.trained_once}
        rest = {**self.matcher.declare(), **self.classifier.declare()}
        return {**injected, **rest, **train_once(once)}

    def slots(self) -> dict[str, Slot]:
        """Return the tensor inputs of the staged backbone graph, with room for `capacity` tasks."""
        return {
            name: slot.with_capacity(self.capacity) for name, slot in self.injector.slots().items()
        }

    @property
    def interface(self) -> str:
        """Return the digest that a pack and a program must share."""
        digest = self.spec.weights_digest if self.reads_text else self.spec.digest
        return interface_digest(self.name, self.options, self.declare(), digest)

    @property
    def own_rows(self) -> OwnRows | None:
        """Return what the images of a class are compared with; None if it would not last.

        A later task must not change the feature of an image: nothing is matched, and what is
        injected is trained by the first task alone.
        """
        injected = set(self.injector.declare())
        if self._is_matched or injected - set(self.trained_once):
            return None
        how = self.enrol
        if how is None:
            return OwnRows()
        appended = self.declare()[how.tensor].concat_axis is not None
        if how.kind == RIDGE or not appended:
            return OwnRows(how.columns)
        return OwnRows(how.columns, how.tensor, of_images=how.kind == MEAN)

    @property
    def _is_matched(self) -> bool:
        return not isinstance(self.matcher, NoMatcher) or self.late_matcher is not None

    @property
    def enrol(self) -> Enrol | None:
        """Return how the program takes a class on the device; None if it cannot.

        It must be a function of the images of that class, or of its name: no matcher has an entry
        for it, every tensor with a row per class is the classifier's own, and the text tower that
        made the other rows is the one that ships.
        """
        classifier = self.classifier
        if self._is_matched or not isinstance(classifier, Enrolling):
            return None
        own = classifier.enrol()
        if own is None:
            return None
        rows = {name for name, item in self.declare().items() if "c" in item.axis_names}
        injected = tuple(self.injector.declare())
        if rows - {own.tensor, own.scale, own.bias} or (own.kind == TEXT and injected):
            return None
        return replace(own, depends=injected)

    def match(
        self, query: Float[Tensor, "b d"], learned: Tensors, *, training: bool = False
    ) -> Match:
        """Match images with entries of the bank.

        Args:
            training: the images are those of the newest task. Where every task has an entry, they
                match theirs, which is the last, whatever the matcher would choose.
        """
        if training and isinstance(self.matcher, TaskMatcher):
            return self.matcher.own(query, learned)
        return self.matcher(query, learned)

    def encode(
        self,
        backbone: BackboneModel,
        pixels: Float[Tensor, "b 3 h w"],
        learned: Tensors,
        plain: Features | None = None,
        *,
        training: bool = False,
        branch: int | None = None,
        injected: Features | None = None,
    ) -> Encoded:
        """Run the passes.

        Args:
            plain: the features without injection, if they are known (the backbone is frozen, so
                they can be cached).
            injected: likewise of the injected passes.
            training: see `match`.
            branch: of several injected passes run this one only; its features have no axis t.
        """
        wants_plain = "plain" in self.passes
        if wants_plain and plain is None:
            plain = backbone(pixels, taps=self.taps, tokens=self.reads_tokens)
        query = plain.cls if plain is not None else pixels.new_zeros(pixels.shape[0], 0)
        match = self.match(query, learned, training=training)
        if "injected" in self.passes and injected is None:
            slots = self.injector.fill(match, learned)
            if branch is not None:
                slots = {name: bank[branch] for name, bank in slots.items()}
            if branch is None and isinstance(self.injector, Branches):
                injected = self._all_branches(backbone, pixels, slots)
            else:
                sites = self.injector.sites(slots)
                injected = backbone(pixels, sites, taps=self.taps, tokens=self.reads_tokens)
        return Encoded(plain if wants_plain else None, match, injected)

    def _all_branches(
        self, backbone: BackboneModel, pixels: Float[Tensor, "b 3 h w"], slots: Tensors
    ) -> Features:
        """Run every image once per branch, in one batch of t runs; features are [b, t, d]."""
        b, t = pixels.shape[0], next(iter(slots.values())).shape[0]
        repeated = pixels.repeat(t, 1, 1, 1)  # t*b 3 h w
        sites = self.injector.sites(slots)
        features = backbone(repeated, sites, taps=self.taps, tokens=self.reads_tokens)
        return features.map(lambda part: part.unflatten(0, (t, b)).transpose(0, 1))  # b t ...

    def classify(self, encoded: Encoded, learned: Tensors) -> Outputs:
        """Score what the passes returned."""
        if self.late_matcher is not None:
            encoded = encoded._replace(match=self.late_matcher(encoded, learned))
        return Outputs(
            scores=self.classifier.scores(encoded, learned),
            feature=self.classifier.feature(encoded),
            match=encoded.match.index,
            match_score=encoded.match.score,
        )

    def infer(
        self,
        backbone: BackboneModel,
        pixels: Float[Tensor, "b 3 h w"],
        learned: Tensors,
        plain: Features | None = None,
    ) -> Outputs:
        """Classify images: `classify(encode(...))`."""
        return self.classify(self.encode(backbone, pixels, learned, plain), learned)
