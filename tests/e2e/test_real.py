"""The real backbone on the built-in stream; `make test` has fetched the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecl.backbones import load_backbone, load_clip
from edgecl.backbones.sources.package import weights_path
from edgecl.methods import methods
from edgecl.session import learn_stream, new_learner
from edgecl.streams import load_stream
from edgecl_deploy import Classifier
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

real_weights = pytest.mark.skipif(
    not weights_path("vit-s14").exists(), reason="run `edgecl weights fetch vit-s14` first"
)


@real_weights
def test_simplecil_on_emoji_demo(tmp_path: Path) -> None:
    """A_last of at least 0.85, and the device labels every test image as the learner does."""
    backbone = load_backbone("vit-s14", image_size=112)
    stream = load_stream("emoji-demo")
    learner = new_learner(tmp_path / "run", "simplecil", backbone, stream)
    summary = learn_stream(learner, stream)
    assert summary.a_last >= 0.85
    assert sum(summary.test_images) == 60
    export_program(learner.method.program, backbone, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    device = Classifier.open(tmp_path / "bundle", tmp_path / "release")
    rows = [name for names in learner.run.class_rows() for name in names]
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


@real_weights
@pytest.mark.slow
@pytest.mark.parametrize("name", methods())
def test_a_large_batch_says_what_single_images_say(
    name: str, small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """One batch of 256 images of all tasks against 256 batches of one, on the shipped CLIP."""
    stream = load_stream("emoji-demo", limit_train=60, tasks=2)
    learner = new_learner(
        tmp_path / "run", name, load_clip("edgecl-clip-s"), stream, config=small_config(name)
    )
    learn_stream(learner, stream)
    pictures = [task.train for task in load_stream("emoji-demo").tasks]
    pixels = np.concatenate([learner.load(each, "").images for each in pictures])[:256]
    assert len(pixels) == 256
    learned = learner.learned()

    @torch.no_grad()
    def scores(size: int) -> torch.Tensor:
        said = []
        for start in range(0, len(pixels), size):
            images = learner.normalise(torch.from_numpy(pixels[start : start + size]))
            said.append(learner.method.program.infer(learner.backbone.model, images, learned))
        return torch.cat([each.scores for each in said])

    together, alone = scores(256), scores(1)
    assert torch.equal(together.argmax(dim=1), alone.argmax(dim=1))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
