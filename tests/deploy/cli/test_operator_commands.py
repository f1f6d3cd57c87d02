"""The commands of an operator: rollback, pin, fsck, gc, status, config."""

import datetime
import json
import threading
import time
import types

import pytest
from tests.deploy.support.fleet import ATTENTION, DAY, black, expired, wait_for
from tuf.ngclient._internal import trusted_metadata_set

from edgecl_deploy.format import digest
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.records import Phase
from edgecl_deploy.store.store import Store
from edgecl_deploy.update import machine
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.poll import poll

# -- by hand ------------------------------------------------------------------------------------


def test_rollback_returns_to_the_release_before_and_denies_this_one(device_1):
    device_1.takes(2)
    change = device_1.ok("rollback", "--reason", "it sees ghosts")
    assert change == {"changed": True, "release": 1, "before": 2, "reason": "it sees ghosts"}
    assert device_1.release == 1
    denied = device_1.update()
    assert denied.exit_code == Outcome.DENIED.value
    assert "failed here before: it sees ghosts" in denied.stderr
    assert device_1.update("--retry").exit_code == 0
    assert device_1.release == 2


def test_rollback_may_keep_the_release_for_later(device_1):
    device_1.takes(2)
    text = device_1.run("rollback", "--keep").stdout
    assert text == "release 1 serves now: the operator went back\n"
    assert device_1.store.denied.releases == {}
    assert device_1.update().exit_code == 0


def test_rollback_goes_no_further_than_the_store_does(device_1):
    device_1.takes(2, 3)
    assert device_1.ok("rollback", "--keep")["release"] == 2
    result = device_1.run("rollback", "--keep")  # not to release 3, which is in the store
    assert result.exit_code == 1
    assert "the store must hold a release before 2; found none that is whole" in result.stderr
    assert device_1.release == 2


def test_rollback_does_not_go_below_what_the_publisher_demands(device_1):
    device_1.publish(2, min_release=2)
    assert device_1.update().exit_code == 0
    result = device_1.run("rollback")
    assert result.exit_code == 1
    assert "and not before 2, as the publisher demands" in result.stderr
    assert device_1.release == 2
    assert device_1.store.denied.releases == {}  # refused before anything was changed


def test_rollback_without_a_release_is_an_error(fleet):
    fleet.init()
    assert "Run `edgecl-device update` first." in fleet.run("rollback").stderr
    assert fleet.ok("rollback", "--if-trial")["changed"] is False


def test_rollback_if_trial_leaves_a_committed_release_alone(device_1):
    device_1.takes(2)
    assert device_1.ok("rollback", "--if-trial") == {
        "changed": False, "release": 2, "before": 2, "reason": "no release is on trial",
    }  # fmt: skip
    text = device_1.run("rollback", "--if-trial").stdout
    assert text == "release 2 serves, as before: no release is on trial\n"


class Killed(BaseException):
    """The process ends here."""


def killed_in_trial(fleet, monkeypatch):
    def sleep(_):
        raise Killed

    fleet.limit(trial_seconds=60)
    with monkeypatch.context() as patch:
        clock = {"monotonic": time.monotonic, "perf_counter": time.perf_counter}
        patch.setattr(machine, "time", types.SimpleNamespace(sleep=sleep, **clock))
        with pytest.raises(Killed):
            poll(fleet.store)
    assert fleet.store.state.phase is Phase.TRIAL


def test_rollback_if_trial_undoes_a_trial_that_was_interrupted(device_1, monkeypatch):
    device_1.publish(2)
    killed_in_trial(device_1, monkeypatch)
    about = device_1.ok("status", status=ATTENTION)["attention"]
    assert about == ["the trial of release 2 was interrupted: run `edgecl-device update`"]
    assert device_1.ok("rollback", "--if-trial")["release"] == 1
    assert (device_1.release, device_1.store.state.phase) == (1, Phase.COMMITTED)
    assert device_1.update().exit_code == Outcome.DENIED.value


