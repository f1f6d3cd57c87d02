"""A release that is ready to answer: bound to its program, its rows grouped into classes."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgecl_deploy.engines import FLOAT32
from edgecl_deploy.errors import (
    DeployError,
    EngineError,
    SelfTestError,
    TensorShapeError,
    one_line,
)
from edgecl_deploy.files import ReleaseFiles
from edgecl_deploy.format import Licence, Program, class_rows, learned_from, live_rows, read_tensors
from edgecl_deploy.images import enlarge
from edgecl_deploy.programs import Bound, Form, Scores
from edgecl_deploy.unknown.packs import parts_of
from edgecl_deploy.unknown.rule import ALPHA, Judged, Reference

BATCH = 32  # images of one run: bounds the memory of a call
RELEASE, LOCAL = "release", "local"  # where a class comes from
MOST_SET = 20  # classes of the set of an answer
_LOG = logging.getLogger(__name__)
_NAN = "a score must be a number; found NaN. Undo this release."


@dataclass(frozen=True)
class SelfTest:
    """The outcome of the canaries of a release."""

    release: int
    images: int  # 0: the release has no canaries
    max_error: float  # largest absolute error of a score
    seconds: float = field(default=0.0, compare=False)  # that it took


@dataclass(frozen=True)
class Prediction:
    """The classifier's answer for one image.

    Attributes:
        label: The class, None if the image could not be read.
        score: Its score, None if the image could not be read.
        top: The best classes with their scores, best first.
        match: The matcher's choice: indices into the bank of tasks or of the pool.
        match_score: The strength of each match.
        release: Number of the release that answered.
        known: False if the image is of no class, as far as its features tell: its set is empty, or
            its score is under the threshold of a release that has one. None where neither is there.
        error: Why there is no label, or None.
        local: The generation of the device's own classes that answered with it; 0 for none.
        source: `local` for a class that only this device has, else `release`.
        p: How typical the image is of the label, in (0, 1]: the share of the images of that class
            that are no more so. None where the packs have no scores, as for the next four.
        set: The classes that it may be of, the most typical first, at most 20. Of the images of a
            class at most the share alpha do not have it in their set.
        set_size: How many there are: 0 is unknown, 2 or more is ambiguous.
        basis: What p is from: `class`, the images of the class, or `pooled`, those of the task and
            of former ones, where the class has fewer than 1 / alpha - 1; `name`, the same where
            this device knows it by its name alone: a guess.
        typical: The largest p of all classes, for what watches the images; not in any output.
        away: How far its feature is from what is usual of the label, [w]; as `typical`.
    """

    label: str | None
    score: float | None
    top: tuple[tuple[str, float], ...]
    match: list[int]
    match_score: list[float]
    release: int
    known: bool | None
    error: str | None = None
    local: int = 0
    source: str = RELEASE
    p: float | None = None
    set: tuple[str, ...] = ()
    set_size: int | None = None
    basis: str | None = None
    typical: float | None = field(default=None, repr=False, compare=False)
    away: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return what outputs show of it."""
        found = dict(vars(self))
        del found["typical"], found["away"]
        return found


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of every row; rows of one class (one per domain) count as their best one."""

    names: tuple[str, ...]  # without repetition, by first row
    rows: int  # c
    order: np.ndarray  # int64 [live rows], the rows that count, sorted by class
    starts: np.ndarray  # int64 [classes], where each class begins in `order`

    @classmethod
    def of(cls, rows: tuple[str, ...], live: tuple[bool, ...]) -> "Labels":
        """Group rows by class.

        Args:
            rows: The class of every row.
            live: Whether the row counts. Each class has a row that does.
        """
        index = {name: i for i, name in enumerate(dict.fromkeys(rows))}
        of_row = np.array([index[name] for name in rows], np.int64)
        order = np.argsort(of_row, kind="stable")
        order = order[np.array(live, bool)[order]]
        starts = np.searchsorted(of_row[order], np.arange(len(index)))
        return cls(tuple(index), len(rows), order, starts)

    def merge(self, scores: np.ndarray) -> np.ndarray:
        """Return the best row of each class: float32 [b, classes] of float32 [b, c]."""
        if len(self.names) == self.rows:
            return scores
        merged: np.ndarray = np.maximum.reduceat(scores[:, self.order], self.starts, axis=1)
        return merged


class Tally:
    """How many images a release was asked about, and how many of them got no answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.images, self.failed = 0, 0

    def add(self, images: int, failed: int) -> None:
        """Count a call.

        Args:
            images: Images that were run; those that could not be read are not among them.
            failed: How many of them got no answer.
        """
        with self._lock:
            self.images += images
            self.failed += failed


