"""What a device needs to give a ridge head another class: the factor of its sums (ADR 0049)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgecl.learning.runs import Run
from edgecl.program.classifiers.ridge import KEPT, Sums, balanced
from edgecl_deploy import Classifier
from edgecl_deploy.enrol.ridge import expanded
from edgecl_deploy.enrol.solve import cholesky_solve
from edgecl_deploy.files import INDEX_FILE, ReleaseFiles, read_file
from edgecl_deploy.format import RIDGE, Factor, digest, packed, parse_index, write_tensors
from edgecl_deploy.manifest import limits
from edgecl_export.canaries import enlarged
from edgecl_export.errors import PackError
from edgecl_export.pack import RUN

NEAR = 2e-3  # of the largest weight: a float16 pack errs by half of it


def with_factor(
    files: ReleaseFiles,
    source: str | Path,
    packs: Path,
    images: Mapping[str, bytes],
    device: Classifier,
) -> ReleaseFiles:
    """Add the factor of a run's sums to a release of its packs.

    Args:
        files: the release.
        source: the folder of the run.
        packs: the folder of its packs.
        images: canary blobs, on which the error of the factor is measured.
        device: a classifier that answers with this release.

    Raises:
        PackError: if the program has no ridge head, the head is too large, or the run is not the
            one of the packs, as it was when they were exported.
    """
    enrol = device.bundle.check(files).enrol
    if enrol is None or enrol.kind != RIDGE:
        raise PackError(
            "--enrolment is for a ridge head (ranpac with truncate=0, layup), got "
            f"{files.release.program}. Leave it out: a program of class means needs nothing, other "
            "programs take no class. A bundle of an older version is exported again, to a new "
            "folder."
        )
    run = Run.open(Path(source))
    with run.reading():
        state, records = run.state(), [each for each in run.records() if each.classes]
        owner = run.header.get("id")
    index = parse_index(read_file(packs / INDEX_FILE, limits.MAX_MANIFEST))
    if index.extra.get(RUN) != owner or len(records) != len(files.packs) or KEPT not in state:
        raise PackError(
            f"The sums must be those of the release's {len(files.packs)} packs, got {source} with "
            f"{len(records)} tasks. Export its packs again, and release all of them; a run of an "
            "older version learns a task first. A run of ranpac with truncate has no lambda: leave "
            "--enrolment out, or start a run with truncate=0."
        )
    sums = Sums(state["gram"], state["moments"])
    size = len(sums.gram)
    if size > limits.MAX_FACTOR_ROWS:
        raise PackError(
            f"A factor has at most {limits.MAX_FACTOR_ROWS} rows, got {size}. "
            "Train ranpac with size=2000."
        )
    lower, weight = sums.factor(float(state[KEPT]))
    _check_head(sums, lower, device)
    triangle = packed(lower.numpy()).astype(np.float32)
    blob = write_tensors({"factor": triangle})
    error = 0.0
    if images:
        features = device.scores(enlarged(images.values(), device.loaded.side)).feature
        seen = expanded(enrol, device.loaded.learned, features).astype(np.float64)
        wanted = torch.cholesky_solve(torch.from_numpy(seen.T.copy()), lower).numpy()
        error = float(np.abs(seen @ (cholesky_solve(triangle, seen.T) - wanted)).max())
    factor = Factor(
        weight=weight,
        images=sum(sum(record.class_images) for record in records),
        size=size,
        blob=digest(blob),
        bytes=len(blob),
        error=error,
    )
    release = replace(files.release, enrolment=factor)
    blobs = {**files.blobs, factor.blob: blob}
    return replace(files, release=release, digest=digest(release.to_bytes()), blobs=blobs)


def _check_head(sums: Sums, lower: torch.Tensor, device: Classifier) -> None:
    """Check that the head of a release is the one that the sums give.

    Raises:
        PackError: if it is another one.
    """
    learned = device.loaded.learned
    rows = {name: row for row, name in reversed(list(enumerate(device.loaded.rows)))}
    own = list(rows.values())
    found = torch.cholesky_solve(sums.moments, lower).T[own].float()
    found, scale = balanced(found)
    wanted = torch.from_numpy(learned["head_weight"][own] * learned["head_scale"][own][:, None])
    if not torch.allclose(found * scale[:, None], wanted, rtol=0, atol=NEAR * float(scale.max())):
        raise PackError(
            "The head of the packs must be the one of the run's sums, got another one. Export the "
            "packs of the run again."
        )
