"""Releases: a numbered list of packs with canaries.

The device's own runtime computes the expected scores here, on the workstation.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecl_deploy import Classifier
from edgecl_deploy.files import ReleaseFiles, read_bundle, read_packs, write_release
from edgecl_deploy.format import (
    Calibration,
    Canaries,
    Release,
    digest,
    parse_pack,
    parse_release,
    write_tensors,
)
from edgecl_export.canaries import enlarged, read_canaries, read_forgotten
from edgecl_export.enrolment import with_factor
from edgecl_export.errors import PackError
from edgecl_export.licence import Licensing, with_licences
from edgecl_export.parity import REFERENCE
from edgecl_export.rejection import rejection_of

CANARY_ATOL = 1e-3  # of a score: CPUs round differently, a wrong pack errs by far more


def export_release(
    packs: str | Path,
    out: str | Path,
    bundle: str | Path,
    *,
    number: int | None = None,
    tasks: int | None = None,
    canaries: int = 8,
    unknown_below: float | None = None,
    licensing: Licensing | None = None,
    enrolment: str | Path | None = None,
    unknown_alpha: float | None = None,
    figures: str | Path | None = None,
) -> str:
    """Test the packs of a folder on a bundle, and write a release of them.

    Args:
        packs: the folder that `export_packs` wrote.
        out: a new folder.
        number: counts releases; None takes the number of packs.
        tasks: release the first tasks only.
        canaries: at most so many of the newest tasks bring their canary image; 0 for none.
        unknown_below: scores below it are marked as not known.
        licensing: the precisions beside float32 in which devices may run it.
        enrolment: the run of the packs, whose sums let a device solve a ridge head again.
        unknown_alpha: the share of the images of a class that a device may call unknown.
        figures: the run of the packs, whose figures on images of no class the release brings.

    Returns:
        The digest of the release.

    Raises:
        PackError: if the folder holds fewer packs than asked for, or none.
    """
    manifests, blobs = read_packs(packs)
    ids = tuple(manifests)[:tasks]
    if not ids or len(ids) < (tasks or 0):
        raise PackError(
            f"A release of {tasks or 'all'} tasks needs their packs, got {len(manifests)} in "
            f"{packs}. "
            "Export them with `edgecl export pack RUN -o PACKS`."
        )
    parsed = tuple(parse_pack(manifests[name]) for name in ids)
    number = number or len(ids)
    gone = read_forgotten(Path(packs))
    release = Release(
        number=number,
        parent=number - 1 if number > 1 else None,
        bundle=read_bundle(bundle).digest,
        backbone=parsed[0].backbone,
        program=parsed[0].program,
        interface=parsed[0].interface,
        packs=ids,
        calibration=None if unknown_below is None else Calibration(unknown_below),
        unknown=rejection_of(unknown_alpha, figures, Path(packs), len(ids)),
        forgotten=gone and gone.without({name for pack in parsed for name in pack.classes}),
    )
    data = release.to_bytes()
    files = ReleaseFiles(
        release=parse_release(data),
        digest=digest(data),
        packs=parsed,
        manifests={name: manifests[name] for name in ids},
        blobs={name: blobs[name] for pack in parsed for name in pack.blobs},
    )
    images = read_canaries(Path(packs), ids[max(0, len(ids) - canaries) :])
    device = Classifier.of_files(bundle, files, engine=REFERENCE)
    files = with_canaries(files, images, device)
    if enrolment is not None:
        files = with_factor(files, enrolment, Path(packs), images, device)
    if licensing is not None:
        files = with_licences(files, bundle, licensing)
    return write_release(out, files.release, files.manifests, files.blobs)


def with_canaries(
    files: ReleaseFiles, images: Mapping[str, bytes], device: Classifier
) -> ReleaseFiles:
    """Add canaries to a release, with the scores that the device's runtime computes for them.

    Args:
        images: canary blobs by digest.
        device: a classifier that answers with this release.
    """
    if not images:
        return files
    expected = device.scores(enlarged(images.values(), device.loaded.side)).scores
    scores = write_tensors({"scores": np.ascontiguousarray(expected)})
    blobs = {**images, digest(scores): scores}
    release = replace(
        files.release,
        canaries=Canaries(tuple(images), digest(scores), CANARY_ATOL),
        blobs={name: len(data) for name, data in blobs.items()},
    )
    return replace(
        files,
        release=release,
        digest=digest(release.to_bytes()),
        blobs={**files.blobs, **blobs},
    )