@dataclass(frozen=True, eq=False)
class Over:
    """What makes a loaded release an overlay: the classes of this device on top of a release.

    Attributes:
        base: The release alone, which answers where the overlay cannot.
        generation: The local generation whose classes it has.
        names: The classes that the release does not have.
        hidden: The classes that are never answered.
        trouble: Why it is not asked any more; empty while it is.
    """

    base: "LoadedRelease"
    generation: int
    names: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    trouble: list[str] = field(default_factory=list)

    @cached_property
    def rest(self) -> "LoadedRelease":
        """What answers where the overlay cannot: the release; what is hidden stays so."""
        if not self.hidden:
            return self.base
        return replace(self.base, over=Over(self.base, self.generation, hidden=self.hidden))


@dataclass(frozen=True, eq=False)
class LoadedRelease:
    """A release, its program and its learned tensors. Only its tally changes.

    Attributes:
        learned: The learned tensors, as they are bound.
        over: Set if it is an overlay.
        precision: In which it runs.
        fallback: Why it does not run in the precision that was asked for; empty if it does.
        tested: The outcome of its canaries, None if they did not run yet.
        reference: What the p-values of its classes are from; None where its packs have no scores.
        alpha: The share of images of a class that may be called unknown, as this device has it;
            None for that of the release.
    """

    files: ReleaseFiles
    form: Form
    bound: Bound
    rows: tuple[str, ...]  # the class of every row
    labels: Labels
    side: int  # pixels of a prepared image
    tally: Tally = field(default_factory=Tally)
    precision: str = FLOAT32
    fallback: str = ""
    tested: SelfTest | None = None
    learned: Mapping[str, np.ndarray] = field(default_factory=dict)
    over: Over | None = None
    reference: Reference | None = None
    alpha: float | None = None

    @classmethod
    def of(
        cls,
        files: ReleaseFiles,
        program: Program,
        form: Form,
        side: int,
        precision: str = FLOAT32,
    ) -> "LoadedRelease":
        """Bind a release to the sessions of its program.

        Args:
            program: The program's declaration.
            form: The program's sessions.
            side: Pixels of a prepared image.
            precision: Of the sessions.
        """
        learned = learned_from(program, files.packs, files.blobs)
        rows = class_rows(files.packs)
        labels = Labels.of(rows, live_rows(files.packs))
        parts = parts_of(files.packs, files.blobs, learned)
        return cls(
            files, form, form.bind(learned), rows, labels, side, precision=precision,
            learned=learned, reference=Reference.of(labels.names, parts),
        )  # fmt: skip

    @property
    def alone(self) -> "LoadedRelease":
        """The release without the classes of this device."""
        return self if self.over is None else self.over.base

    @property
    def answering(self) -> "LoadedRelease":
        """What answers: the release alone where the classes of this device have failed."""
        return self.over.rest if self.over is not None and self.over.trouble else self

    @property
    def local(self) -> int:
        """The generation of this device's own classes that it has; 0 for none."""
        return 0 if self.over is None else self.over.generation

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it may answer, each once."""
        hidden = self.over.hidden if self.over is not None else ()
        return tuple(name for name in self.labels.names if name not in hidden)

    @property
    def number(self) -> int:
        """Number of the release."""
        return self.files.release.number

    @property
    def _licence(self) -> Licence | None:
        return self.files.release.licence(self.precision)

    def run(self, images: np.ndarray) -> Scores:
        """Run the program.

        Args:
            images: uint8 [b, side, side, 3].

        Raises:
            TensorShapeError: The images are something else.
            EngineError: The program gives another number of scores than there are rows, or a
                feature that is shorter than the scores of the packs are of.
        """
        shape = (self.side, self.side, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise TensorShapeError(
                f"prepared images must be uint8 [b, {self.side}, {self.side}, 3]",
                f"{images.dtype} {list(images.shape)}",
                "Pass the originals to predict, which prepares them.",
            )
        out = self.bound.run(np.ascontiguousarray(images))
        if out.scores.shape != (len(images), len(self.rows)):
            raise EngineError(
                f"the program must give {len(self.rows)} scores per image, one per class row",
                str(list(out.scores.shape)),
                "Run `edgecl export verify` on the bundle and this release.",
            )
        if self.reference is not None and out.feature.shape[1] < self.reference.width:
            raise EngineError(
                f"the program must give a feature of {self.reference.width} numbers or more, as "
                "the scores of the packs are of",
                str(out.feature.shape[1]),
                "Export bundle, packs and release again from one run.",
            )
        return out

    def predict(
        self, images: np.ndarray, top_k: int, alpha: float | None = None
    ) -> list[Prediction]:
        """Classify prepared images, and count them in the tally.

        Args:
            images: uint8 [b, side, side, 3].
            top_k: How many classes to list per image.
            alpha: As of `predictions`.
        """
        answering, out = self.scored(images)
        return list(answering.predictions(out, top_k, alpha))

    def scored(self, images: np.ndarray) -> "tuple[LoadedRelease, Scores]":
        """Run the program on images that somebody asks about: they count in the tally.

        Args:
            images: uint8 [b, side, side, 3].

        Returns:
            What answered, and its scores. Where the classes of this device fail it is the release
            alone: only what that cannot answer counts against it.

        Raises:
            DeployError: The program cannot be run on them.
        """
        if self.over is not None:
            return self._scored_over(self.over, images)
        try:
            out = self.run(images)
        except DeployError:
            self.tally.add(len(images), len(images))
            raise
        self.tally.add(len(images), self._lost(out))
        return self, out

    def _scored_over(self, over: Over, images: np.ndarray) -> "tuple[LoadedRelease, Scores]":
        if over.trouble:
            return over.rest, over.base.scored(images)[1]
        try:
            out = self.run(images)
            wrong = _NAN if self._lost(out) else None
        except DeployError as error:
            wrong = one_line(error)
        if wrong is None:
            self.tally.add(len(images), 0)
            return self, out
        base, out = over.base.scored(images)
        if not base._lost(out):
            over.trouble.append(wrong)
            _LOG.warning("local-dropped: release %s answers alone: %s", self.number, wrong)
        return over.rest, out

    def _lost(self, out: Scores) -> int:
        """Return how many images have no answer."""
        if not np.isnan(out.scores).any():
            return 0
        return int(np.isnan(self.labels.merge(out.scores)).any(axis=1).sum())

    def predictions(
        self, out: Scores, top_k: int, alpha: float | None = None
    ) -> Iterator[Prediction]:
        """Yield the answers that scores give.

        Args:
            out: What the program computed.
            top_k: How many classes to list per image.
            alpha: The share of images of a class that may be called unknown; None for that of the
                device.
        """
        merged = self.labels.merge(out.scores)  # [b, classes]
        shown, own, local = merged, frozenset[str](), 0
        if self.over is not None:
            own, local = self.over.names, self.over.generation
            if self.over.hidden:
                gone = [name in self.over.hidden for name in self.labels.names]
                shown = np.where(gone, -np.inf, merged)
        best = np.argsort(-shown, axis=1, kind="stable")[:, : min(top_k, len(self.classes))]
        least, judged = self._least_known(), self.judged(out.feature, alpha)
        rows = zip(merged, best, out.match, out.match_score, strict=True)
        for image, (row, columns, match, strength) in enumerate(rows):
            if np.isnan(row).any():
                yield self.failed(_NAN)
                continue
            top = tuple((self.labels.names[i], float(row[i])) for i in columns)
            label, score = top[0]
            found = Prediction(
                label=label,
                score=score,
                top=top,
                match=[int(i) for i in match],
                match_score=[float(i) for i in strength],
                release=self.number,
                known=None if least is None else score >= least,
                local=local,
                source=LOCAL if label in own else RELEASE,
            )
            if judged is None or self.reference is None:
                yield found
                continue
            told = self._with_set(found, judged, image, columns[0], row)
            yield replace(told, away=self.reference.away(out.feature[image], columns[0]))

    @property
    def shipped_alpha(self) -> float:
        """Return the share of images of a class that the release lets be called unknown."""
        shipped = self.files.release.unknown
        return ALPHA if shipped is None else shipped.alpha

    def judged(self, feature: np.ndarray, alpha: float | None = None) -> Judged | None:
        """Return the p-value of every class for every image; None where nothing can tell it.

        That is where packs have no scores, and in a precision in which it was not measured that
        known images stay known (`Licence.rejected`). A class that is hidden is in no set.

        Args:
            feature: float32 [b, f].
            alpha: As of `predictions`.
        """
        licence = self._licence
        measured = self.precision == FLOAT32 or (licence is not None and licence.tells_unknown)
        if self.reference is None or not measured:
            return None
        own = self.alpha if alpha is None else alpha
        own = self.shipped_alpha if own is None else own
        found = self.reference.judge(feature, own)
        if self.over is None or not self.over.hidden:
            return found
        shown = np.array([name not in self.over.hidden for name in self.labels.names])
        return replace(found, p=found.p * shown, inside=found.inside & shown)

    def _with_set(
        self, found: Prediction, judged: Judged, image: int, label: int, scores: np.ndarray
    ) -> Prediction:
        """Return an answer with what the rule finds; a threshold of the release decides alone."""
        p, inside = judged.p[image], np.flatnonzero(judged.inside[image])
        inside = inside[np.lexsort((-scores[inside], -p[inside]))]
        return replace(
            found,
            known=bool(len(inside)) if found.known is None else found.known,
            p=float(p[label]),
            set=tuple(self.labels.names[i] for i in inside[:MOST_SET]),
            set_size=len(inside),
            basis=judged.basis(image, label),
            typical=float(p.max()),
        )

    def _least_known(self) -> float | None:
        """Return the least score that is known; a variant's scores err by its tolerance."""
        calibration, licence = self.files.release.calibration, self._licence
        if calibration is None:
            return None
        return calibration.unknown_below - (0.0 if licence is None else licence.atol)

    def failed(self, error: str) -> Prediction:
        """Return the prediction of an image that has no label.

        Args:
            error: Why.
        """
        local = 0 if self.over is None else self.over.generation
        return Prediction(None, None, (), [], [], self.number, None, error, local)

    def self_test(self) -> SelfTest:
        """Run the canaries and compare the scores with the expected ones.

        They are those of the release alone.

        Returns:
            How many images there were, and the largest error.

        A variant has its own tolerance, in which the best row stays the same but for ties within
        twice of it.

        Raises:
            SelfTestError: The canaries are malformed, or a score is off by more than `atol`.
        """
        if self.over is not None:
            return self.over.base.self_test()
        canaries = self.files.release.canaries
        if canaries is None:
            return SelfTest(self.number, 0, 0.0)
        started = time.perf_counter()
        expected = self._canary(canaries.scores, "scores", np.dtype(np.float32), 2)
        errors, begin = [0.0], 0
        for images in self.canary_images():
            for i in range(0, len(images), BATCH):
                scores = self.run(images[i : i + BATCH]).scores  # [n, c]
                wanted = expected[begin : begin + len(scores)]
                begin += len(scores)
                if wanted.shape == scores.shape:
                    errors.append(float(np.abs(scores - wanted).max(initial=0.0)))
        if begin != len(expected) or expected.shape[1] != len(self.rows):
            raise SelfTestError(
                f"the canaries of release {self.number} must have one row of "
                f"{len(self.rows)} scores per image",
                f"scores {list(expected.shape)} for {begin} images",
                "Make the release again with `edgecl export release`.",
            )
        worst = float(np.max(errors))  # NaN if one of them is
        atol = canaries.atol if self._licence is None else self._licence.atol
        if not worst <= atol:
            raise SelfTestError(
                f"the canaries of release {self.number} must give their scores within "
                f"{atol:g} in {self.precision}",
                f"an error of {worst:g}",
                "Keep the former release; compare this machine with `edgecl export verify`.",
            )
        return SelfTest(self.number, begin, worst, time.perf_counter() - started)

    def canary_images(self) -> Iterator[np.ndarray]:
        """Yield the images of the self-test, prepared: uint8 [n, side, side, 3]."""
        canaries = self.files.release.canaries
        for blob in () if canaries is None else canaries.images:
            yield enlarge(self._canary(blob, "images", np.dtype(np.uint8), 4), self.side)

    def _canary(self, blob: str, key: str, dtype: "np.dtype[np.generic]", rank: int) -> np.ndarray:
        array = read_tensors(self.files.blobs[blob]).get(key)
        if array is None or array.dtype != dtype or array.ndim != rank:
            raise SelfTestError(
                f"a canary blob must hold {key} as {dtype} with {rank} axes",
                "none" if array is None else f"{array.dtype} {list(array.shape)}",
                "Make the release again with `edgecl export release`.",
            )
        return array
