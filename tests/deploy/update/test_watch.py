"""The poll loop without waiting, and the report hook."""

import json
import signal
import stat
import statistics
import subprocess
import sys
import time

import pytest
from tests.deploy.support.sources import make_store

from edgecl_deploy.errors import OfflineError, StoreError
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.records import Phase, State
from edgecl_deploy.update.hook import report
from edgecl_deploy.update.outcome import Outcome, Result
from edgecl_deploy.update.poll import PollResult
from edgecl_deploy.update.watch import INTERVAL, LEAST, MOST, Schedule, Watch

HOUR = 3600.0
SOON = [Outcome.BUSY, Outcome.STOPPED]  # another command has the store
TROUBLE = [
    Outcome.OFFLINE,
    Outcome.STALE,
    Outcome.UNTRUSTED,
    Outcome.NO_SPACE,
    Outcome.FAILED,
]


def polled(outcome, retry_after=None):
    return PollResult(Result(outcome, "because"), retry_after)


class Waits:
    """A `StopRequest` that does not wait, and is made after so many waits."""

    def __init__(self, most, act=lambda number: None):
        self.waited, self._most, self._act = [], most, act

    @property
    def requested(self):
        return len(self.waited) >= self._most

    def wait(self, seconds):
        self.waited.append(seconds)
        self._act(len(self.waited))
        return self.requested


class Polls:
    """Gives the results that were ordered, one by one."""

    def __init__(self, *results):
        self.left, self.told = list(results), []

    def __call__(self):
        result = self.left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def tell(self, result, wait):
        self.told.append((result.outcome, wait))


def run(store, polls, waits, schedule=None):
    Watch(store, polls, schedule or Schedule(draw=lambda: 1.0), waits, polls.tell).run()
    return polls.told


@pytest.fixture
def store(world, tmp_path):
    return make_store(world, tmp_path / "store")


# -- when ---------------------------------------------------------------------------------------


def test_the_waits_spread_a_fleet_over_a_whole_interval():
    schedule = Schedule()
    drawn = [schedule.after(Outcome.UP_TO_DATE) for _ in range(4000)]
    assert all(0.5 * INTERVAL <= wait <= 1.5 * INTERVAL for wait in drawn)
    assert statistics.mean(drawn) == pytest.approx(INTERVAL, rel=0.02)
    assert max(drawn) - min(drawn) > 0.95 * INTERVAL
    assert all(0 <= schedule.first() <= LEAST for _ in range(100))


@pytest.mark.parametrize("outcome", TROUBLE)
def test_trouble_doubles_the_wait_up_to_four_hours_and_success_ends_it(outcome):
    schedule = Schedule(draw=lambda: 1.0)
    waits = [schedule.after(outcome) for _ in range(10)]
    assert waits[:5] == [60, 120, 240, 480, 960]
    assert waits[-2:] == [MOST, MOST] == [4 * HOUR] * 2
    assert schedule.after(Outcome.UP_TO_DATE) == 1.5 * INTERVAL
    assert schedule.after(outcome) == 60
    least = Schedule(draw=lambda: 0.0)
    assert least.after(outcome) == 30


def test_a_thousand_failures_do_not_overflow():
    schedule = Schedule(draw=lambda: 1.0)
    assert {schedule.after(Outcome.OFFLINE) for _ in range(1000)} >= {MOST}


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {*TROUBLE, *SOON}, key=str))
def test_what_is_no_trouble_waits_the_interval(outcome):
    assert Schedule(10.0, draw=lambda: 0.5).after(outcome) == 10


@pytest.mark.parametrize("outcome", SOON)
def test_a_busy_store_is_asked_again_soon(outcome):
    assert Schedule(draw=lambda: 1.0).after(outcome) == LEAST


def test_a_short_interval_has_a_short_back_off():
    assert Schedule(4.0, draw=lambda: 1.0).after(Outcome.OFFLINE) == 4
    assert Schedule(4.0, draw=lambda: 1.0).first() == 4


@pytest.mark.parametrize("outcome", [Outcome.OFFLINE, Outcome.UP_TO_DATE])
def test_a_server_that_asks_to_wait_is_left_alone(outcome):
    schedule = Schedule(draw=lambda: 0.0)
    assert schedule.after(outcome, 7 * HOUR) == 7 * HOUR
    assert schedule.after(Outcome.UP_TO_DATE, 1.0) == 0.5 * INTERVAL


# -- the loop -----------------------------------------------------------------------------------


def test_the_loop_polls_until_it_is_asked_to_stop(store):
    polls = Polls(polled(Outcome.UP_TO_DATE), polled(Outcome.OFFLINE, 500), polled(Outcome.UPDATED))
    waits = Waits(4)
    told = run(store, polls, waits)
    assert [outcome for outcome, _ in told] == [
        Outcome.UP_TO_DATE,
        Outcome.OFFLINE,
        Outcome.UPDATED,
    ]
    assert waits.waited == [LEAST, 1.5 * INTERVAL, 500, 1.5 * INTERVAL]


