"""Classifiers: from the features of one image to one score per row.

A class owns one row or, where it comes back in another domain, several.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.vit import Features
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match


class Encoded(NamedTuple):
    """Features of the passes (None where a program has no such pass), and the match."""

    plain: Features | None
    match: Match
    injected: Features | None

    def features(self, which: str) -> Features:
        features = self.plain if which == "plain" else self.injected
        assert features is not None, f"the method declares no {which} pass"
        return features


@runtime_checkable
class Classifier(Protocol):
    """What a method's `classifier` must offer."""

    def declare(self) -> dict[str, TensorSpec]: ...

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]: ...

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]: ...


@runtime_checkable
class ClosedForm(Classifier, Protocol):
    """A classifier whose rows come from the features of the task's images, without gradient.

    The view's `features["feature"]` holds what `feature` gives, [n, f].
    """

    def fit(self, task: TaskContext) -> FitResult: ...