@pytest.mark.parametrize("option", [["--if-trial"], []])
def test_rollback_makes_an_update_that_is_watching_undo_its_release(device_1, option):
    device_1.publish(2)
    device_1.limit(trial_seconds=60)
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(poll(device_1.store).result), daemon=True
    )
    thread.start()
    wait_for(lambda: device_1.store.state.phase is Phase.TRIAL)
    assert device_1.run("rollback", "--keep").exit_code == Outcome.BUSY.value
    begin = time.monotonic()
    change = device_1.ok("rollback", *option, "--reason", "the app crashed")
    assert time.monotonic() - begin < 5
    assert (change["changed"], change["release"], change["before"]) == (True, 1, 2)
    thread.join(10)
    assert outcomes[0].outcome is Outcome.ROLLED_BACK
    assert "the app crashed" in outcomes[0].reason
    assert list((device_1.path / "health").iterdir()) == []


def test_rollback_if_trial_while_another_fetches_is_nothing_to_do(device_1):
    store = device_1.store
    with store.lock():
        assert device_1.ok("rollback", "--if-trial")["changed"] is False


def test_rollback_that_was_cut_short_is_ended_and_not_repeated(device_1, monkeypatch):
    device_1.takes(2, 3)

    def switch(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "switch", switch)
        with pytest.raises(Killed):
            device_1.run("rollback")
    change = device_1.ok("rollback")
    assert (change["changed"], change["release"]) == (True, 2)
    assert device_1.release == 2
    assert len(device_1.store.denied.releases) == 1


def test_pin_goes_to_a_release_that_is_in_the_store(device_1):
    device_1.takes(2)
    assert device_1.ok("pin", 1) == {
        "changed": True, "release": 1, "before": 2, "reason": "release 1 was in the store",
    }  # fmt: skip
    assert (device_1.release, device_1.ok("status")["pinned"]) == (1, 1)
    assert device_1.update().exit_code == Outcome.PINNED.value
    assert device_1.ok("pin", "--off")["changed"] is False
    assert device_1.update().exit_code == 0
    assert (device_1.release, device_1.store.denied.releases) == (2, {})


def test_pin_names_what_may_be_installed_next(device_1):
    assert device_1.ok("pin", 3)["reason"] == "the next update may take release 3"
    device_1.publish(2)
    assert device_1.update().exit_code == Outcome.PINNED.value
    device_1.publish(3)
    assert device_1.update().exit_code == 0
    assert device_1.release == 3


def test_pin_without_a_number_holds_what_serves(device_1):
    assert device_1.run("pin").stdout == (
        "release 1 serves, as before: release 1 serves, and stays\n"
    )
    device_1.publish(2)
    assert device_1.update().exit_code == Outcome.PINNED.value
    assert "pinned     release 1" in device_1.run("status").stdout
    assert device_1.run("pin", 1, "--off").exit_code == 2


def test_pin_does_not_bring_back_a_denied_release(device_1):
    device_1.takes(2)
    device_1.ok("rollback")
    assert device_1.ok("pin", 2)["changed"] is False
    assert device_1.release == 1
    assert device_1.update().exit_code == Outcome.DENIED.value


def test_pin_is_refused_below_the_floor_and_during_a_trial(device_1, monkeypatch):
    device_1.publish(2, min_release=2)
    killed_in_trial(device_1, monkeypatch)
    below = device_1.run("pin", 1)
    assert below.exit_code == 1
    assert "a pinned release must be 2 or later" in below.stderr
    busy = device_1.run("pin", 2)
    assert busy.exit_code == Outcome.BUSY.value
    assert "no release may be on trial" in busy.stderr
    assert device_1.store.config.pinned is None


def test_pin_without_any_release_needs_a_number(fleet):
    fleet.init()
    assert fleet.run("pin").exit_code == 2
    assert fleet.ok("pin", 4)["release"] is None


# -- the disk -----------------------------------------------------------------------------------


def damage(fleet, release=1):
    store = fleet.store
    generation = next(each for each in store.generations().values() if each.release == release)
    name = generation.digest
    path = store.path / "objects" / name
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes(len(data)))
    return f"objects/{name}"


