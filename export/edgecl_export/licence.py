"""The licence of a release to run in another precision than float32: a measurement on images.

An engine may round while it runs, so every engine of this machine that runs the precision is
measured, and the worst counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecl.learning.learner import Learner
from edgecl_deploy import Classifier, Scores
from edgecl_deploy.engines import installed, make_engine, names
from edgecl_deploy.files import ReleaseFiles, read_bundle
from edgecl_deploy.format import MADE, Licence, digest
from edgecl_deploy.forms import AUTO, Mode
from edgecl_deploy.manifest.precisions import files_of
from edgecl_export.canaries import enlarged
from edgecl_export.errors import LicenceError
from edgecl_export.parity import REFERENCE, run
from edgecl_export.samples import TEST, TRAIN, Samples, samples_of
from edgecl_export.sources import learner_of

MOST = 500  # images
BATCH = 32
FALL, LOST = 0.005, 0.01  # of the accuracy, of the images
FACTOR, LEAST = 3.0, 1e-3  # of the largest error seen; of the tolerance

Images = NDArray[np.uint8]
Names = NDArray[Any]


@dataclass(frozen=True)
class Licensing:
    """What to license.

    Attributes:
        precisions: each that a release shall be able to run in.
        run: a learner, or the folder of the run that the packs are of: its stream's images are
            measured. None measures the canaries, of which no class may change.
        engine: what runs them; None for every engine of this machine that can.
        force: license whatever the measurement finds.
    """

    precisions: Sequence[str]
    run: Learner | str | Path | None = None
    engine: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Comparison:
    """One engine in one precision against float32.

    Attributes:
        error: largest error of a score on images that match the same.
        canary_error: largest error of a score of the canaries, whatever they match.
        right: images that are right in float32.
        gained: images that are right in this precision alone.
        rejected: images whose set lacks their class in this precision alone, less those where it
            does in float32 alone; None where the packs have no scores of their images.
    """

    engine: str
    images: int
    agreement: float
    error: float
    canary_error: float
    right: int
    lost: int
    gained: int
    rejected: int | None = None

    @property
    def atol(self) -> float:
        return max(LEAST, FACTOR * self.error)

    def fault(self) -> str | None:
        """Return why it deserves no licence, None if it does."""
        seen = (
            f"{self.lost} of {self.images} images lost and {self.gained} gained with {self.engine}"
        )
        if not np.isfinite(self.error):
            return f"a score that is no number with {self.engine}"
        if self.lost > LOST * self.images:
            return f"{seen}; {LOST:.0%} may be lost"
        if self.lost - self.gained > FALL * self.images:
            return f"{seen}; the accuracy may fall by {FALL:.1%}"
        if not self.canary_error <= self.atol:
            return (
                f"canaries that err by {self.canary_error:.1e} with {self.engine}, where images of "
                f"the run err by {self.error:.1e}"
            )
        return None


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier answers.

    Attributes:
        canaries: for the canaries of the release.
        images: for images of the run, or the canaries again.
        names: their classes, `[n]`.
        inside: bool `[n, c]`, whether a class is in the set of an image, by alpha of the release;
            None where the packs have no scores of their images.
    """

    canaries: Scores
    images: Scores
    names: Names
    inside: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Baseline:
    """What float32 answers, which is computed once for all engines and precisions.

    Attributes:
        wanted: the class of each image, `[n]`.
    """

    canaries: Images
    images: Images
    wanted: Names
    answers: Answers

    @classmethod
    def of(cls, files: ReleaseFiles, bundle: str | Path, samples: Samples | None) -> "Baseline":
        """Run a release in float32.

        Args:
            files: with canaries.
            samples: images of its run; None for the canaries, which shall stay what they are.
        """
        assert files.release.canaries is not None
        device = Classifier.of_files(bundle, files, engine=REFERENCE)
        blobs = [files.blobs[blob] for blob in files.release.canaries.images]
        canaries = enlarged(blobs, device.loaded.side)
        images = canaries if samples is None else samples.images
        answers = answer(device, canaries, images)
        wanted = answers.names if samples is None else np.array(samples.classes)
        return cls(canaries, images, wanted, answers)

    def compare(self, device: Classifier, engine: str) -> Comparison:
        """Compare a classifier of the same release with float32.

        Args:
            engine: its name and version.
        """
        before, after = self.answers, answer(device, self.canaries, self.images)
        errors = [matched_error(before.canaries, after.canaries)]
        errors.append(matched_error(before.images, after.images))
        right, still = before.names == self.wanted, after.names == self.wanted
        return Comparison(
            engine=engine,
            images=len(self.wanted),
            agreement=float((before.names == after.names).mean()),
            error=float(np.max(errors)),  # NaN if one of them is
            canary_error=difference(before.canaries, after.canaries),
            right=int(right.sum()),
            lost=int((right & ~still).sum()),
            gained=int((still & ~right).sum()),
            rejected=self._rejected(device.loaded.labels.names, after),
        )

    def _rejected(self, names: Sequence[str], after: Answers) -> int | None:
        """Return how many more images lack their own class in their set than in float32."""
        before = self.answers.inside
        if before is None or after.inside is None:
            return None
        place = {name: column for column, name in enumerate(names)}
        own = np.arange(len(self.wanted)), np.array([place[name] for name in self.wanted])
        return max(0, int(before[own].sum()) - int(after.inside[own].sum()))


