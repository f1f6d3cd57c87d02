"""Bad releases, tested in a real process before they serve."""

import stat
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.deploy.support.sources import (
    MemorySource,
)
from tests.deploy.support.updating import limit, repin, serves
from tests.deploy.support.world import KINDS, MEAN, World, node, picture, scoring, write_graph

from edgecl_deploy.format import (
    Bundle,
    LearnedSpec,
    PackTensor,
    digest,
    write_tensors,
)
from edgecl_deploy.store.records import Phase
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome


def test_a_release_is_tested_before_it_serves(store, source):
    at_test = []

    def look(store, generation):
        at_test.append((serves(store), generation.release, store.state.phase))

    update(store, source, test=look)
    assert at_test == [(1, 2, Phase.PRETEST)]


def with_prototypes(world, prototypes, declared=None):
    """A release 2 whose one pack holds these, and declares something else about them."""
    pack, blobs = world.pack(0, ("red",), tensors={"prototypes": prototypes})
    if declared is not None:
        old = pack.tensors["prototypes"]
        pack = replace(pack, tensors={"prototypes": replace(old, shape=declared)})
    return world.made((pack, blobs), number=2)


@pytest.mark.parametrize(
    ("prototypes", "declared", "outcome", "reason"),
    [
        ([[np.nan, 0, 0]], None, Outcome.PRETEST_FAILED, "NonFiniteError"),
        ([[0, np.inf, 0]], None, Outcome.PRETEST_FAILED, "NonFiniteError"),
        ([[1, 0, 0, 0]], None, Outcome.PRETEST_FAILED, "TensorShapeError"),
        ([[1, 0, 0, 0]], (1, 3), Outcome.PRETEST_FAILED, "TensorShapeError"),
        ([[1, 0, 0], [0, 1, 0]], (1, 3), Outcome.PRETEST_FAILED, "TensorShapeError"),
    ],
)
def test_wrong_tensors_never_serve(world, store, prototypes, declared, outcome, reason):
    source = MemorySource()
    source.publish(with_prototypes(world, np.array(prototypes, np.float32), declared))
    result = update(store, source)
    assert (result.outcome, reason in result.reason) == (outcome, True), result.reason
    assert serves(store) == 1
    assert update(store, source).outcome is Outcome.DENIED


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.setitem(KINDS, "turns", (TensorProto.INT64, [1]))