def test_fsck_finds_every_damaged_byte_and_after_repair_a_whole_release_serves(device_1):
    assert device_1.ok("fsck") == {"damaged": [], "release": 1}
    assert device_1.run("fsck").stdout == "damaged: 0; release 1 serves\n"
    device_1.takes(2)
    name = damage(device_1, 2)
    found = device_1.ok("fsck", status=ATTENTION)
    assert found["damaged"] == [{"what": name, "found": "other bytes"}]
    assert "damaged: 1; release 2 serves" in device_1.run("fsck").stdout  # it is there, and wrong
    fixed = device_1.run("fsck", "--repair")
    assert (fixed.exit_code, fixed.stdout) == (
        0, f"{name}: other bytes\nmended: 1; release 1 serves\n",
    )  # fmt: skip
    assert device_1.release == 1
    assert device_1.update().exit_code == 0  # it was not the release's fault: it comes again
    assert device_1.release == 2


def test_fsck_reports_that_nothing_whole_is_left(device_1):
    damage(device_1)
    assert device_1.ok("fsck", "--repair", status=ATTENTION)["release"] is None
    assert device_1.release == 1  # it is damaged, and nothing better is known
    assert "release 1 is damaged" in device_1.run("status").stdout
    assert device_1.update().exit_code == 0


def test_gc_removes_what_nobody_goes_back_to(device_1):
    (device_1.path / "objects" / digest(b"rubbish")).write_bytes(b"rubbish")
    assert device_1.ok("gc") == {"generations": 0, "objects": 1, "bytes": 7}
    assert device_1.run("gc").stdout.split() == ["generations", "0", "objects", "0", "bytes", "0"]


# -- its status ------------------------------------------------------------------------------


def test_status_is_short_for_people(device_1):
    text = device_1.run("status").stdout
    assert text.startswith("serves     release 1\n")
    assert f"channel    stable at {device_1.server.url}\n" in text
    assert "ATTENTION" not in text
    (device_1.path / INHIBIT / "calibrating").touch()
    assert "inhibited  calibrating" in device_1.run("status").stdout


def no_bundle(fleet, patch):
    (fleet.world.bundle_path / "bundle.json").unlink()


def missing_object(fleet, patch):
    name = next(iter(fleet.store.serving().objects))
    (fleet.path / "objects" / name).unlink()


def one_floor(fleet, patch):
    (fleet.path / "floor.json").write_bytes(b"\0" * 9)


def no_floor(fleet, patch):
    one_floor(fleet, patch)
    (fleet.path / "spare" / "floor.json").write_bytes(b"\0" * 9)


def other_bundle(fleet, patch):
    path = fleet.world.bundle_path / "bundle.json"
    path.write_bytes(path.read_bytes().replace(b'"tests"', b'"other"'))


def late(fleet, patch):
    there, opened = time.time() + 31 * DAY, Store.open
    patch.setattr(Store, "open", staticmethod(lambda path: opened(path, None, lambda: there)))


CALLS = [
    (no_bundle, "the bundle: "),
    (missing_object, "release 1 is damaged: run `edgecl-device fsck --repair`"),
    (one_floor, "floor.json is damaged: the next update mends it"),
    (no_floor, "floor.json cannot be read"),
    (other_bundle, "the bundle: the bundle in"),
    (late, "timestamp.json has expired on "),
]


@pytest.mark.parametrize(("arrange", "line"), CALLS)
def test_status_names_what_needs_attention(device_1, monkeypatch, arrange, line):
    arrange(device_1, monkeypatch)
    about = device_1.ok("status", status=ATTENTION)["attention"]
    assert any(each.startswith(line) for each in about), about
    assert f"ATTENTION  {line}" in device_1.run("status").stdout


def test_a_failure_is_settled_by_a_later_poll(device_1, monkeypatch):
    expired(device_1, monkeypatch)
    assert device_1.update().exit_code == Outcome.STALE.value
    assert device_1.run("status").exit_code == ATTENTION
    device_1.repo.expire("timestamp", 30)
    device_1.repo.publish()
    time.sleep(1.0)  # floor.json counts whole seconds
    assert device_1.update().exit_code == Outcome.UP_TO_DATE.value
    assert device_1.run("status").exit_code == 0


def test_a_foreign_line_in_the_log_is_no_obstacle(device_1):
    with (device_1.path / "log.jsonl").open("a") as file:
        file.write('{"event": "update"}\nnonsense\n[]\n')
    assert device_1.ok("status")["last"]["outcome"] == "updated"


