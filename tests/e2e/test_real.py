"""The real backbone on the built-in stream; `make test` has fetched the weights."""

from pathlib import Path

import numpy as np
import pytest

from edgecl.backbones import load_backbone
from edgecl.backbones.weights import weights_path
from edgecl.session import learn_stream, new_learner
from edgecl.streams import load_stream
from edgecl_deploy import Classifier
from edgecl_export.bundle import export_bundle
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release


@pytest.mark.skipif(
    not weights_path("vit-s14").exists(), reason="run `edgecl weights fetch vit-s14` first"
)
def test_simplecil_on_emoji_demo(tmp_path: Path) -> None:
    """A_last of at least 0.85, and the device labels every test image as the learner does."""
    backbone = load_backbone("vit-s14")
    stream = load_stream("emoji-demo")
    learner = new_learner(tmp_path / "run", "simplecil", backbone, stream)
    metrics = learn_stream(learner, stream)
    assert metrics["a_last"] >= 0.85
    assert sum(metrics["test_images"]) == 60
    export_bundle(learner.method, backbone, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    device = Classifier.open(tmp_path / "bundle", tmp_path / "release")
    rows = [name for names in learner.run.rows() for name in names]
    right = 0
    for task in stream.tasks:
        pixels = learner.load(task.test, "").images
        scores = learner.predict(pixels).scores.numpy()
        best = np.sort(scores, axis=1)
        decided = best[:, -1] - best[:, -2] > 1e-4
        images = [task.test.image(index) for index in range(len(task.test))]
        for got, row, sure, label in zip(
            device.predict(images), scores.argmax(axis=1), decided, task.test.labels, strict=True
        ):
            assert got.label == rows[row] or not sure
            right += got.label == stream.classes[label]
    assert right / 60 >= 0.85
    export_packs(learner.run, tmp_path / "small")
    sizes = [path.stat().st_size for path in (tmp_path / "small" / "blobs").iterdir()]
    assert sorted(sizes)[5] <= 10 * 1024, (
        "float16, ten classes of width 384; the others are canaries"
    )
