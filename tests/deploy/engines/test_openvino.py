"""What the OpenVINO engine keeps beside the contract of all engines."""

import numpy as np
import pytest

from edgecl_deploy import engines
from edgecl_deploy.engines import Graph, make_engine

if not engines.installed("openvino"):
    pytest.skip("openvino is not installed here", allow_module_level=True)


@pytest.fixture
def session(world):
    program = world.bundle.programs["plain"]
    return make_engine("openvino", 1).load(
        Graph(world.bundle_path / program.staged.classify.file, backbone=False)
    )


def feeds(session):
    """Return read-only arrays, as learned tensors are."""
    random = np.random.default_rng(0)
    found = {}
    for name in session.inputs:
        found[name] = random.standard_normal((2, 3)).astype(np.float32)
        found[name].flags.writeable = False
    return found


def test_what_is_pinned_is_copied_once(session):
    pinned = session.pin(feeds(session))
    places = set()
    for _ in range(3):
        pinned.run({})
        (request,) = session._idle
        places.add(tuple(request.get_tensor(name).data.ctypes.data for name in session.inputs))
    assert len(places) == 1


def test_what_is_pinned_gives_the_same(session):
    arrays = feeds(session)
    want = session.run(arrays)
    pinned = session.pin(arrays)
    for _ in range(2):
        got = pinned.run({})
        assert {name: each.tolist() for name, each in got.items()} == {
            name: each.tolist() for name, each in want.items()
        }


def test_bfloat16_is_offered_where_the_processor_multiplies_it(monkeypatch):
    engine = make_engine("openvino", 1)
    for can, has in ((["FP32", "BF16"], True), (["FP32"], False)):
        monkeypatch.setattr(engine, "_can", can)
        precisions = engine.capabilities().precisions
        assert ("bfloat16" in precisions, "int8-bfloat16" in precisions) == (has, has)
        assert {"float32", "int8"} <= set(precisions)
