"""Measures a release on a folder of labelled images, with the device's runtime."""

from pathlib import Path

from edgecl.learning.class_metrics import ClassTally
from edgecl.learning.labelled import DEVICE, Measured, read_labelled
from edgecl_deploy import Classifier
from edgecl_deploy.images import workstation_pixels

CHUNK = 1024  # images whose answers are in memory at once; their batches are always the same


def evaluate_release(
    release: str | Path, folder: str | Path, bundle: str | Path | None = None
) -> Measured:
    """Classify a labelled folder as a device does.

    Args:
        release: a release, or a store.
        folder: FOLDER/CLASS/*, or FOLDER/test/CLASS/*.
        bundle: of the release; None for a store.
    """
    where = (release,) if bundle is None else (bundle, release)
    with Classifier.open(*where, max_pixels=workstation_pixels()) as classifier:
        number = classifier.release
        labelled = read_labelled(folder, classifier.classes)
        classes, skipped = ClassTally(classifier.classes), []
        paths = (
            labelled.paths[start : start + CHUNK] for start in range(0, len(labelled.paths), CHUNK)
        )
        answers = (answer for some in paths for answer in classifier.predict(some, top_k=1))
        for index, (wanted, answer) in enumerate(zip(labelled.wanted, answers, strict=True)):
            if answer.label is None or answer.score is None:
                skipped.append(f"{labelled.name(index)}: {answer.error}")
            else:
                classes.add(labelled.name(index), wanted, answer.label, answer.score)
    return Measured.of(
        labelled,
        classes.figures(),
        skipped,
        what=str(release),
        by=DEVICE,
        folder=str(folder),
        release=number,
    )
