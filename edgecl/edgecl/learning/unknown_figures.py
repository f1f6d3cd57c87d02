"""How well images of no class are told, on test images: at one stage of a run, and over the stages.

Natural unknowns: after a task the test images of the tasks to come are of no class yet, if their
class is not known already. No test image has a part in any choice.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning import metrics
from edgecl.learning.fields import Fields, count, listed, number, optional, refuse, share
from edgecl.program import Outputs
from edgecl_deploy.unknown.rule import ALPHA, Judged, Reference

BINS = 20  # of the histogram of p
ACCEPTED = 0.95  # share of known images that FPR95 accepts
AT_ONCE = 512  # images that are judged at once
SHARES = ("auroc", "fpr95", "oscr", "auroc_cosine", "coverage", "rejected", "rejected_known",
          "rejected_domain", "accepted_accuracy")  # fmt: skip
OF_HEAD = ("auroc_max_score", "auroc_msp")  # shares that the first runs do not have
COLUMNS = 5  # of an image: p, cosine, size of the set, score, probability

Values = NDArray[np.floating[Any]]


def auroc(known: Values, unknown: Values) -> float | None:
    """Return the share of pairs whose known image has the larger value; equal ones count half."""
    if not len(known) or not len(unknown):
        return None
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left")
    at_most = np.searchsorted(ordered, known, side="right")
    return float((below + at_most).mean() / 2 / len(unknown))


def fpr95(known: Values, unknown: Values) -> float | None:
    """Return the share of unknown images at or above what 95 % of the known ones are at or above.

    Hendrycks and Gimpel, ICLR 2017, as OpenOOD has it (https://arxiv.org/abs/2306.09301).
    """
    if not len(known) or not len(unknown):
        return None
    least = np.sort(known)[::-1][math.ceil(ACCEPTED * len(known)) - 1]
    return float((unknown >= least).mean())


def oscr(known: Values, unknown: Values, correct: NDArray[np.bool_]) -> float | None:
    """Return the area under the share of known images that are accepted and right.

    Over the share of unknown images that are accepted (Dhamija et al., NeurIPS 2018,
    https://arxiv.org/abs/1811.04110): the AUROC of the right ones times their share.
    """
    if not len(known) or not len(unknown):
        return None
    return (auroc(known[correct], unknown) or 0.0) * float(correct.mean())


@dataclass(frozen=True)
class UnknownFigures:
    """One stage. A share is None where there is no image for it.

    The value of an image is its largest p over the classes.

    Attributes:
        alpha: at which sets were made.
        known_images: of the tasks so far.
        unknown_images: of tasks to come, whose classes were not known yet.
        auroc: see `auroc`; `fpr95` and `oscr` likewise.
        auroc_cosine: of the largest cosine with a class (its subspace, or row).
        auroc_max_score: of the largest score of the head.
        auroc_msp: of the largest softmax probability of these scores as they are (Hendrycks and
            Gimpel, ICLR 2017, https://arxiv.org/abs/1610.02136), which are logits of few heads.
        coverage: share of known images whose class is in their set.
        rejected: share of unknown images whose set is empty.
        rejected_known: share of known images whose set is empty.
        rejected_domain: the same of images of tasks to come whose class is known: a new domain.
        mean_set: how many classes the set of a known image has.
        accepted_accuracy: of the known images whose set is not empty.
        known_p: known images by the value, in 20 bins from 0 to 1.
        unknown_p: unknown images likewise.
    """

    alpha: float
    known_images: int
    unknown_images: int
    auroc: float | None = None
    fpr95: float | None = None
    oscr: float | None = None
    auroc_cosine: float | None = None
    auroc_max_score: float | None = None
    auroc_msp: float | None = None
    coverage: float | None = None
    rejected: float | None = None
    rejected_known: float | None = None
    rejected_domain: float | None = None
    mean_set: float | None = None
    accepted_accuracy: float | None = None
    known_p: tuple[int, ...] = (0,) * BINS
    unknown_p: tuple[int, ...] = (0,) * BINS

    @classmethod
    def from_json(cls, value: object, where: str) -> "UnknownFigures":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            alpha=fields.take("alpha", share),
            known_images=fields.take("known_images", count),
            unknown_images=fields.take("unknown_images", count),
            mean_set=fields.take("mean_set", optional(number)),
            known_p=fields.take("known_p", listed(count)),
            unknown_p=fields.take("unknown_p", listed(count)),
            **{name: fields.take(name, optional(share)) for name in SHARES},
            **{name: fields.give(name, optional(share), None) for name in OF_HEAD},
        )
        fields.done()
        for name in ("known_p", "unknown_p"):
            if len(getattr(found, name)) != BINS:
                refuse(f"{where}.{name}", f"{BINS} counts", getattr(found, name))
        return found

    def numbers(self) -> dict[str, float | None]:
        """Return what a release has of it."""
        other = {"alpha", "known_p", "unknown_p"}
        return {
            name: None if value is None else float(value)
            for name, value in asdict(self).items()
            if name not in other
        }


@dataclass(frozen=True)
class UnknownSummary:
    """All stages of a run.

    Attributes:
        auroc: the mean over the stages that have one; the others likewise.
        stages: after each task.
    """

    auroc: float | None
    fpr95: float | None
    oscr: float | None
    coverage: float | None
    rejected: float | None
    rejected_known: float | None
    stages: tuple[UnknownFigures, ...]

    @classmethod
    def of(cls, stages: Sequence[UnknownFigures | None]) -> "UnknownSummary | None":
        """Sum up; None where a stage has no figures."""
        there = tuple(one for one in stages if one is not None)
        if not there or len(there) < len(stages):
            return None
        means = {
            name: metrics.average([getattr(one, name) for one in there])
            for name in cls.__dataclass_fields__
            if name != "stages"
        }
        return cls(**means, stages=there)

    @classmethod
    def from_json(cls, value: object, where: str) -> "UnknownSummary":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        stages = fields.take("stages", listed(UnknownFigures.from_json))
        names = [name for name in cls.__dataclass_fields__ if name != "stages"]
        found = cls(stages=stages, **{name: fields.take(name, optional(share)) for name in names})
        fields.done()
        return found


@dataclass(eq=False)
class UnknownTally:
    """What the rule finds for test images, of one stage.

    Attributes:
        reference: of all classes so far.
        live: bool [c], whether a class row of the head counts.
    """

    reference: Reference
    live: Tensor
    alpha: float = ALPHA
    _known: list[NDArray[np.float64]] = field(default_factory=list)  # [n, COLUMNS]
    _unknown: list[NDArray[np.float64]] = field(default_factory=list)
    _domain: list[NDArray[np.float64]] = field(default_factory=list)
    _correct: list[NDArray[np.bool_]] = field(default_factory=list)
    _covered: list[bool] = field(default_factory=list)

    def add_known(self, outputs: Outputs, wanted: Sequence[str], correct: Sequence[bool]) -> None:
        """Count test images of the tasks so far.

        Args:
            outputs: of n images.
            wanted: the class of each.
            correct: whether the head has answered it.
        """
        place = {name: index for index, name in enumerate(self.reference.names)}
        labels = iter(place[name] for name in wanted)

        def cover(judged: Judged) -> None:
            self._covered += [bool(row[next(labels)]) for row in judged.inside]

        self._known.append(self._values(outputs, cover))
        self._correct.append(np.array(correct, bool))

    def add_later(self, outputs: Outputs, wanted: Sequence[str]) -> None:
        """Count test images of a task to come."""
        known = np.array([name in set(self.reference.names) for name in wanted], bool)
        values = self._values(outputs)
        self._unknown.append(values[~known])
        self._domain.append(values[known])

    def _values(
        self, outputs: Outputs, look: Callable[[Judged], None] = lambda _: None
    ) -> NDArray[np.float64]:
        """Return the values of each image: [n, COLUMNS]."""
        feature, scores = outputs.feature.numpy(), outputs.scores[:, self.live].double()
        of_head = [scores.amax(dim=1), scores.softmax(dim=1).amax(dim=1)]
        found = [np.empty((0, 3))]
        for start in range(0, len(feature), AT_ONCE):
            some = feature[start : start + AT_ONCE]
            judged = self.reference.judge(some, self.alpha)
            look(judged)
            cosine = self.reference.cosines(some).max(axis=1)
            found.append(np.column_stack([judged.p.max(axis=1), cosine, judged.inside.sum(axis=1)]))
        return np.column_stack([np.concatenate(found), *of_head])

    def figures(self) -> UnknownFigures:
        """Return the figures."""
        known, unknown, domain = (
            np.concatenate([np.empty((0, COLUMNS)), *each])
            for each in (self._known, self._unknown, self._domain)
        )
        correct = np.concatenate([np.empty(0, bool), *self._correct])
        accepted = known[:, 2] > 0
        return UnknownFigures(
            alpha=self.alpha,
            known_images=len(known),
            unknown_images=len(unknown),
            auroc=auroc(known[:, 0], unknown[:, 0]),
            fpr95=fpr95(known[:, 0], unknown[:, 0]),
            oscr=oscr(known[:, 0], unknown[:, 0], correct),
            auroc_cosine=auroc(known[:, 1], unknown[:, 1]),
            auroc_max_score=auroc(known[:, 3], unknown[:, 3]),
            auroc_msp=auroc(known[:, 4], unknown[:, 4]),
            coverage=_mean(self._covered),
            rejected=_mean(unknown[:, 2] == 0),
            rejected_known=_mean(known[:, 2] == 0),
            rejected_domain=_mean(domain[:, 2] == 0),
            mean_set=_mean(known[:, 2]),
            accepted_accuracy=_mean(correct[accepted]),
            known_p=_histogram(known[:, 0]),
            unknown_p=_histogram(unknown[:, 0]),
        )


def _mean(values: Sequence[bool] | NDArray[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _histogram(p: Iterable[float]) -> tuple[int, ...]:
    counts = Counter(min(int(each * BINS), BINS - 1) for each in p)
    return tuple(counts[index] for index in range(BINS))
