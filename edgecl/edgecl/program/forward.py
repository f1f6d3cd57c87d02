"""The one function that trains, evaluates and is exported: image and learned to scores."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones.sites import Injection
from edgecl.backbones.vit import Features
from edgecl.methods.base import Method
from edgecl.program.classifiers import Encoded
from edgecl.program.injectors import Branches
from edgecl.program.learned import Tensors


@runtime_checkable
class BackboneModel(Protocol):
    """A frozen encoder: normalised pixels [b, 3, s, s] and an injection, to features.

    `taps` asks for [CLS] behind so many of the last blocks, `tokens` for all rows behind the last.
    """

    def __call__(
        self, pixels: Tensor, injection: Injection = (), taps: int = 0, tokens: bool = False
    ) -> Features: ...


class Outputs(NamedTuple):
    """What a program says of a batch; row i is a function of image i alone."""

    scores: Float[Tensor, "b c"]
    feature: Float[Tensor, "b f"]
    match: Int[Tensor, "b k"]
    match_score: Float[Tensor, "b k"]


def encode(
    method: Method,
    backbone: BackboneModel,
    pixels: Float[Tensor, "b 3 h w"],
    learned: Tensors,
    plain: Features | None = None,
    *,
    own: bool = False,
    branch: int | None = None,
) -> Encoded:
    """Run the passes of a method.

    Args:
        plain: the features without injection, if they are known (they are frozen, so they can be
            cached).
        own: the images are those of the task that is learned, so the method may say what they
            match (`Method.own_match`).
        branch: of several injected passes run this one only; its features have no axis t.
    """
    wants_plain = "plain" in method.passes
    if wants_plain and plain is None:
        plain = backbone(pixels, taps=method.taps, tokens=method.tokens)
    query = plain.cls if plain is not None else pixels.new_zeros(pixels.shape[0], 0)
    match = (method.own_match if own else method.matcher)(query, learned)
    injected = None
    if "injected" in method.passes:
        slots = method.injector.fill(match, learned)
        if branch is not None:
            slots = {name: bank[branch] for name, bank in slots.items()}
        if branch is None and isinstance(method.injector, Branches):
            injected = all_branches(method, backbone, pixels, slots)
        else:
            sites = method.injector.sites(slots)
            injected = backbone(pixels, sites, taps=method.taps, tokens=method.tokens)
    return Encoded(plain if wants_plain else None, match, injected)


def all_branches(
    method: Method, backbone: BackboneModel, pixels: Float[Tensor, "b 3 h w"], slots: Tensors
) -> Features:
    """Run every image once per branch, in one batch of t runs; features are [b, t, d]."""
    b, t = pixels.shape[0], next(iter(slots.values())).shape[0]
    repeated = pixels.repeat(t, 1, 1, 1)  # t*b 3 h w
    sites = method.injector.sites(slots)
    features = backbone(repeated, sites, taps=method.taps, tokens=method.tokens)
    return features.map(lambda rows: rows.unflatten(0, (t, b)).transpose(0, 1))  # b t ...


def classify(method: Method, encoded: Encoded, learned: Tensors) -> Outputs:
    """Score what was encoded."""
    match = method.rematch(encoded, learned)
    encoded = encoded._replace(match=match)
    return Outputs(
        scores=method.classifier.scores(encoded, learned),
        feature=method.classifier.feature(encoded),
        match=match.index,
        match_score=match.score,
    )


def infer(
    method: Method,
    backbone: BackboneModel,
    pixels: Float[Tensor, "b 3 h w"],
    learned: Tensors,
    plain: Features | None = None,
) -> Outputs:
    """Classify images: `classify(encode(...))`."""
    return classify(method, encode(method, backbone, pixels, learned, plain), learned)
