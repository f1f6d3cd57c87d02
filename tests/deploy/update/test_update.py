"""The state machine: every outcome, what an interruption leaves, what a bad release can do."""

import errno
import json
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.deploy.support.sources import (
    Fresh,
    MemorySource,
    fails,
    make_release,
    make_store,
    objects_of,
    passes,
    release_digest,
)
from tests.deploy.support.world import KINDS, MEAN, World, node, picture, scoring, write_graph

from edgecl_deploy import Classifier
from edgecl_deploy.errors import NoSpaceError, OfflineError, StaleError, UntrustedError
from edgecl_deploy.format import (
    Bundle,
    LearnedSpec,
    PackTensor,
    Rollout,
    digest,
    write_tensors,
)
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.records import Limits, Phase
from edgecl_deploy.update import machine
from edgecl_deploy.update.machine import MOST_WRITES, update
from edgecl_deploy.update.outcome import Outcome

ROOT = Path(__file__).parents[3]
YEAR = 365 * 86400.0


class Killed(BaseException):
    """The process ends here: nothing of ours runs any more."""


@pytest.fixture
def store(world, tmp_path):
    return make_store(world, tmp_path / "store", make_release(world, 1))


@pytest.fixture
def source(world):
    source = MemorySource()
    source.publish(make_release(world, 2))
    return source


def serves(store):
    number, files = store.read_current()  # every byte is verified
    assert store.generation(number).release == files.release.number
    return files.release.number


def configure(store, **changes):
    with store.lock():
        store.configure(replace(store.config, **changes))


def limit(store, **changes):
    configure(store, limits=replace(store.config.limits, **changes))


# -- every outcome ------------------------------------------------------------------------------


def offers(**fields):
    def arrange(world, store, source):
        source.publish(make_release(world, 2), **fields)

    return arrange


def raises(error, *more):
    def arrange(world, store, source):
        for after, each in enumerate([error, *more]):
            source.fail(after=2 + after, fault=each)

    return arrange


def pinned(world, store, source):
    configure(store, pinned=9)


def denied(world, store, source):
    with store.lock():
        store.deny(source.channels["stable"].release, "it failed")


def inhibited(world, store, source):
    (store.path / INHIBIT / "calibrating").touch()


def up_to_date(world, store, source):
    source.publish(make_release(world, 1))


def malformed(world, store, source):
    bad = b"{}"
    source.objects[digest(bad)] = bad
    source.publish(make_release(world, 2), release=digest(bad), size=len(bad))


def other_number(world, store, source):
    source.publish(make_release(world, 3), number=2)


def wrong_canaries(world, store, source):
    source.publish(make_release(world, 2, wrong=1.0))


def no_images(world, store, source):
    limit(store, trial_requests=1)


def other_bundle(world, store, source):
    made = make_release(world, 2)
    source.publish(replace(made, release=replace(made.release, interface=digest(b"other"))))


FULL = OSError(errno.ENOSPC, "full")
CASES = [
    (Outcome.UPDATED, lambda *_: None, "release 2 serves"),
    (Outcome.UP_TO_DATE, up_to_date, "release 1 serves"),
    (Outcome.WAITING, offers(rollout=Rollout("r", 0, 0, 0)), "rolled out to 0%"),
    (Outcome.HALTED, offers(halted=True), "was halted by its publisher"),
    (Outcome.PINNED, pinned, "pinned to release 9; release 2 is offered"),
    (Outcome.DENIED, denied, "release 2 failed here before: it failed"),
    (Outcome.INHIBITED, inhibited, "release 2 is ready; `inhibit` holds a file"),
    (Outcome.INCOMPATIBLE, offers(backbone=digest(b"other")), "release 2 needs the backbone"),
    (Outcome.INCOMPATIBLE, other_bundle, "the release must have the interface"),
    (Outcome.OFFLINE, raises(OfflineError("a", "b", "c")), "a; found b. c"),
    (Outcome.STALE, raises(StaleError("a", "b", "c")), "a; found b. c"),
    (Outcome.UNTRUSTED, raises(UntrustedError("a", "b", "c")), "a; found b. c"),
    (Outcome.UNTRUSTED, raises(b"other bytes"), "must be"),
    (Outcome.NO_SPACE, raises(NoSpaceError("a", "b", "c"), NoSpaceError("d", "e", "f")), "d; "),
    (Outcome.NO_SPACE, raises(FULL, FULL), "full"),
    (Outcome.REFUSED, malformed, "must have the field 'format'"),
    (Outcome.REFUSED, other_number, "the channel calls release 3 release 2"),
    (Outcome.PRETEST_FAILED, wrong_canaries, "release 2 failed its test: SelfTestError"),
    (Outcome.ROLLED_BACK, no_images, "release 2 was undone, release 1 serves: 0 images"),
    (Outcome.FAILED, raises(OSError(errno.EIO, "rotten")), "rotten"),
]
ELSEWHERE = {Outcome.BUSY, Outcome.STOPPED}  # these have tests of their own
DENYING = {Outcome.DENIED, Outcome.REFUSED, Outcome.PRETEST_FAILED, Outcome.ROLLED_BACK}