def moved(monkeypatch, seconds):
    """Move python-tuf's clock, and give ours."""
    real, shift = datetime.datetime, datetime.timedelta(seconds=seconds)
    fake = types.SimpleNamespace(
        datetime=types.SimpleNamespace(now=lambda zone: real.now(zone) + shift),
        timezone=datetime.timezone,
    )
    monkeypatch.setattr(trusted_metadata_set, "datetime", fake)
    return lambda: time.time() + seconds


def test_a_clock_of_1970_updates_and_is_reported(device_1, monkeypatch):
    device_1.publish(2)
    now = moved(monkeypatch, -time.time() + 60)
    result = poll(Store.open(device_1.path, now=now)).result
    assert (result.outcome, result.clock) == (Outcome.UPDATED, "behind")
    opened = Store.open
    monkeypatch.setattr(Store, "open", staticmethod(lambda path: opened(path, None, now)))
    found = device_1.ok("status", status=ATTENTION)
    assert (found["clock"], found["release"]) == ("behind", 2)
    assert "the clock is before a time that was signed: set it" in found["attention"]


def test_a_clock_twenty_years_ahead_stops_updates_and_nothing_else(device_1, monkeypatch):
    device_1.publish(2)
    now = moved(monkeypatch, 20 * 365 * DAY)
    result = poll(Store.open(device_1.path, now=now)).result
    assert (result.outcome, result.release) == (Outcome.STALE, 1)
    assert device_1.ok("classify", black(device_1))["release"] == 1
    moved(monkeypatch, 0)
    assert device_1.update().exit_code == 0


# -- settings -----------------------------------------------------------------------------------


def test_config_shows_and_changes_settings(device_1):
    shown = device_1.ok("config")
    assert (shown["device"], shown["limits"]["trial_seconds"]) == ("device-1", 0)
    changed = device_1.ok(
        "config", "rate_kbps=200", "url=https://example.org/edgecl", "hook=/bin/echo 'a b'",
        "trial_failures=0.5", "channel=canary",
    )  # fmt: skip
    assert changed["limits"]["rate_kbps"] == 200
    assert changed["limits"]["trial_failures"] == 0.5
    assert (changed["url"], changed["channel"]) == ("https://example.org/edgecl", "canary")
    assert changed["hook"] == ["/bin/echo", "a b"]
    assert device_1.ok("config", "rate_kbps=null", "hook=[]")["limits"]["rate_kbps"] is None
    assert "trial_seconds" in device_1.run("config").stdout
    assert [e["event"] for e in device_1.ok("history")].count("config") == 2


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("speed=9", "Use bundle, channel, device"),
        ("pinned=3", "Use `edgecl-device pin`."),
        ("rate_kbps=fast", "rate_kbps must be"),
        ("attempts=0", "attempts must be"),
        ("channel=No Such", "channel must be"),
        ("rate_kbps", "a setting is NAME=VALUE"),
    ],
)
def test_config_refuses_what_cannot_be(device_1, setting, part):
    before = device_1.ok("config")
    result = device_1.run("config", "trial_requests=7", setting)
    assert result.exit_code == 2
    assert part in result.stderr
    assert device_1.ok("config") == before


def test_the_hook_gets_every_outcome(device_1):
    out = device_1.world.root / "heard"
    device_1.ok("config", f'hook=["sh", "-c", "cat >>{out}; echo >>{out}; exit 9"]')
    assert device_1.update().exit_code == Outcome.UP_TO_DATE.value  # not the hook's
    device_1.takes(2)
    heard = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["outcome"] for each in heard] == ["up-to-date", "updated"]
    assert heard[0]["device"] == "device-1"
    events = [each["event"] for each in device_1.ok("history")]
    assert events.count("hook failed") == 2


def test_the_rate_limit_reaches_the_fetcher(device_1):
    device_1.limit(rate_kbps=3)
    device_1.publish(2)
    result = device_1.ok("update")
    assert result["fetched"] > 5000
    assert result["seconds"]["check"] + result["seconds"]["fetch"] > 1.3


def test_a_store_is_one_whose_first_copy_of_the_settings_is_lost(device_1):
    (device_1.path / "config.json").unlink()
    assert device_1.ok("classify", black(device_1))["release"] == 1
