"""What a first session trains of each kind: the device answers as the learner does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecl.learning.learner import Learner
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_export.bundle import export_bundle
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

SLOW = (
    ("ranpac", "vpt"),
    ("ranpac", "vpt-shallow"),
    ("layup", "ssf"),
    ("layup", "vpt"),
    ("layup", "vpt-shallow"),
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ranpac", "ssf"), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)],
)
def test_it_is_exported_and_equal(
    name: str,
    kind: str,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    tmp_path: Path,
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 2, "batch_size": 4, "lr": 0.1}  # so that what is injected shows
    learner = make_learner(name, stream, config={"first_session": kind, "schedule": schedule})
    learn_stream(learner, stream)
    bundle = tmp_path / "bundle"
    export_bundle(learner, bundle)
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", bundle)
    images = learner.load(stream.tasks[0].test, "").images
    found = Classifier.open(bundle, tmp_path / "release").scores(images).scores
    want = learner.predict(images).scores.numpy()
    largest = np.abs(want).max()
    np.testing.assert_allclose(found / largest, want / largest, atol=1e-4)
    injected = learner.program.injector.declare()
    zeroed = {
        tensor: 0 * value if tensor in injected else value
        for tensor, value in learner.learned().items()
    }
    other = learner.predict(images, zeroed).scores.numpy()
    assert np.abs(other - want).max() > 1e-3 * largest