def test_every_outcome_has_a_test_and_a_status_of_its_own():
    assert {outcome for outcome, *_ in CASES} | ELSEWHERE == set(Outcome)
    assert len({outcome.value for outcome in Outcome}) == len(Outcome)
    assert all(outcome.value not in {1, 2} and outcome.value < 126 for outcome in Outcome)


@pytest.mark.parametrize(("outcome", "arrange", "reason"), CASES)
def test_every_outcome_has_its_reason(world, store, source, outcome, arrange, reason):
    arrange(world, store, source)
    result = update(store, source)
    assert (result.outcome, reason in result.reason) == (outcome, True), result.reason
    now = 2 if outcome is Outcome.UPDATED else 1
    assert serves(store) == result.release == now
    assert (source.channels["stable"].release in store.denied.releases) == (outcome in DENYING)
    assert store.state.phase in {Phase.IDLE, Phase.COMMITTED}
    events = [each for each in store.log.read() if each["event"] == "update"]
    assert [each["outcome"] for each in events] == (
        [] if outcome is Outcome.UP_TO_DATE else [outcome.word]
    )
    with store.lock():  # nothing but the objects of kept generations is left after this
        collect(store)
    names = {name for each in store.generations().values() for name in each.objects}
    assert {path.name for path in (store.path / "objects").iterdir()} == names


def test_the_result_holds_times_and_bytes(world, store, source):
    source.fresh = Fresh("behind", True)
    result = update(store, source)
    assert (result.clock, result.development, result.offered) == ("behind", True, 2)
    assert result.fetched == source.received > 0
    phases = ["check", "fetch", "verify", "pretest", "switch", "trial", "commit"]
    assert list(result.seconds) == phases
    assert json.loads(json.dumps(result.to_json()))["outcome"] == "updated"


def test_a_busy_store_is_left_alone(store, source):
    with store.lock():
        result = update(type(store).open(store.path), source)
    assert (result.outcome, result.release) == (Outcome.BUSY, 1)
    assert source.operations == 0


def test_an_update_needs_few_writes_of_its_state(store, source):
    update(store, source, test=passes)
    assert store.state.writes <= 10 < MOST_WRITES


# -- who may have it, and when ------------------------------------------------------------------


def draws(rollout_id, devices):
    """The place of every device in a roll-out, from what the devices do."""
    rollout = Rollout(rollout_id, 0, 2**20, 100)
    places = []
    for device in devices:
        low, high = 0, 2**20
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if rollout.admits(device, middle) else (middle + 1, high)
        places.append(low / 2**20)
    return np.array(places)


def test_a_roll_out_reaches_its_share_and_only_grows():
    devices = [f"device-{number}" for number in range(10_000)]
    first, second = draws("release 7", devices), draws("release 8", devices)
    for percent in (10, 50, 90):
        at_once = Rollout("release 7", 1000, 0, percent)
        halfway = Rollout("release 7", 1000, 800, percent)
        for rollout, now, target in (
            (at_once, 999, 0),
            (at_once, 1000, percent),
            (halfway, 1400, percent / 2),
            (halfway, 1800, percent),
            (halfway, 10**9, percent),
        ):
            share = 100 * np.mean([rollout.admits(device, now) for device in devices])
            assert abs(share - target) <= (1.5 if target else 0)
        admitted = [
            {device for device in devices[:500] if halfway.admits(device, now)}
            for now in range(1000, 1900, 100)
        ]
        assert all(before <= after for before, after in pairwise(admitted))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_a_device_waits_for_its_place_and_then_takes_it(world, tmp_path):
    now = [0.0]
    store = make_store(world, tmp_path / "store", make_release(world, 1), now=lambda: now[0])
    place = draws("r", ["device-1"])[0]
    source = MemorySource()
    source.publish(make_release(world, 2), rollout=Rollout("r", 1000, 1000, 100))
    for moment in (0.0, 1000.0, 1000 + 999 * place):
        now[0] = moment
        assert update(store, source, test=passes).outcome is Outcome.WAITING
    assert source.fetched == []
    now[0] = 1001 + 1000 * place
    assert update(store, source, test=passes).outcome is Outcome.UPDATED