def answer(device: Classifier, canaries: Images, images: Images) -> Answers:
    """Run canaries and images; what is both runs once."""
    small = run(device, canaries, BATCH)
    found = small if images is canaries else run(device, images, BATCH)
    loaded = device.loaded
    best = loaded.labels.merge(found.scores).argmax(axis=1)
    inside = None
    if loaded.reference is not None:
        inside = loaded.reference.judge(found.feature, loaded.shipped_alpha).inside
    return Answers(small, found, np.array(device.classes)[best], inside)


def with_licences(files: ReleaseFiles, bundle: str | Path, licensing: Licensing) -> ReleaseFiles:
    """Add the licences that a release deserves.

    Raises:
        LicenceError: if it deserves one of them not, or has no canaries.
    """
    canaries = files.release.canaries
    if canaries is None:
        raise LicenceError(
            "A licence needs canaries, got a release without. Leave out --canaries 0, and export "
            "the packs of a run that has them."
        )
    baseline = Baseline.of(files, bundle, samples_for(files, licensing))
    licences = dict(canaries.variants)
    for precision in licensing.precisions:
        found = compare_all(files, bundle, precision, licensing.engine, baseline)
        faults = [fault for each in found if (fault := each.fault()) is not None]
        if faults and not licensing.force:
            raise LicenceError(
                f"Release {files.release.number} must decide in {precision} as in float32, got "
                f"{'; '.join(faults)}. Release it without --precision {precision}, or use --force."
            )
        told = [each.rejected for each in found if each.rejected is not None]
        licences[precision] = Licence(
            atol=max(max(each.atol, each.canary_error) for each in found),
            agreement=min(each.agreement for each in found),
            images=found[0].images,
            lost=max(each.lost for each in found),
            engine=", ".join(each.engine for each in found),
            rejected=max(told) if told else None,
        )
    release = replace(files.release, canaries=replace(canaries, variants=licences))
    return replace(files, release=release, digest=digest(release.to_bytes()))


def samples_for(files: ReleaseFiles, licensing: Licensing) -> Samples | None:
    """Return images of the tasks of a release: tests, then training images; None without a run.

    Raises:
        LicenceError: if the run's images cannot be read.
    """
    if licensing.run is None:
        return None
    learner = learner_of(licensing.run, device="cpu")
    found = samples_of(learner, MOST, (TEST, TRAIN), len(files.packs))
    if not found:
        raise LicenceError(
            "A licence is measured on images of the run, got none: its stream cannot be read. "
            "Leave out --run to measure the canaries."
        )
    return found


def compare_all(
    files: ReleaseFiles,
    bundle: str | Path,
    precision: str,
    engine: str | None,
    baseline: Baseline,
) -> list[Comparison]:
    """Compare each engine with float32.

    Raises:
        LicenceError: if the bundle has no such variant, or no engine runs it.
    """
    program = files.release.program
    has = read_bundle(bundle).bundle.precisions(program)
    if precision not in has:
        raise LicenceError(
            f"A licence for {precision} needs a bundle with that variant of {program}, got one "
            f"with {', '.join(has)}. Run {MADE[files_of(precision)]} first."
        )
    able = [engine] if engine else [name for name in names() if runs(name, precision)]
    if not able:
        raise LicenceError(
            f"A licence for {precision} is measured with an engine that runs it, got none on this "
            "machine (`edgecl-device doctor`). Export the release where there is one."
        )
    found = []
    for name in able:
        runner = make_engine(name)
        mode = Mode.fitting(runner, Mode(AUTO, AUTO, precision))
        device = Classifier.of_files(bundle, files, runner, mode)
        found.append(baseline.compare(device, f"{name} {runner.version}"))
    return found


def runs(engine: str, precision: str) -> bool:
    """Return whether an engine of this machine runs a precision."""
    return installed(engine) and precision in make_engine(engine).capabilities().precisions


def difference(first: Scores, second: Scores) -> float:
    """Return the largest error of a score; NaN if one is."""
    return float(np.abs(first.scores - second.scores).max(initial=0.0))


def matched_error(first: Scores, second: Scores) -> float:
    """Return the largest error of a score on images that match the same; NaN if one is."""
    same = (np.sort(first.match, axis=1) == np.sort(second.match, axis=1)).all(axis=1)
    return float(np.abs(first.scores - second.scores)[same].max(initial=0.0))
