"""A run of 12-bit pictures with bars, from its folder to a device's answers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner, open_learner
from edgecl.streams import load_stream
from edgecl_deploy import Classifier, read_bundle
from edgecl_export import export_bundle, export_packs, export_release


def camera(root: Path) -> None:
    """Write wide 12-bit pictures of two kinds of stripes."""
    for name, period in (("fine", 2), ("coarse", 16)):
        (root / name).mkdir(parents=True)
        for seed in range(6):
            levels = np.random.default_rng(seed).integers(500, 700, (24, 60))
            levels[:, np.arange(60) % period < period // 2] += 900
            Image.fromarray(levels.astype(np.uint16)).save(root / name / f"{seed}.png")


def test_the_device_answers_as_the_learner(tmp_path: Path) -> None:
    camera(tmp_path / "images")
    stream = load_stream(str(tmp_path / "images"), increment=2, seed=3)
    backbone = load_backbone(
        "vit-tiny-16", image_size=32, depth=1, random_seed=0, fit="pad", background=(9, 99, 0)
    )
    begun = new_learner(
        tmp_path / "run", "simplecil", backbone, stream,
        compute=Compute(torch.device("cpu")), cache=FeatureCache(None, "x"),
    )  # fmt: skip
    learn_stream(begun, stream)
    learner = open_learner(tmp_path / "run", device="cpu", cache=FeatureCache(None, "x"))
    export_bundle(learner, tmp_path / "bundle")
    export_packs(learner, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    spec = read_bundle(tmp_path / "bundle").preprocessing
    assert (spec.fit, spec.window) == ("pad", begun.backbone.preprocess.window)
    assert spec.window is not None
    device = Classifier.open(tmp_path / "bundle", tmp_path / "release")
    paths = sorted((tmp_path / "images").rglob("*.png"))
    answers = device.predict(paths)
    pixels = np.stack([learner.backbone.preprocess(Image.open(path)) for path in paths])
    scores = learner.predict(pixels).scores.numpy()
    np.testing.assert_allclose(device.scores(pixels).scores, scores, atol=1e-5)
    names = [stream.classes[row] for row in scores.argmax(axis=1)]
    assert [answer.label for answer in answers] == names
    assert (
        np.mean([path.parent.name == name for path, name in zip(paths, names, strict=True)]) > 0.8
    )