def test_a_halt_holds_from_the_next_poll(world, store, source):
    source.publish(make_release(world, 2), halted=True)
    assert update(store, source, test=passes).outcome is Outcome.HALTED
    source.publish(make_release(world, 2))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED


def test_a_halt_stops_what_is_fetched_and_tested_already(world, store, source):
    inhibited(world, store, source)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    next((store.path / INHIBIT).iterdir()).unlink()
    source.publish(make_release(world, 2), halted=True)
    assert update(store, source, test=passes).outcome is Outcome.HALTED
    assert serves(store) == 1


def test_a_pin_lets_one_release_through(world, store, source):
    configure(store, pinned=3)
    assert update(store, source, test=passes).outcome is Outcome.PINNED
    source.publish(make_release(world, 3))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 4))
    assert update(store, source, test=passes).outcome is Outcome.PINNED
    assert serves(store) == 3


def test_no_rollback_goes_below_what_the_publisher_demands(world, tmp_path):
    store = make_store(world, tmp_path / "store")
    source = MemorySource()
    for number in (1, 2):
        source.publish(make_release(world, number))
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 3), min_release=2)
    limit(store, trial_requests=1)
    assert update(store, source, test=passes).outcome is Outcome.ROLLED_BACK
    assert (serves(store), store.denied.min_release) == (2, 2)
    source.publish(make_release(world, 4), min_release=4)
    result = update(store, source, test=passes)
    assert (result.outcome, result.release) == (Outcome.ROLLED_BACK, None)
    assert store.current() is None  # neither of the old ones may serve any more
    source.publish(make_release(world, 5), min_release=1)
    limit(store, trial_requests=0)
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert store.denied.min_release == 4  # it never falls


def test_two_releases_under_one_number_are_refused(world, store, source):
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 2, tasks=3))
    result = update(store, source, test=passes)
    assert result.outcome is Outcome.UNTRUSTED
    assert "is not the release 2 that serves here" in result.reason
    assert serves(store) == 2


def test_an_older_release_is_no_update(world, store, source):
    update(store, source, test=passes)
    source.publish(make_release(world, 1))
    assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
    assert serves(store) == 2


def test_a_release_that_failed_is_taken_again_only_if_the_operator_says_so(store, source):
    assert update(store, source, test=fails).outcome is Outcome.PRETEST_FAILED
    assert update(store, source, test=passes).outcome is Outcome.DENIED
    assert update(store, source, test=passes, retry=True).outcome is Outcome.UPDATED
    assert store.denied.releases == {}


# -- what travels -------------------------------------------------------------------------------


def test_after_an_inhibition_nothing_is_fetched_again(world, store, source):
    inhibited(world, store, source)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    fetched = list(source.fetched)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    next((store.path / INHIBIT).iterdir()).unlink()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert source.fetched == fetched
    assert len(store.generations()) == 2


def test_a_task_pack_travels_once(world, store):
    source, held = MemorySource(), set(objects_of(make_release(world, 1)))
    for number, tasks in ((2, 3), (3, 4), (4, 4)):
        made = make_release(world, number, tasks=tasks)
        source.publish(made)
        source.fetched.clear()
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
        assert set(source.fetched) == set(objects_of(made)) - held
        assert len(set(source.fetched)) == len(source.fetched)
        held = {name for each in store.generations().values() for name in each.objects}
    packs = [blob for pack, blob in (world.pack(0, ("red",)), world.pack(1, ("green",)))]
    assert all(set(blob) <= held for blob in packs)


def test_every_manifest_is_parsed_once(world, store, source, monkeypatch):
    parsed = []
    for name in ("parse_release", "parse_pack"):
        parse = getattr(machine, name)
        counted = partial(lambda parse, data: parsed.append(digest(data)) or parse(data), parse)
        monkeypatch.setattr(machine, name, counted)
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert len(parsed) == 1 + len(store.read_current()[1].packs)
    assert len(set(parsed)) == len(parsed)