def test_a_stop_before_the_first_poll_prevents_it(store):
    assert run(store, Polls(), Waits(1)) == []


def test_an_error_before_the_update_is_reported_and_the_loop_goes_on(store):
    polls = Polls(
        StoreError("config.json must be whole", "half of it", "Mend it."),
        PermissionError("no"),
        OfflineError("it must answer", "nothing", "Wait."),
        polled(Outcome.UPDATED),
    )
    told = run(store, polls, Waits(5))
    assert [outcome for outcome, _ in told] == [Outcome.FAILED] * 3 + [Outcome.UPDATED]
    assert [wait for _, wait in told[:3]] == [60, 120, 240]


def test_what_is_ready_is_taken_as_soon_as_the_application_allows(store):
    lock = store.path / INHIBIT / "busy"
    lock.touch()

    def act(number):
        if number == 4:
            lock.unlink()

    polls, waits = Polls(polled(Outcome.INHIBITED), polled(Outcome.UPDATED)), Waits(6, act)
    told = run(store, polls, waits)
    assert [outcome for outcome, _ in told] == [Outcome.INHIBITED, Outcome.UPDATED]
    assert waits.waited == [LEAST, LEAST, LEAST, LEAST, 0.0, 1.5 * INTERVAL]


def test_an_application_that_never_allows_it_is_asked_once_per_interval(store):
    (store.path / INHIBIT / "busy").touch()
    polls, waits = Polls(polled(Outcome.INHIBITED), polled(Outcome.UPDATED)), Waits(7)
    run(store, polls, waits, Schedule(150.0, draw=lambda: 1.0))
    assert waits.waited == [60, 60, 60, 60, 45, 0.0, 225]


def test_a_trial_that_was_interrupted_goes_on_at_once(store):
    with store.lock():
        store.write_state(State(Phase.TRIAL, 1, 1))
    waits = Waits(2)
    run(store, Polls(polled(Outcome.UPDATED)), waits)
    assert waits.waited[0] == 0


SIGNALLED = """
import os, signal, sys, time
from edgecl_deploy.stopping import stop_on_signals

number = int(sys.argv[1])
before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
with stop_on_signals() as stop:
    assert not stop.requested
    assert not stop.wait(0.0)
    os.kill(os.getpid(), number)
    begin = time.monotonic()
    assert stop.wait(60)
    assert time.monotonic() - begin < 5
    assert stop.requested
    assert signal.getsignal(number) is signal.SIG_DFL  # whoever asks twice means it
assert {each: signal.getsignal(each) for each in before} == before
print("whole")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_at_once(number):
    """In a process of its own: a signal is of a process, and so is its end."""
    command = [sys.executable, "-c", SIGNALLED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


# -- the hook -----------------------------------------------------------------------------------


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def events(store):
    return [each for each in store.log.read() if each["event"] == "hook failed"]


def test_the_hook_gets_the_result_as_json_and_no_shell(world, tmp_path):
    out = tmp_path / "out $(touch hacked)"
    hook = script(tmp_path / "hook", 'cat >"$1"; echo noise; echo noise >&2')
    store = make_store(world, tmp_path / "store", hook=(hook, str(out)))
    result = Result(Outcome.UPDATED, "release 2 serves", 2, 2, 123, {"check": 0.5})
    report(store, result)
    assert json.loads(out.read_text()) == {
        **result.to_json(), "device": "device-1", "channel": "stable",
    }  # fmt: skip
    assert events(store) == []
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("exit 7", "exit status 7"), ("exec <&-; exit 1", "exit status 1"), ("kill -9 $$", "-9")],
)
def test_a_hook_that_fails_is_a_line_in_the_log(world, tmp_path, text, reason):
    store = make_store(world, tmp_path / "store", hook=(script(tmp_path / "hook", text),))
    report(store, Result(Outcome.UPDATED, "x" * 200_000))
    assert reason in events(store)[0]["reason"]


def test_a_hook_that_is_not_there_is_a_line_in_the_log(world, tmp_path):
    store = make_store(world, tmp_path / "store", hook=(str(tmp_path / "none"),))
    report(store, Result(Outcome.UPDATED, "yes"))
    assert "none must be a program" in events(store)[0]["reason"]


def test_a_hook_that_hangs_is_killed_with_its_children(world, tmp_path):
    hook = script(tmp_path / "hook", f"sleep 60 & echo $! >{tmp_path}/child; wait")
    store = make_store(world, tmp_path / "store", hook=(hook,))
    begin = time.monotonic()
    report(store, Result(Outcome.UPDATED, "yes"), longest=0.5)
    assert time.monotonic() - begin < 10
    assert "more than 0.5 s" in events(store)[0]["reason"]
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 5
    while running(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not running(child)


def running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
