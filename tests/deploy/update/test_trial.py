"""An update on trial: reports, interruptions, requests to stop, clocks that jump."""

import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from tests.deploy.support.sources import (
    MemorySource,
    fails,
    make_release,
    make_store,
    passes,
    release_digest,
)
from tests.deploy.support.updating import ROOT, YEAR, Killed, limit, serves
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier
from edgecl_deploy.format import (
    Rollout,
)
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.records import Limits, Phase
from edgecl_deploy.update import machine
from edgecl_deploy.update.machine import MOST_WRITES, update
from edgecl_deploy.update.outcome import Outcome

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
        assert classifier.max_pixels == 1000  # as the application itself
        return None if classifier.release == 1 else "red is not red any more"

    with Classifier.open(store.path, accept=accept, max_pixels=1000) as classifier:
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
    assert (result.outcome, kills <= MOST_WRITES + 1) == (Outcome.FAILED, True)  # 1: it fetched
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
