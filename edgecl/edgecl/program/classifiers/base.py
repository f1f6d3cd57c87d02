"""Classifiers: from the features of one image to one score per row.

A class owns one row or, where it comes back in another domain, several.
"""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.vit import Features
from edgecl.errors import MethodError
from edgecl.program.classifiers.task_sums import After, TaskSums
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match
from edgecl_deploy.format import Enrol

PartT = TypeVar("PartT")


class Encoded(NamedTuple):
    """Features of the passes (None where a program has no such pass), and the match."""

    plain: Features | None
    match: Match
    injected: Features | None

    def features(self, which: str) -> Features:
        """Return the features of a pass, `plain` or `injected`."""
        return _there(self.plain if which == "plain" else self.injected, f"pass {which}", "passes")

    def taps(self, which: str) -> Float[Tensor, "b *t k w"]:
        """Return [CLS] after each of the last blocks."""
        return _there(self.features(which).taps, "taps", "taps")

    def tokens(self, which: str) -> Float[Tensor, "b *t n w"]:
        """Return all tokens after the last block."""
        return _there(self.features(which).tokens, "tokens", "reads_tokens")


def _there(part: PartT | None, what: str, setting: str) -> PartT:
    """Return what a program made.

    Raises:
        MethodError: if it does not make it.
    """
    if part is None:
        raise MethodError(
            f"A program must make what it reads, found none of the {what}. "
            f"Set `{setting}` of the program."
        )
    return part


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


@runtime_checkable
class Additive(ClosedForm, Protocol):
    """A closed form that needs sums over images alone: its `fit` also takes `TaskContext.sums`."""

    @property
    def adds(self) -> str:
        """Return `mean` where it needs the sums of x by class, `ridge` where those of x x' too."""

    @property
    def summed_size(self) -> int:
        """Return m, how many entries x has."""

    @property
    def summed_one(self) -> bool:
        """Return whether the last entry of x is 1, so that its sums are numbers of images."""

    def summed(self, feature: Float[Tensor, "b f"], learned: Tensors) -> Float[Tensor, "b m"]:
        """Return x: what is added up of an image."""


@runtime_checkable
class Summing(Additive, Protocol):
    """A classifier whose rows come from sums over the images of all tasks."""

    def refit(self, state: Tensors, own: TaskSums, after: After) -> FitResult:
        """Return what `fit` does of a task, from its sums alone.

        Args:
            state: after the former task; empty where there is none.
        """


@runtime_checkable
class Enrolling(Classifier, Protocol):
    """A classifier that takes another class without training, on the device too."""

    def enrol(self) -> Enrol | None:
        """Declare how, to which `Program.enrol` adds what the features depend on; None: not so."""
