"""The other engines against PyTorch: every method, form, slot mode and task count."""

from pathlib import Path
from typing import Any

import pytest
from tests.export.test_parity import assert_same, in_batches

from edgecl.methods import methods
from edgecl.program.learned import join
from edgecl_deploy import Classifier, engines
from edgecl_deploy.files import read_release
from edgecl_export import verify
from edgecl_export.verification import FORMS, write_prefixes

OTHERS = [name for name in engines.names() if not name.startswith("onnxruntime")]


@pytest.mark.parametrize(("form", "slots"), FORMS)
@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("engine", OTHERS)
def test_an_engine_says_what_torch_says(
    world: Any, tmp_path: Path, engine: str, name: str, form: str, slots: str
) -> None:
    """At batch sizes 1, 2 and 7; classes and tasks are added without another load."""
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed here")
    shipped = world.wild[name]
    learner, files = shipped.learner, read_release(shipped.release["float32"])
    prefixes = list(write_prefixes(files, tmp_path))
    device = Classifier.open(
        world.bundle, prefixes[0], engine=engine, form=form, slots=slots, threads=1
    )
    sessions = device.loaded.form
    for tasks, prefix in enumerate(prefixes, 1):
        device.swap(prefix)
        want = learner.predict(world.images, join(learner.declared, learner.run.parts()[:tasks]))
        for batch in (1, 2, 7):
            assert_same(in_batches(device, world.images, batch), want)
    assert device.loaded.form is sessions


@pytest.mark.parametrize("engine", OTHERS)
def test_verify_takes_an_engine(world: Any, engine: str) -> None:
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed here")
    shipped = world.trained["l2p"]
    found = verify(shipped.learner, world.bundle, shipped.release["float32"], engine=engine)
    assert found.engine.startswith(engine)
    assert found.failures() == []
