"""A class that a device takes by its name is the one that the workstation would publish."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.test_text import CONFIG

from edgecl.backbones import load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.training import Compute
from edgecl.session import learn_task, new_learner
from edgecl.streams import Stream
from edgecl_deploy import Classifier, TextEncoder
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.text import TOLERANCE, export_text


@pytest.mark.slow
def test_by_name_is_as_published(make_stream: Callable[..., Stream], tmp_path: Path) -> None:
    config = tmp_path / "model.json"
    config.write_text(json.dumps(CONFIG))
    clip, stream = load_clip(str(config), random_seed=0), make_stream(((0, 1), (2, 3)), test=4)
    cache = FeatureCache(None, clip.visual.digest)
    compute = Compute(torch.device("cpu"))
    learner = new_learner(tmp_path / "run", "zero-shot", clip, stream, compute=compute, cache=cache)
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
    bundle, packs = tmp_path / "bundle", tmp_path / "packs"
    export_program(learner.method.program, clip.visual, bundle)
    export_packs(learner.run, packs, dtype="float32")
    export_release(packs, tmp_path / "both", bundle)
    export_release(packs, tmp_path / "first", bundle, tasks=1)
    export_text(clip, tmp_path / "text", tuple(clip.templates))
    images = np.concatenate([learner.load(task.test, "").images for task in stream.tasks])
    encoder = TextEncoder.open(tmp_path / "text", bundle)
    wanted = Classifier.open(bundle, tmp_path / "both", threads=1)
    device = Classifier.open(bundle, tmp_path / "first", threads=1, local=tmp_path / "local")
    for name in wanted.classes[2:]:
        device.enrol_name(name, encoder, force=True)
    assert device.classes == wanted.classes
    assert device.scores(images).scores == pytest.approx(
        wanted.scores(images).scores, abs=TOLERANCE * encoder.scale
    )
