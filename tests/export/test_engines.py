"""The other engines against PyTorch: every method, form, slot mode and task count.

TensorRT runs on a fake where there is no GPU: our own code then sees the graphs of every method.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.engines.fakes import nvidia_packages
from tests.export.test_parity import assert_same, in_batches

from edgecl.methods import methods
from edgecl.program.learned import join
from edgecl_deploy import Classifier, engines
from edgecl_deploy.files import read_release
from edgecl_export import verify
from edgecl_export.verification import FORMS, can_run, write_prefixes

OTHERS = [name for name in engines.names() if not name.startswith("onnxruntime")]


@pytest.fixture(params=OTHERS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return an engine that is installed, or TensorRT on a fake."""
    name = str(request.param)
    if engines.installed(name):
        yield name
    elif name == "tensorrt":
        with nvidia_packages(tmp_path / "nvidia"):
            yield name
    else:
        pytest.skip(f"{name} is not installed here")


@pytest.mark.parametrize(("form", "slots"), FORMS)
@pytest.mark.parametrize("name", methods())
def test_an_engine_says_what_torch_says(
    world: Any, tmp_path: Path, engine: str, name: str, form: str, slots: str
) -> None:
    """At batch sizes 1, 2 and 7; classes and tasks are added without another load."""
    if not can_run(engines.make_engine(engine), form, slots):
        pytest.skip(f"{engine} does not run this form")
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


def test_verify_takes_an_engine(world: Any, engine: str) -> None:
    shipped = world.trained["l2p"]
    found = verify(shipped.learner, world.bundle, shipped.release["float32"], engine=engine)
    assert found.engine.startswith(engine)
    assert found.failures() == []
