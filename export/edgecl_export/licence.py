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
from edgecl_deploy.format import Licence, digest, read_tensors
from edgecl_deploy.forms import AUTO, Mode
from edgecl_deploy.images import enlarge
from edgecl_deploy.programs import joined
from edgecl_export.errors import LicenceError
from edgecl_export.parity import REFERENCE
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
    """

    engine: str
    images: int
    agreement: float
    error: float
    canary_error: float
    right: int
    lost: int
    gained: int

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
    samples = samples_for(files, licensing)
    licences = dict(canaries.variants)
    for precision in licensing.precisions:
        found = compare_all(files, bundle, precision, licensing.engine, samples)
        faults = [fault for each in found if (fault := each.fault()) is not None]
        if faults and not licensing.force:
            raise LicenceError(
                f"Release {files.release.number} must decide in {precision} as in float32, got "
                f"{'; '.join(faults)}. Release it without --precision {precision}, or use --force."
            )
        licences[precision] = Licence(
            atol=max(max(each.atol, each.canary_error) for each in found),
            agreement=min(each.agreement for each in found),
            images=found[0].images,
            lost=max(each.lost for each in found),
            engine=", ".join(each.engine for each in found),
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
    samples: Samples | None,
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
            f"with {', '.join(has)}. Run `edgecl export quantize` first."
        )
    able = [engine] if engine else [name for name in names() if runs(name, precision)]
    if not able:
        raise LicenceError(
            f"A licence for {precision} is measured with an engine that runs it, got none on this "
            "machine (`edgecl-device doctor`). Export the release where there is one."
        )
    reference = Classifier.of_files(bundle, files, engine=REFERENCE)
    return [compare(reference, files, bundle, precision, name, samples) for name in able]


def runs(engine: str, precision: str) -> bool:
    """Return whether an engine of this machine runs a precision."""
    return installed(engine) and precision in make_engine(engine).capabilities().precisions


def compare(
    reference: Classifier,
    files: ReleaseFiles,
    bundle: str | Path,
    precision: str,
    engine: str,
    samples: Samples | None,
) -> Comparison:
    """Compare one engine with float32, on images and on the canaries."""
    runner = make_engine(engine)
    mode = Mode.fitting(runner, Mode(AUTO, AUTO, precision))
    device = Classifier(read_bundle(bundle), runner, mode)
    device.serve(device.load(files))
    canaries = canary_images(files, reference.loaded.side)
    first, second = answers(reference, canaries), answers(device, canaries)
    error, canary_error = matched_error(first, second), difference(first, second)
    if samples is not None:
        first, second = answers(reference, samples.images), answers(device, samples.images)
        error = float(np.maximum(error, matched_error(first, second)))
    before, after = labels(reference, first), labels(device, second)
    wanted = before if samples is None else np.array(samples.classes)
    return Comparison(
        engine=f"{engine} {runner.version}",
        images=len(before),
        agreement=float((before == after).mean()),
        error=error,
        canary_error=canary_error,
        right=int((before == wanted).sum()),
        lost=int(((before == wanted) & (after != wanted)).sum()),
        gained=int(((before != wanted) & (after == wanted)).sum()),
    )


def canary_images(files: ReleaseFiles, side: int) -> Images:
    """Return the canaries of a release in the size that its program takes."""
    canaries = files.release.canaries
    assert canaries is not None
    blobs = [read_tensors(files.blobs[blob])["images"] for blob in canaries.images]
    return enlarge(np.concatenate(blobs), side)


def answers(device: Classifier, images: Images) -> Scores:
    """Run images in batches."""
    starts = range(0, len(images), BATCH)
    return joined([device.scores(images[start : start + BATCH]) for start in starts])


def labels(device: Classifier, found: Scores) -> Names:
    """Return the class of each image."""
    best = device.loaded.labels.merge(found.scores).argmax(axis=1)
    return np.array(device.classes)[best]


def difference(first: Scores, second: Scores) -> float:
    """Return the largest error of a score; NaN if one is."""
    return float(np.abs(first.scores - second.scores).max(initial=0.0))


def matched_error(first: Scores, second: Scores) -> float:
    """Return the largest error of a score on images that match the same; NaN if one is."""
    same = (np.sort(first.match, axis=1) == np.sort(second.match, axis=1)).all(axis=1)
    return float(np.abs(first.scores - second.scores)[same].max(initial=0.0))