def test_a_damaged_object_is_fetched_again(world, store, source):
    shared = next(name for name in objects_of(make_release(world, 2)) if store.has(name, 0) or
                  (store.path / "objects" / name).exists())  # fmt: skip
    path = store.path / "objects" / shared
    size = path.stat().st_size
    path.chmod(0o644)
    path.write_bytes(bytes(size))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert shared in source.fetched
    assert serves(store) == 2


def test_a_full_disk_is_cleaned_once_and_then_has_room(world, store, source):
    rubbish = store.path / "objects" / digest(b"rubbish")
    rubbish.write_bytes(b"rubbish")
    source.fail(after=4, fault=OSError(errno.ENOSPC, "full"))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert not rubbish.exists()
    assert len(source.fetched) == len(set(source.fetched))  # what had come stayed


@pytest.mark.parametrize("after", range(6))
def test_a_fetch_that_was_cut_goes_on_with_what_is_missing(store, source, after):
    source.fail(after, OfflineError("a", "b", "c"))
    results = [update(store, source, test=passes) for _ in range(2)]
    assert [each.outcome for each in results] == [Outcome.OFFLINE, Outcome.UPDATED]
    assert len(source.fetched) == len(set(source.fetched))


# -- bad releases, tested in a real process -----------------------------------------------------


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
    assert update(store, source).outcome is Outcome.UPDATED


def test_a_release_that_hangs_is_given_up(world, store, turns):
    limit(store, pretest_seconds=2.0)
    source = MemorySource()
    source.publish(greedy(world, "loop", 2**60))
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
    result = update(store, source)
    assert result.outcome is Outcome.PRETEST_FAILED
    assert "EngineError" in result.reason
    assert "must run on the arrays" in result.reason
    assert serves(store) == 1


def test_a_release_that_is_slow_is_given_up(store, source):
    limit(store, canary_ms=1e-6)
    result = update(store, source)
    assert result.outcome is Outcome.PRETEST_FAILED
    assert "1e-06 ms are allowed" in result.reason


CRASH = """
import ctypes, sys
from edgecl_deploy import runtime
from edgecl_deploy.update import pretest

class Session:
    inputs, outputs = ("image", "prototypes"), ("scores", "feature", "match", "match_score")
    def run(self, feeds):
        {act}

class Engine:
    version = "0"
    def capabilities(self):
        from edgecl_deploy.engines import Capabilities
        return Capabilities(empty_tensors=True, dynamic_shapes=True)
    def load(self, path):
        return Session()

runtime.make_engine = lambda *_: Engine()
sys.exit(pretest.main(*sys.argv[3:]))
"""


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
def test_a_release_that_crashes_the_engine_fails_its_test(
    store, source, tmp_path, monkeypatch, act, reason
):
    (tmp_path / "crash.py").write_text(CRASH.format(act=act))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/crash.py" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    result = update(store, source)
    assert (result.outcome, reason in result.reason) == (Outcome.PRETEST_FAILED, True), (
        result.reason
    )
    assert serves(store) == 1


