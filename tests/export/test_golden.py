"""The packs and the exported program of every method are what they always were."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests import golden

from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.methods import methods
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release


def shipped(run: Run, bundle: Path, out: Path) -> tuple[list[Any], Classifier]:
    """Export a run in float16; return the digests of the learned tensors, and the device."""
    packs = []
    for pack in export_packs(run, out / "packs"):
        manifest = json.loads((out / "packs" / "packs" / f"{pack}.json").read_bytes())
        held = {tensor["blob"] for tensor in manifest["tensors"].values() if "blob" in tensor}
        blobs = [out / "packs" / "blobs" / f"{blob}.safetensors" for blob in sorted(held)]
        packs.append([golden.digests(load_file(blob)) for blob in blobs])
    export_release(out / "packs", out / "release", bundle)
    return packs, Classifier.open(bundle, out / "release")


@pytest.mark.parametrize("name", methods())
def test_golden_program(
    name: str,
    programs: Any,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    """Two trained tasks, and two of random values, where every injection shows."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    images = learner.load(stream.tasks[0].test, "").images
    trained, device = shipped(learner.run, programs.bundle, tmp_path / "trained")
    wild = make_run(name, out="wild", tasks=2)
    random, other = shipped(wild, programs.bundle, tmp_path / "random")
    found = [each.scores(images).scores for each in (device, other)]
    scores = np.concatenate(found)
    digest = hashlib.sha256(scores.tobytes()).hexdigest()[:16]
    golden.check(
        f"program/{name}", {"trained": trained, "random": random, "scores": digest}, scores
    )