def greedy(world, name, turns):
    """A release of a program that loops or takes memory, as a learned number asks."""
    if name == "loop":
        scalar = helper.make_tensor_value_info
        body = helper.make_graph(
            [node("Identity", "go", "goes"), node("Add", "x x", "y")],
            "body",
            [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []),
             scalar("x", TensorProto.FLOAT, [1])],
            [scalar("goes", TensorProto.BOOL, []), scalar("y", TensorProto.FLOAT, [1])],
        )  # fmt: skip
        begin = helper.make_node("ConstantOfShape", ["axis_1"], ["nought"])
        work = [begin, helper.make_node("Loop", ["turns", "", "nought"], ["cost"], body=body)]
    else:
        work = [
            helper.make_node("ConstantOfShape", ["turns"], ["much"]),
            helper.make_node("NonZero", ["much"], ["none"]),
            helper.make_node("Cast", ["none"], ["nones"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["nones"], ["cost"], keepdims=0),
        ]
    plain = [
        node("ReduceMin", "colour axis_1", "low", keepdims=1),
        node("Sub", "low low", "flat"),
        node("Cast", "flat", "match", to=TensorProto.INT64),
        node("Exp", "flat", "match_score"),
        node("Add", "colour cost", "dear"),
    ]
    fused = write_graph(
        world.bundle_path / f"{name}.fused.onnx",
        [*MEAN, *work, *plain, *scoring("dear")],
        "image prototypes turns",
        "scores feature match match_score",
    )
    old = world.bundle.programs["plain"]
    learned = {**old.learned, "turns": LearnedSpec(("n",), {"n": 1}, None, "int64")}
    program = replace(old, learned=learned, fused=fused, interface=digest(name.encode()))
    bundle: Bundle = replace(world.bundle, programs={**world.bundle.programs, name: program})
    (world.bundle_path / "bundle.json").write_bytes(bundle.to_bytes())
    tensors = {
        "prototypes": np.eye(1, 3, dtype=np.float32),
        "turns": np.array([turns], np.int64),
    }
    blob = write_tensors(tensors)
    entries = {
        key: PackTensor(
            str(each.dtype), each.shape, learned[key].axes, learned[key].concat_axis, digest(blob)
        )
        for key, each in tensors.items()
    }
    pack = replace(
        world.pack(0, ("red",))[0],
        program=name,
        interface=program.interface,
        tensors=entries,
        blobs={digest(blob): len(blob)},
    )
    canary = (picture("red", 1), np.ones((1, 1), np.float32))
    return World(world.root, bundle).made((pack, {digest(blob): blob}), number=2, canary=canary)


@pytest.mark.parametrize("name", ["loop", "memory"])
def test_a_modest_program_passes(world, store, turns, name):
    """The negative control of the next two."""
    source = MemorySource()
    source.publish(greedy(world, name, 1))
    repin(store)
    assert update(store, source).outcome is Outcome.UPDATED


def test_a_release_that_hangs_is_given_up(world, store, turns):
    limit(store, pretest_seconds=2.0)
    source = MemorySource()
    source.publish(greedy(world, "loop", 2**60))
    repin(store)
    begin = time.monotonic()
    result = update(store, source)
    assert time.monotonic() - begin < 8
    assert result.outcome is Outcome.PRETEST_FAILED
    assert "took more than 2 s" in result.reason
    assert serves(store) == 1


def test_a_release_that_takes_all_memory_is_given_up(world, store, turns):
    limit(store, pretest_memory=4 * 1024**3)
    source = MemorySource()
    source.publish(greedy(world, "memory", 2**31))  # 8 GiB
    repin(store)
    result = update(store, source)
    assert result.outcome is Outcome.PRETEST_FAILED
    assert "EngineError" in result.reason
    assert "must run on the arrays" in result.reason
    assert serves(store) == 1


def test_a_release_that_is_slow_is_given_up(store, source, stand_in):
    """The one that serves is quick enough in the same minute."""
    limit(store, canary_ms=10_000.0)
    stand_in("pass", "pretest.time.perf_counter = iter((0.0, 1e3)).__next__")
    result = update(store, source)
    assert result.outcome is Outcome.PRETEST_FAILED
    assert "10000 ms are allowed" in result.reason


CRASH = """
import ctypes, sys
from edgecl_deploy import choice
from edgecl_deploy.update import pretest

class Session:
    inputs, outputs = ("image", "prototypes"), ("scores", "feature", "match", "match_score")
    def pin(self, held):
        return self
    def run(self, feeds):
        {act}

class Engine:
    version = "0"
    def capabilities(self):
        from edgecl_deploy.engines import Capabilities
        return Capabilities(empty_tensors=True, dynamic_shapes=True)
    def load(self, graph):
        return Session()

if sys.argv[-2] != "0":  # the release that serves is generation 0
    {more}
sys.exit(pretest.main(*sys.argv[-3:]))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let the new release act in its self-test as ordered; the one that serves passes it."""

    def arrange(act, more="choice.make_engine = lambda *_: Engine()"):
        (tmp_path / "crash.py").write_text(CRASH.format(act=act, more=more))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/crash.py" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(python))

    return arrange


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("ctypes.string_at(0)", "killed by SIGSEGV"),
        ("__import__('os').abort()", "killed by SIGABRT"),
        ("__import__('os')._exit(0)", "status 0 and without an answer"),
        ("print('{}', flush=True); __import__('os')._exit(5)", "status 5"),
        ("raise RuntimeError('a bug of an engine')", "a bug of an engine"),
    ],
)
def test_a_release_that_crashes_the_engine_fails_its_test(store, source, stand_in, act, reason):
    stand_in(act)
    result = update(store, source)
    assert (result.outcome, reason in result.reason) == (Outcome.PRETEST_FAILED, True), (
        result.reason
    )
    assert serves(store) == 1


def test_what_a_library_prints_is_no_answer(store, source, tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        "import sys\nfrom edgecl_deploy.update import pretest\n"
        "print('a library says hello\\n' * 1000)\nsys.exit(pretest.main(*sys.argv[-3:]))\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/noisy.py" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    assert update(store, source).outcome is Outcome.UPDATED