def test_what_a_library_prints_is_no_answer(store, source, tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        "import sys\nfrom edgecl_deploy.update import pretest\n"
        "print('a library says hello\\n' * 1000)\nsys.exit(pretest.main(*sys.argv[3:]))\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/noisy.py" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    assert update(store, source).outcome is Outcome.UPDATED


# -- on trial -----------------------------------------------------------------------------------


def reporting(*reports):
    """A self-test that passes, and the reports of processes on the release after it."""

    def test(store, generation):
        for images, failed, error in reports:
            Reporter(store.path).write(Report(generation.number, images, failed, error))

    return test


@pytest.mark.parametrize(
    ("limits", "reports", "wrong"),
    [
        ({}, [(0, 0, "the camera is dark")], "the camera is dark"),
        ({}, [(9, 0, ""), (9, 0, "one of two refuses")], "one of two refuses"),
        ({}, [(100, 1, "")], "1 of 100 images got no answer; 0 may"),
        ({"trial_failures": 0.01}, [(100, 2, "")], "2 of 100 images got no answer; 1 may"),
        ({"trial_failures": 0.01}, [(100, 1, "")], None),
        ({"trial_failures": 0.01}, [(50, 1, ""), (50, 0, "")], None),
        ({"trial_requests": 10}, [(9, 0, "")], "9 images in 0 s; 10 must come"),
        ({"trial_requests": 10}, [(4, 0, ""), (6, 0, "")], None),
        ({}, [], None),
    ],
)
def test_a_trial_is_judged_by_the_reports_of_the_service(store, source, limits, reports, wrong):
    limit(store, **limits)
    result = update(store, source, test=reporting(*reports))
    if wrong is None:
        assert (result.outcome, serves(store)) == (Outcome.UPDATED, 2)
        return
    assert result.outcome is Outcome.ROLLED_BACK
    assert wrong in result.reason
    assert serves(store) == 1
    assert wrong in store.denied.releases[source.channels["stable"].release]


def test_reports_on_another_release_do_not_count(store, source):
    Reporter(store.path).write(Report(0, error="about the old one"))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED


def test_the_application_may_refuse_a_release(world, store, source):
    limit(store, trial_seconds=20.0)

    def accept(classifier):
        return None if classifier.release == 1 else "red is not red any more"

    with Classifier.open(store.path, accept=accept) as classifier:
        begin = time.monotonic()
        result = update(store, source, test=passes)
        assert time.monotonic() - begin < 5
        assert classifier.release == 1
        assert classifier.predict([picture("red")])[0].label == "red"
    assert result.outcome is Outcome.ROLLED_BACK
    assert "red is not red any more" in result.reason
    assert serves(store) == 1


def test_the_service_earns_the_trial_with_answers(store, source):
    limit(store, trial_seconds=3.0, trial_requests=5)
    results = []
    with Classifier.open(store.path) as classifier:
        thread = threading.Thread(
            target=lambda: results.append(update(store, source, test=passes)), daemon=True
        )
        thread.start()
        while thread.is_alive():
            assert classifier.predict([picture("red")])[0].label == "red"
            time.sleep(0.02)
    assert results[0].outcome is Outcome.UPDATED, results[0].reason


# -- interruptions ------------------------------------------------------------------------------


def killed(store, source, monkeypatch, **options):
    """An update that is killed when its trial begins to wait."""
    limit(store, trial_seconds=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(machine.time, "sleep", kill)
        with pytest.raises(Killed):
            update(store, source, test=passes, **options)


def kill(*_):
    raise Killed


def test_a_killed_trial_goes_on_and_every_start_counts(store, source, monkeypatch):
    for start in (1, 2, 3):
        killed(store, source, monkeypatch)
        assert (store.state.phase, store.state.attempts) == (Phase.TRIAL, start)
        assert serves(store) == 2
    operations = source.operations
    result = update(store, source, test=passes)
    assert result.outcome is Outcome.ROLLED_BACK
    assert "it did not pass its trial in 3 starts" in result.reason
    assert serves(store) == 1
    assert source.operations == operations  # undoing needs no network
    assert update(store, source, test=passes).outcome is Outcome.DENIED


def test_a_killed_trial_may_still_pass(store, source, monkeypatch):
    killed(store, source, monkeypatch)
    limit(store, trial_seconds=0)
    assert update(store, source, test=fails).outcome is Outcome.UPDATED  # it was tested before
    state = store.state
    assert (state.phase, state.attempts, state.last_good, state.previous) == (
        Phase.COMMITTED, 0, 1, 0,
    )  # fmt: skip


SCRIPT = """
import sys
from pathlib import Path
from edgecl_deploy.files import read_bundle
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from tests.deploy.support.world import World
from tests.deploy.support.sources import MemorySource, make_release, passes

root = Path(sys.argv[1])
source = MemorySource()
source.publish(make_release(World(root, read_bundle(root / "bundle").bundle), 2))
update(Store.open(root / "store"), source, test=passes)
"""


def test_a_real_sigkill_in_the_trial_loses_nothing(world, store, source):
    limit(store, trial_seconds=60.0)
    command = [sys.executable, "-c", SCRIPT, str(world.root)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        end = time.monotonic() + 60
        while store.state.phase is not Phase.TRIAL and time.monotonic() < end:
            time.sleep(0.01)
        assert update(store, source).outcome is Outcome.BUSY
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (store.state.phase, store.state.attempts, serves(store)) == (Phase.TRIAL, 1, 2)
    limit(store, trial_seconds=0)
    assert update(store, source, test=fails).outcome is Outcome.UPDATED
    assert source.fetched == []


@pytest.mark.parametrize("factory", [True, False])
@pytest.mark.parametrize("step", ["switch", "write_state"])
def test_a_killed_rollback_is_finished_and_goes_no_further(
    world, tmp_path, monkeypatch, factory, step
):
    first = make_release(world, 1) if factory else None
    store = make_store(world, tmp_path / "store", first)
    source = MemorySource()
    for number in (2, 3):
        source.publish(make_release(world, number))
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 4))

    def stop(state):
        if state.phase is Phase.COMMITTED:
            raise Killed
        return write(state)

    write = store.write_state
    with monkeypatch.context() as patch:
        bad = reporting((0, 0, "bad"))

        def test(store, generation):
            bad(store, generation)
            if step == "write_state":
                patch.setattr(store, "write_state", stop)

        if step == "switch":
            switches = iter([store.switch, kill])
            patch.setattr(store, "switch", lambda number: next(switches)(number))
        with pytest.raises(Killed):
            update(store, source, test=test)
    assert store.state.phase is Phase.ROLLBACK
    result = update(store, source, test=passes)
    assert (result.outcome, result.release) == (Outcome.ROLLED_BACK, 3)
    assert serves(store) == 3
    assert list(store.denied.releases) == [release_digest(make_release(world, 4))]
    assert store.state.phase is Phase.COMMITTED


def test_a_test_that_kills_the_update_again_and_again_denies_the_release(store, source):
    for _ in range(3):
        with pytest.raises(Killed):
            update(store, source, test=kill)
        assert serves(store) == 1
    result = update(store, source, test=passes)
    assert result.outcome is Outcome.DENIED
    assert "its self-test never ended in 3 starts" in result.reason


def test_a_release_that_goes_in_circles_is_given_up(store, source, monkeypatch):
    kills = 0
    with monkeypatch.context() as patch:
        patch.setattr(machine.Update, "_verify", kill)
        for _ in range(2 * MOST_WRITES):
            try:
                result = update(store, source, test=passes)
                break
            except Killed:
                kills += 1
    assert (result.outcome, kills <= MOST_WRITES) == (Outcome.FAILED, True)
    assert f"more than {MOST_WRITES} steps" in str(store.denied.releases)
    assert update(store, source, test=passes).outcome is Outcome.DENIED
    assert serves(store) == 1


# -- asked to stop -------------------------------------------------------------------------------


def test_an_update_stops_when_it_is_asked_and_the_next_goes_on(store, source):
    asked, fetched, parts = 0, [], 0
    while True:
        calls = iter(range(100))
        after = partial(lambda a, c: next(c) >= a, asked, calls)
        result = update(store, source, test=passes, stop_requested=after)
        fetched += source.fetched
        parts += bool(source.fetched)
        source.fetched.clear()
        if result.outcome is Outcome.UPDATED:
            break
        assert result.outcome is Outcome.STOPPED
        assert (serves(store), store.state.phase.on_trial) == (1, False)
        asked += 1
    assert parts > 1  # it stopped between the objects too
    assert len(fetched) == len(set(fetched))
    assert serves(store) == 2


def test_a_trial_that_is_asked_to_stop_is_no_failed_start(store, source):
    limit(store, trial_seconds=60.0)

    def on_trial():
        return store.state is not None and store.state.phase is Phase.TRIAL

    for _ in range(5):
        result = update(store, source, test=passes, stop_requested=on_trial)
        assert result.outcome is Outcome.STOPPED
        assert (store.state.phase, store.state.attempts, serves(store)) == (Phase.TRIAL, 0, 2)
    limit(store, trial_seconds=0)
    assert update(store, source, test=fails).outcome is Outcome.UPDATED


# -- the clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [0.0, 20 * YEAR + time.time()], ids=["1970", "in-20-years"])
def test_no_clock_breaks_an_update(world, tmp_path, now):
    store = make_store(world, tmp_path / "store", make_release(world, 1), now=lambda: now)
    source = MemorySource()
    source.publish(make_release(world, 2))
    with Classifier.open(store.path) as classifier:
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
        end = time.monotonic() + 5
        while classifier.release != 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert classifier.release == 2
    source.publish(make_release(world, 3), rollout=Rollout("r", int(time.time()), 0, 100))
    expected = Outcome.WAITING if now == 0 else Outcome.UPDATED
    assert update(store, source, test=passes).outcome is expected


def test_a_clock_that_jumps_during_a_trial_does_not_end_it_early(world, tmp_path):
    times = iter(range(0, 10**12, 10**8))
    store = make_store(
        world,
        tmp_path / "store",
        make_release(world, 1),
        now=lambda: float(next(times)),
        limits=Limits(trial_seconds=0.3),
    )
    source = MemorySource()
    source.publish(make_release(world, 2))
    begin = time.monotonic()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert time.monotonic() - begin >= 0.3
