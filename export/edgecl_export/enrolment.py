"""What a device needs to solve a head for another class: the factor of its sums (ADR 0049)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgecl.learning.runs import Run
from edgecl.program.classifiers.discriminant import covariance, discriminants
from edgecl.program.classifiers.ridge import KEPT, Sums, balanced
from edgecl_deploy import Classifier
from edgecl_deploy.enrol.discriminant import (
    COUNTS,
    FACTOR,
    MEANS,
    ROWS,
    Known,
    shrinking,
    solved,
)
from edgecl_deploy.enrol.ridge import expanded
from edgecl_deploy.enrol.solve import cholesky_solve
from edgecl_deploy.files import INDEX_FILE, ReleaseFiles, read_file
from edgecl_deploy.format import (
    DISCRIMINANT,
    RIDGE,
    SOLVED,
    Enrol,
    Factor,
    digest,
    packed,
    parse_index,
    write_tensors,
)
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
    if enrol is None or enrol.kind not in SOLVED:
        raise PackError(
            "--enrolment is for a ridge head (ranpac with truncate=0, layup) and lda, got "
            f"{files.release.program}. Leave it out: a program of class means needs nothing, other "
            "programs take no class. A bundle of an older version is exported again, to a new "
            "folder."
        )
    run = Run.open(Path(source))
    with run.reading():
        state, records = run.state(), [each for each in run.records() if each.classes]
        owner = run.header.get("id")
    index = parse_index(read_file(packs / INDEX_FILE, limits.MAX_MANIFEST))
    needed = {"gram", "moments"} | ({KEPT} if enrol.kind == RIDGE else set())
    if (
        index.extra.get(RUN) != owner
        or len(records) != len(files.packs)
        or not needed <= state.keys()
    ):
        raise PackError(
            f"The sums must be those of the release's {len(files.packs)} packs, got {source} with "
            f"{len(records)} tasks. Export its packs again, and release all of them; a run of an "
            "older version learns a task first. A run of ranpac with truncate has no lambda: leave "
            "--enrolment out, or start a run with truncate=0."
        )
    sums = Sums(state["gram"], state["moments"])
    size = len(sums.gram) - int(enrol.kind == DISCRIMINANT)  # a feature that is 1
    if size > limits.MAX_FACTOR_ROWS:
        raise PackError(
            f"A factor has at most {limits.MAX_FACTOR_ROWS} rows, got {size}. "
            "Train ranpac with size=2000, lda with rff=2000."
        )
    seen = None
    if images:
        features = device.scores(enlarged(images.values(), device.loaded.side)).feature
        seen = expanded(enrol, device.loaded.learned, features).astype(np.float64)
    made = _discriminant if enrol.kind == DISCRIMINANT else _ridge
    factor, blob = made(sums, float(state.get(KEPT, 0.0)), enrol, device, seen)
    factor = replace(factor, images=sum(sum(record.class_images) for record in records))
    release = replace(files.release, enrolment=factor)
    blobs = {**files.blobs, factor.blob: blob}
    return replace(files, release=release, digest=digest(release.to_bytes()), blobs=blobs)


def _ridge(
    sums: Sums, weight: float, enrol: Enrol, device: Classifier, seen: np.ndarray | None
) -> tuple[Factor, bytes]:
    """Return the factor of a ridge head; see `_discriminant`."""
    lower, weight = sums.factor(weight)
    _check_head(sums, lower, device)
    triangle = packed(lower.numpy()).astype(np.float32)
    blob, error = write_tensors({"factor": triangle}), 0.0
    if seen is not None:
        wanted = torch.cholesky_solve(torch.from_numpy(seen.T.copy()), lower).numpy()
        error = float(np.abs(seen @ (cholesky_solve(triangle, seen.T) - wanted)).max())
    return Factor(weight, 1, len(sums.gram), digest(blob), len(blob), error, enrol.kind), blob


def _discriminant(
    sums: Sums, _: float, enrol: Enrol, device: Classifier, seen: np.ndarray | None
) -> tuple[Factor, bytes]:
    """Return the factor of a discriminant, and the blob that holds it.

    Args:
        sums: of the run.
        enrol: how the program takes a class.
        device: answers with the release.
        seen: what the head sees of the canaries.

    Raises:
        PackError: if the head of the release is another one, or no class has two images.
    """
    names, learned = device.loaded.rows, device.loaded.learned
    counts = sums.moments[-1]
    owner = torch.tensor([
        row if counts[row] else names.index(name) for row, name in enumerate(names)
    ])
    classes, rows = owner.unique(return_inverse=True)
    within, means = covariance(sums, classes)
    images = int(counts.sum())
    weight = shrinking(within.numpy(), images, enrol.shrinkage or "")[1]
    lower, failed = torch.linalg.cholesky_ex(within + weight * torch.eye(len(within)).double())
    if failed or within.trace() <= 0:
        raise PackError(
            "The factor of a discriminant is of a covariance within the classes, got one image of "
            "each. Learn more images, or leave --enrolment out."
        )
    own = discriminants(sums, owner, enrol.shrinkage or "oas")  # type: ignore[arg-type]
    _check_rows(own.weight.float(), device)
    held = {
        FACTOR: packed(lower.numpy()).astype(np.float32),
        MEANS: means.float().numpy(),
        COUNTS: counts[classes].numpy().astype(np.int32),
        ROWS: rows.numpy().astype(np.int32),
    }
    blob, error = write_tensors(held), 0.0
    factor = Factor(weight, images, len(within), digest(blob), len(blob), error, enrol.kind)
    if seen is not None:
        known = Known.read(held, factor, len(names))
        live = (True,) * len(names)
        again = solved(enrol, learned, names, live, known, {})[0]
        change = again.weight - own.weight.numpy().T
        error = float(np.abs(seen @ change).max())
    return replace(factor, error=error), blob


def _check_head(sums: Sums, lower: torch.Tensor, device: Classifier) -> None:
    """Check that the head of a release is the one that the sums give."""
    rows = {name: row for row, name in reversed(list(enumerate(device.loaded.rows)))}
    own = list(rows.values())
    _check_rows(torch.cholesky_solve(sums.moments, lower).T[own].float(), device, own)


def _check_rows(found: torch.Tensor, device: Classifier, rows: Sequence[int] | None = None) -> None:
    """Check that some rows of a release's head, or all, are those that the sums give.

    Raises:
        PackError: if they are others.
    """
    learned = device.loaded.learned
    own = list(range(len(found)) if rows is None else rows)
    found, scale = balanced(found)
    wanted = torch.from_numpy(learned["head_weight"][own] * learned["head_scale"][own][:, None])
    if not torch.allclose(found * scale[:, None], wanted, rtol=0, atol=NEAR * float(scale.max())):
        raise PackError(
            "The head of the packs must be the one of the run's sums, got another one. Export the "
            "packs of the run again."
        )
