"""The one function that trains, evaluates and is exported: image and learned to scores."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones.vit import Features
from edgecl.classifiers import Encoded
from edgecl.injection import Injection
from edgecl.learned import Tensors
from edgecl.methods.base import Method


@runtime_checkable
class BackboneModel(Protocol):
    """A frozen encoder: normalised pixels [b, 3, s, s] and an injection, to features."""

    def __call__(self, pixels: Tensor, injection: Injection = ()) -> Features: ...


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
) -> Encoded:
    """Run the passes of a method.

    Args:
        plain: the features without injection, if they are known (they are frozen, so they can be
            cached).
    """
    wants_plain = "plain" in method.passes
    if wants_plain and plain is None:
        plain = backbone(pixels)
    query = plain.cls if plain is not None else pixels.new_zeros(pixels.shape[0], 0)
    match = method.matcher(query, learned)
    injected = None
    if "injected" in method.passes:
        slots = method.injector.fill(match, learned)
        injected = backbone(pixels, method.injector.sites(slots))
    return Encoded(plain if wants_plain else None, match, injected)


def classify(method: Method, encoded: Encoded, learned: Tensors) -> Outputs:
    """Score what was encoded."""
    return Outputs(
        scores=method.classifier.scores(encoded, learned),
        feature=method.classifier.feature(encoded),
        match=encoded.match.index,
        match_score=encoded.match.score,
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
