"""Whose fault is it: every row of the table in docs/operate.md, done to a device."""

import errno
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.deploy.support.sources import (
    MemorySource,
    fails,
    make_release,
    make_store,
    passes,
    refuse,
    release_digest,
)
from tests.deploy.support.updating import ROOT, Killed, limit, serves

from edgecl_deploy.errors import DeviceError, ManifestError
from edgecl_deploy.format import digest
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.update import machine
from edgecl_deploy.update.machine import MOST_WRITES, update
from edgecl_deploy.update.operate import rollback
from edgecl_deploy.update.outcome import Outcome

TEXT = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
TABLE = TEXT.split("#### Whose fault is it")[1].split("\n\n")[1]
ROWS = {
    cells[0]: cells[2]
    for line in TABLE.splitlines()[2:]
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
FULL = OSError(errno.ENOSPC, "full")


class Device:
    """A store that serves release 1, a channel that offers release 2, and what was done to them."""

    def __init__(self, world, tmp_path, monkeypatch):
        self.world, self.folder, self.patch = world, tmp_path, monkeypatch
        self.store = make_store(world, tmp_path / "store", make_release(world, 1))
        self.source = MemorySource()
        self.test = passes
        self.offer(make_release(world, 2))

    def offer(self, made, **fields):
        self.made = made
        self.source.publish(made, **fields)

    def update(self, **options):
        return update(self.store, self.source, **{"test": self.test, **options})

    def real_test(self, code, only_new=False):
        """Let the real self-test run; `code` runs in its process first, `generation` is known."""
        self.test = None
        when = 'generation != "0"' if only_new else "True"
        script = self.folder / "child.py"
        script.write_text(
            "import os, signal, sys, time\nfrom edgecl_deploy.update import pretest\n"
            f"generation = sys.argv[-2]\nif {when}:\n    {code}\n"
            "sys.exit(pretest.main(*sys.argv[-3:]))\n"
        )
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        self.patch.setattr(sys, "executable", str(python))

    def report(self, *reports):
        def test(store, generation):
            for report in reports:
                Reporter(store.path).write(replace(report, generation=generation.number))

        self.test = test


# -- what is the release's ------------------------------------------------------------------------


def malformed(device):
    bad = b"{}"
    device.source.objects[digest(bad)] = bad
    device.offer(device.made, release=digest(bad), size=len(bad))


def wrong_scores(device):
    device.test = None
    device.offer(make_release(device.world, 2, wrong=1.0))


def slow(device):
    limit(device.store, pretest_seconds=4.0)
    device.real_test("time.sleep(60)", only_new=True)


def never_ends(device):
    for _ in range(3):
        with pytest.raises(Killed):
            device.update(test=kill)


def kill(*_):
    raise Killed


def refused(device):
    device.report(Report(0, error="red is not red any more"))


def unanswered(device):
    device.report(Report(0, images=10, failed=1))


def trial_never_ends(device):
    limit(device.store, trial_seconds=60.0)
    for _ in range(3):
        with device.patch.context() as patch:
            patch.setattr(machine.time, "sleep", kill)
            with pytest.raises(Killed):
                device.update()
    limit(device.store, trial_seconds=0.0)


def circles(device):
    with device.patch.context() as patch:
        patch.setattr(machine.Update, "_verify", kill)
        for _ in range(MOST_WRITES + 1):
            with pytest.raises(Killed):
                device.update()


def operator(device):
    assert device.update().outcome is Outcome.UPDATED
    rollback(device.store, "the operator went back")


# -- what is the device's -------------------------------------------------------------------------


def busy(device):
    limit(device.store, pretest_seconds=2.0)
    device.real_test("time.sleep(60)")


def killed_outside(device):
    device.real_test("os.kill(os.getpid(), signal.SIGKILL)", only_new=True)


def nothing_to_compare(device):
    device.store = make_store(device.world, device.folder / "bare")
    limit(device.store, pretest_seconds=2.0)
    device.real_test("time.sleep(60)")


def rotten_bundle(device):
    device.test = None
    path = device.world.bundle_path / "weights.bin"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def no_engine(device):
    device.real_test("sys.modules.update(onnxruntime=None, openvino=None)", only_new=True)


def rotten_object(device):
    new = min(set(device.made.blobs) - set(make_release(device.world, 1).blobs))
    path = device.store.path / "objects" / new

    def test(store, generation):
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
        return machine.pretest(store, generation)

    device.test = test


def full_disk(device):
    for after in (2, 3):
        device.source.fail(after, FULL)


def unreadable_there(device):
    device.report(Report(0, error="other bytes", whose="device"))


def own_test_broke(device):
    device.report(Report(0, error="KeyError", whose="application"))


def silent(device):
    limit(device.store, trial_requests=1)


def cut_while_fetching(device):
    """Each start gets some bytes further."""
    part = device.store.path / "staging" / "part" / "x"
    with device.patch.context() as patch:
        patch.setattr(machine.Update, "_verify", kill)
        for number in range(3 * MOST_WRITES):
            part.write_bytes(b"x" * number)
            with pytest.raises(Killed):
                device.update()


# -- what is the channel's ------------------------------------------------------------------------


def contradicts(device):
    device.offer(make_release(device.world, 1), number=4)


def malformed_manifest(device):
    device.source.fail(1, ManifestError("channel manifest.number must be", "'x'", "Make it again."))


def later_version(device):
    data = device.made.release.to_bytes().replace(b"edgecl-release/1", b"edgecl-release/9")
    device.source.objects[digest(data)] = data
    device.offer(device.made, release=digest(data), size=len(data))


def untestable(device):
    limit(device.store, untested=False)
    device.offer(make_release(device.world, 2, canary=False))


CASES = {
    "a manifest, pack or tensor file breaks the formats": malformed,
    "the self-test fails: wrong scores": wrong_scores,
    "the self-test passes a limit": slow,
    "the self-test never ended": never_ends,
    "the application refuses the release": refused,
    "images without an answer": unanswered,
    "the trial never ended": trial_never_ends,
    "the update goes in circles": circles,
    "the operator goes back": operator,
    "the release that serves fails the same test": busy,
    "the self-test is killed from outside": killed_outside,
    "no release serves, and only a limit": nothing_to_compare,
    "the bundle rotted": rotten_bundle,
    "the engine cannot be imported": no_engine,
    "an object rotted": rotten_object,
    "the disk is full": full_disk,
    "a process of the application is short": None,  # tests/deploy/follow/test_follow.py
    "the application cannot read the release": unreadable_there,
    "the application's own test breaks": own_test_broke,
    "the application is silent": silent,
    "the power fails while a release is fetched": cut_while_fetching,
    "the channel gives a known release another number": contradicts,
    "the channel's manifest is malformed": malformed_manifest,
    "a file is of a later version": later_version,
    "the release has no canaries": untestable,
}


def test_every_row_has_a_test():
    matched = {row: [case for case in CASES if row.startswith(case)] for row in ROWS}
    assert len(ROWS) == len(CASES)
    assert all(len(cases) == 1 for cases in matched.values()), matched


@pytest.fixture
def device(world, tmp_path, monkeypatch):
    return Device(world, tmp_path, monkeypatch)


@pytest.mark.parametrize("case", [case for case, arrange in CASES.items() if arrange])
def test_the_verdict_is_that_of_the_table(device, case):
    verdict = next(text for row, text in ROWS.items() if row.startswith(case))
    CASES[case](device)
    result = device.update()
    words = {outcome.word for outcome in Outcome if f"{outcome.value} {outcome.word}" in verdict}
    if words:
        assert result.outcome.word in words, result.reason
    elif "goes on" in verdict:
        assert result.outcome is Outcome.UPDATED, result.reason
    denied = device.source.channels["stable"].release in device.store.denied.releases
    assert denied == ("denied" in verdict), result.reason
    if device.store.current() is not None and result.outcome is not Outcome.UPDATED:
        assert serves(device.store) == 1


# -- more of the same -----------------------------------------------------------------------------


def test_a_release_that_was_committed_here_survives_any_manifest(device):
    """Three signed manifests about the release that serves led to the factory's."""
    for number in (2, 3):
        device.offer(make_release(device.world, number))
        assert device.update().outcome is Outcome.UPDATED
    made = make_release(device.world, 3)
    for fields in ({"number": 4}, {"number": 4, "size": 1}, {"size": 7, "number": 5}):
        device.offer(made, **fields)
        assert device.update().outcome is Outcome.UNTRUSTED
        assert device.update(retry=True).outcome is Outcome.UNTRUSTED
        assert (serves(device.store), device.store.denied.releases) == (3, {})
    device.offer(make_release(device.world, 4), size=7)  # not known here yet: the source refuses it
    assert device.update().outcome is Outcome.UNTRUSTED
    device.offer(make_release(device.world, 4), min_release=5)
    assert device.update().outcome is Outcome.UNTRUSTED
    assert device.store.denied.min_release == 0
    device.offer(make_release(device.world, 4))
    assert device.update().outcome is Outcome.UPDATED


def test_a_stored_object_and_another_size_of_it_deny_nothing(device):
    data = device.made.release.to_bytes()
    path = device.store.path / "objects" / digest(data)
    path.write_bytes(data)
    device.offer(device.made, size=len(data) + 1)
    result = device.update()
    assert (result.outcome, device.store.denied.releases) == (Outcome.UNTRUSTED, {})
    assert "must agree with the release" in result.reason
    assert path.exists()


def test_a_mended_bundle_needs_no_retry(device):
    rotten_bundle(device)
    assert device.update().outcome is Outcome.FAILED
    rotten_bundle(device)  # the same bit again
    assert device.update().outcome is Outcome.UPDATED


def test_a_self_test_that_is_killed_in_every_start_is_given_up(device):
    killed_outside(device)
    for _ in range(3):
        assert device.update().outcome is Outcome.FAILED
        assert device.store.denied.releases == {}
    assert device.update().outcome is Outcome.PRETEST_FAILED
    assert device.update().outcome is Outcome.DENIED


def test_a_self_test_that_is_killed_once_is_run_again(device):
    once = device.folder / "once"
    device.real_test(
        f"os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w'), os.kill(os.getpid(), 9))",
        only_new=True,
    )
    assert device.update().outcome is Outcome.UPDATED
    assert once.exists()


def test_a_device_error_is_no_start(device):
    def tired(store, generation):
        raise DeviceError("this device must be able", "not today", "Try again.")

    for _ in range(7):
        assert device.update(test=tired).outcome is Outcome.FAILED
    assert device.store.state.attempts == 0
    assert device.update().outcome is Outcome.UPDATED


def test_reports_of_an_earlier_trial_do_not_count(device):
    """An application that answered in a first trial, was killed, and left its report."""
    limit(device.store, trial_requests=10)
    device.report(Report(0, images=20))
    assert device.update().outcome is Outcome.UPDATED
    rollback(device.store, "again", deny=False)
    result = device.update(test=passes)
    assert (result.outcome, serves(device.store)) == (Outcome.FAILED, 1)
    assert "is the application running?" in result.reason


def test_a_full_list_of_denied_releases_admits_nothing(device, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.store.records.MOST_DENIED", 3)
    with device.store.lock():
        for number in range(3):
            device.store.deny(f"{number:064}", "x" * 300)
    result = device.update()
    assert (result.outcome, serves(device.store)) == (Outcome.FAILED, 1)
    assert "update --retry" in result.reason


def test_a_long_list_of_denied_releases_loses_reasons_only(device):
    held = {f"{number:064}": "x" * 300 for number in range(2999)}
    denied = replace(device.store.denied, releases=held).having(f"{2999:064}", "x" * 300)
    assert len(denied.releases) == 3000
    assert len(denied.to_bytes()) < 2**19
    assert denied.releases[f"{2999:064}"] == "x" * 300


def test_a_trial_that_fails_on_a_full_disk_is_undone(device, monkeypatch):
    """The switch back is made, and the next update ends what could not be written."""
    refuse(device.store)
    real = type(device.store.disk).write
    full = []

    def write(self, path: Path, data: bytes) -> None:
        if device.store.current() == 1:
            full.append(path.name)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, path, data)

    with monkeypatch.context() as patch:
        watch = machine.Update._watch

        def then_full(self, generation):
            patch.setattr(type(device.store.disk), "write", write)
            return watch(self, generation)

        patch.setattr(machine.Update, "_watch", then_full)
        result = device.update()
    assert full
    assert (result.outcome, serves(device.store)) == (Outcome.NO_SPACE, 1), result.reason
    assert "release 1 serves" in result.reason
    for _ in range(3):
        result = device.update()
    assert (result.outcome, serves(device.store)) == (Outcome.DENIED, 1), result.reason


def test_no_denial_is_left_out_of_the_log(device):
    device.test = fails
    device.update()
    events = [each for each in device.store.log.read() if each["event"] == "denied"]
    assert [each["digest"] for each in events] == [release_digest(device.made)]
    assert re.search("says no", events[0]["reason"])
