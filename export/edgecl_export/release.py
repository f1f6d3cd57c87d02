"""Releases: a numbered list of packs with canaries.

The device's own runtime computes the expected scores here, on the workstation.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecl_deploy import Classifier
from edgecl_deploy.files import BLOBS, INDEX_FILE, read_bundle, read_packs, write_release
from edgecl_deploy.format import (
    Calibration,
    Canaries,
    Release,
    digest,
    parse_index,
    parse_pack,
    read_tensors,
    verify,
    write_tensors,
)
from edgecl_deploy.preprocess import enlarge
from edgecl_export.errors import PackError
from edgecl_export.pack import CANARIES

CANARY_ATOL = 1e-3  # of a score: CPUs round differently, a wrong pack errs by far more


def export_release(
    packs: Path,
    out: Path,
    bundle: Path,
    *,
    number: int | None = None,
    tasks: int | None = None,
    canaries: int = 8,
    unknown_below: float | None = None,
) -> str:
    """Write a release of the packs of a folder and test it on the bundle.

    Args:
        number: counts releases; None takes the number of packs.
        tasks: release the first tasks only.
        canaries: at most so many of the newest tasks bring their canary image; 0 for none.
        unknown_below: scores below it are marked as not known.

    Returns:
        The digest of the release.

    Raises:
        PackError: if the folder holds fewer packs than asked for, or none.
    """
    manifests, blobs = read_packs(packs)
    ids = list(manifests)[:tasks]
    if not ids or len(ids) < (tasks or 0):
        raise PackError(
            f"A release of {tasks or 'all'} tasks needs their packs, got {len(manifests)} in "
            f"{packs}. "
            "Export them with `edgecl export pack RUN -o PACKS`."
        )
    manifests = {name: manifests[name] for name in ids}
    first = parse_pack(manifests[ids[0]])
    number = number or len(ids)
    release = Release(
        number=number,
        parent=number - 1 if number > 1 else None,
        bundle=read_bundle(bundle).digest,
        backbone=first.backbone,
        program=first.program,
        interface=first.interface,
        packs=tuple(ids),
        calibration=None if unknown_below is None else Calibration(unknown_below),
    )
    wanted = {name for text in manifests.values() for name in parse_pack(text).blobs}
    blobs = {name: data for name, data in blobs.items() if name in wanted}
    images = canary_blobs(packs, ids[len(ids) - canaries :] if canaries < len(ids) else ids)
    if not canaries or not images:
        return write_release(out, release, manifests, blobs)
    with tempfile.TemporaryDirectory() as scratch:
        bare = Path(scratch) / "release"
        write_release(bare, release, manifests, blobs)
        pixels = np.concatenate([read_tensors(data)["images"] for data in images.values()])
        device = Classifier.open(bundle, bare)
        expected = device.scores(enlarge(pixels, device.loaded.side)).scores
    scores = write_tensors({"scores": np.ascontiguousarray(expected)})
    tests = {**images, digest(scores): scores}
    release = replace(
        release,
        canaries=Canaries(tuple(images), digest(scores), CANARY_ATOL),
        blobs={name: len(data) for name, data in tests.items()},
    )
    return write_release(out, release, manifests, {**blobs, **tests})


def canary_blobs(packs: Path, ids: list[str]) -> dict[str, bytes]:
    """Read the canary images of these packs, by digest."""
    listed = parse_index((packs / INDEX_FILE).read_bytes()).extra.get(CANARIES, {})
    found: dict[str, bytes] = {}
    for name in ids:
        if name in listed:
            data = (packs / BLOBS / f"{listed[name]}.safetensors").read_bytes()
            verify(data, listed[name], None, f"the canary of pack {name[:12]}")
            found[listed[name]] = data
    return found
