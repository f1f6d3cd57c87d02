"""The commands about a store, end to end: a signed channel, loopback HTTP, real self-tests."""

import datetime
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.deploy.support.fault_server import Fault, serving
from tests.deploy.support.sources import make_release, passes, release_digest
from tests.deploy.support.tuf_repository import PACKS, TufRepository, new_key
from tests.deploy.support.world import picture
from tuf.ngclient._internal import trusted_metadata_set

from edgecl_deploy.cli import device
from edgecl_deploy.format import Rollout, digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.records import Phase
from edgecl_deploy.store.store import Store
from edgecl_deploy.update import machine
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.poll import poll
from edgecl_deploy.update.trust import Trust

DAY = 86400.0
ATTENTION = 3
COMMAND = [sys.executable, "-c", "from edgecl_deploy.cli import main; main()"]


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Fleet:
    """A publisher, its server, and one device."""

    def __init__(self, world, server, development=False):
        self.world, self.server = world, server
        self.repo = TufRepository(world.root / "site", development)
        server.folder = self.repo.folder
        (world.root / "root.json").write_bytes(self.repo.root)
        self.path = world.root / "store"

    def run(self, command, *arguments):
        line = [command, str(self.path), *map(str, arguments)]
        return CliRunner().invoke(device, line, catch_exceptions=False)

    def ok(self, command, *arguments, status=0):
        """The JSON of a command that ends with this status."""
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == status, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    def init(self, *options, status=0, **changes):
        given = {
            "bundle": self.world.bundle_path,
            "root": self.world.root / "root.json",
            "channel": self.server.url,
            "device-id": "device-1",
            "trial-seconds": 0,
            **changes,
        }
        words = [word for key, value in given.items() for word in (f"--{key}", value)]
        return self.ok("init", *words, *options, status=status)

    def publish(self, number, made=None, **fields):
        made = made or make_release(self.world, number)
        data = made.release.to_bytes()
        for manifest in (data, *made.manifests.values()):
            self.repo.add_object(manifest, "json")
        for blob in made.blobs.values():
            self.repo.add_object(blob)
        own = {
            "number": number,
            "release": digest(data),
            "size": len(data),
            "backbone": made.release.backbone,
        }
        self.repo.add_channel(**{**own, **fields})
        self.repo.publish("targets", "releases", PACKS)
        return made

    def update(self, *arguments):
        return self.run("update", *arguments)

    def takes(self, *numbers):
        for number in numbers:
            self.publish(number)
            assert self.update().exit_code == 0

    @property
    def store(self):
        return Store.open(self.path)

    @property
    def release(self):
        generation = self.store.serving()
        return None if generation is None else generation.release

    def limit(self, **changes):
        words = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        self.ok("config", *words)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("none")) as server:
        yield server


@pytest.fixture
def fleet(world, one_server):
    one_server.reset()
    return Fleet(world, one_server)


@pytest.fixture
def device_1(fleet):
    """A device that took release 1."""
    fleet.init()
    fleet.publish(1)
    source = Trust(fleet.path, fleet.repo.root, fleet.server.url)
    assert machine.update(fleet.store, source, test=passes).outcome is Outcome.UPDATED
    return fleet


# -- a whole life -------------------------------------------------------------------------------


def test_a_device_from_its_first_day_to_a_bad_release(fleet, tmp_path):
    fleet.publish(1)
    made = fleet.init()
    assert made == {
        "store": str(fleet.path), "device": "device-1", "channel": "stable", "release": None,
        "development": False,
    }  # fmt: skip
    first = fleet.ok("status", status=ATTENTION)
    assert first["attention"] == ["no release serves: run `edgecl-device update`"]
    assert fleet.update().stdout.startswith("updated: release 1 serves (")
    assert fleet.update("--json").exit_code == Outcome.UP_TO_DATE.value

    fleet.publish(2)
    result = fleet.ok("update")
    assert (result["outcome"], result["release"], result["offered"]) == ("updated", 2, 2)
    assert result["fetched"] > 0
    now = fleet.ok("status")
    assert (now["release"], now["generation"], now["phase"], now["attention"]) == (
        2, 2, "committed", [],
    )  # fmt: skip
    assert (now["last"]["outcome"], now["clock"], now["free"] > 0) == ("updated", "ok", True)
    assert set(now["expires"]) == {"root", "timestamp", "snapshot", "targets"}
    assert all(end > time.time() + 29 * DAY for end in now["expires"].values())

    fleet.publish(3, make_release(fleet.world, 3, wrong=1.0))
    bad = fleet.update()
    assert (bad.exit_code, bad.stdout) == (26, "")
    assert bad.stderr.startswith("pretest-failed: release 3 failed its test: SelfTestError")
    assert bad.stderr.count("\n") == 1
    assert fleet.update().exit_code == Outcome.DENIED.value
    assert fleet.ok("status", status=ATTENTION)["denied"].keys() == {
        release_digest(make_release(fleet.world, 3, wrong=1.0))
    }
    assert fleet.release == 2

    Image.fromarray(picture("green")).save(tmp_path / "green.png")
    assert fleet.ok("classify", tmp_path / "green.png")[0]["label"] == "green"
    assert fleet.ok("info")["release"]["number"] == 2
    assert fleet.ok("bench", "--seconds", "0")["release"] == 2

    events = fleet.ok("history")
    assert events[0]["event"] == "init"
    outcomes = [each["outcome"] for each in events if each["event"] == "update"]
    assert outcomes == ["updated", "updated", "pretest-failed", "denied"]
    text = fleet.run("history", "--last", "2").stdout
    assert text.count("\n") == 2
    assert "denied: release 3 failed here before" in text


def test_an_update_from_a_folder_needs_no_network(device_1, tmp_path):
    device_1.publish(2)
    os.rename(device_1.repo.folder, tmp_path / "usb stick")
    before = len(device_1.server.asked)
    assert device_1.update("--from", tmp_path / "usb stick").exit_code == 0
    assert (device_1.release, len(device_1.server.asked)) == (2, before)
    assert device_1.update("--from", (tmp_path / "usb stick").as_uri()).exit_code == 10
    assert device_1.update().exit_code == Outcome.OFFLINE.value  # config.json has not changed
    assert device_1.update("--from", "ftp://host/site").exit_code == 2


def test_a_folder_may_be_the_channel(fleet, monkeypatch):
    monkeypatch.chdir(fleet.world.root)
    fleet.publish(1)
    fleet.init(channel="site", bundle="bundle")
    config = fleet.ok("config")
    assert config["url"] == str(fleet.world.root / "site")
    assert config["bundle"] == str(fleet.world.bundle_path)
    monkeypatch.chdir("/")
    assert fleet.update().exit_code == 0


def test_the_factory_release_serves_from_the_first_day(fleet):
    release = fleet.world.release("red", "green")
    assert fleet.init("--release", release)["release"] == 1
    assert fleet.ok("status")["release"] == 1


def test_another_channel_is_another_name(fleet):
    fleet.publish(5, name="line-7")
    fleet.init(name="line-7")
    assert fleet.ok("update")["offered"] == 5


# -- the first day ------------------------------------------------------------------------------


def test_only_a_root_of_trust_that_signs_itself_is_taken(fleet):
    root = fleet.world.root / "root.json"
    timestamp = (fleet.repo.folder / "metadata" / "timestamp.json").read_bytes()
    for data, found in (
        (timestamp, "found a timestamp.json."),
        (b"{}", "found DeserializationError"),
        (fleet.repo.root.replace(b'"version":1', b'"version":2'), "found UnsignedMetadataError"),
    ):
        root.write_bytes(data)
        result = fleet.run(
            "init", "--bundle", fleet.world.bundle_path, "--root", root, "--channel", "http://x"
        )
        assert (result.exit_code, found in result.stderr) == (1, True), result.stderr
        assert "metadata/1.root.json" in result.stderr
        assert not fleet.path.exists()


def test_a_store_is_made_once(fleet):
    fleet.init()
    arguments = ["--bundle", fleet.world.bundle_path, "--root", fleet.world.root / "root.json"]
    again = fleet.run("init", *arguments, "--channel", "http://x")
    assert again.exit_code == 1
    assert "must be a new or an empty folder; found a store" in again.stderr


@pytest.mark.parametrize(
    ("option", "value"), [("name", "Stable!"), ("trial-seconds", -1), ("trial-requests", -1)]
)
def test_a_setting_that_cannot_be_is_a_wrong_command_line(fleet, option, value):
    arguments = ["--bundle", fleet.world.bundle_path, "--root", fleet.world.root / "root.json"]
    result = fleet.run("init", *arguments, "--channel", "http://x", f"--{option}", value)
    assert result.exit_code == 2
    assert not fleet.path.exists()


def test_keys_for_development_are_reported(world, one_server):
    one_server.reset()
    fleet = Fleet(world, one_server, development=True)
    fleet.publish(1)
    assert fleet.init()["development"]
    assert "a channel for development only" in fleet.update().stdout
    assert fleet.ok("status")["development"]
    assert "for development only" in fleet.run("status").stdout


def test_no_store_is_one_line(fleet):
    for command in ("update", "status", "history", "rollback", "pin", "fsck", "gc", "watch"):
        result = fleet.run(command)
        assert result.exit_code == 1
        assert "Run `edgecl-device init` first." in result.stderr
        assert result.stderr.count("\n") == 1


# -- why nothing new serves ---------------------------------------------------------------------


def offers(**fields):
    return lambda fleet, patch: fleet.publish(2, **fields)


def published(act):
    def arrange(fleet, patch):
        fleet.publish(2)
        act(fleet, patch)

    return arrange


def full(fleet, patch):
    def reserve(*_):
        raise OSError(errno.ENOSPC, "full")

    patch.setattr(Disk, "reserve", reserve)


def rotten(fleet, patch):
    def write_generation(*_):
        raise OSError(errno.EIO, "rotten")

    patch.setattr(Store, "write_generation", write_generation)


def expired(fleet, patch):
    fleet.repo.expire("timestamp")
    fleet.repo.publish()


def malformed(fleet, patch):
    fleet.repo.add_object(b"{}", "json")
    fleet.publish(2, release=digest(b"{}"), size=2)


def other_publisher(fleet, patch):
    fleet.repo.keys["releases"] = [new_key(), new_key()]
    fleet.publish(2)


def other_backbone(fleet, patch):
    fleet.publish(2, backbone=digest(b"other"))


def wrong_canaries(fleet, patch):
    fleet.publish(2, make_release(fleet.world, 2, wrong=1.0))


REASONS = {
    Outcome.UP_TO_DATE: (lambda fleet, patch: None, "release 1 serves"),
    Outcome.WAITING: (offers(rollout=Rollout("r", 2**40, 9, 100)), "rolled out to 0%"),
    Outcome.HALTED: (offers(halted=True), "halted by its publisher"),
    Outcome.PINNED: (published(lambda f, _: f.ok("pin", 1)), "pinned to release 1"),
    Outcome.DENIED: (published(lambda f, _: deny(f, 2)), "failed here before: by hand"),
    Outcome.INHIBITED: (
        published(lambda f, _: (f.path / INHIBIT / "busy").touch()),
        "`inhibit` holds a file",
    ),
    Outcome.INCOMPATIBLE: (other_backbone, "needs the backbone"),
    Outcome.OFFLINE: (lambda f, _: f.server.faults.update({"/": Fault(503)}), "must answer"),
    Outcome.STALE: (published(expired), "must be in force"),
    Outcome.UNTRUSTED: (other_publisher, "must be signed"),
    Outcome.NO_SPACE: (published(full), "full"),
    Outcome.REFUSED: (malformed, "must have the field"),
    Outcome.PRETEST_FAILED: (wrong_canaries, "failed its test"),
    Outcome.ROLLED_BACK: (published(lambda f, _: f.limit(trial_requests=1)), "was undone"),
    Outcome.FAILED: (published(rotten), "rotten"),
}


LASTING = {14, 20, 22, 23, 24, 25, 26, 27, 28}  # what does not mend itself


def deny(fleet, number):
    store = fleet.store
    with store.lock():
        store.deny(release_digest(make_release(fleet.world, number)), "by hand")


@pytest.mark.parametrize("outcome", REASONS, ids=lambda outcome: outcome.word)
def test_every_reason_has_its_status_and_one_line(device_1, monkeypatch, outcome):
    arrange, reason = REASONS[outcome]
    with monkeypatch.context() as patch:
        arrange(device_1, patch)
        result = device_1.update()
    assert result.exit_code == outcome.value, result.output
    line = result.stdout if outcome is Outcome.UP_TO_DATE else result.stderr
    assert result.output == line
    assert line.startswith(f"{outcome.word}: ")
    assert reason in line
    assert line.count("\n") == 1
    assert device_1.release == 1
    assert device_1.ok("classify", black(device_1))[0]["error"] is None
    status = device_1.run("status")
    lasts = outcome.value in LASTING
    assert status.exit_code == (ATTENTION if lasts else 0), status.output
    assert (f"ATTENTION  the last update: {outcome.word}: " in status.stdout) == lasts


def black(fleet):
    path = fleet.world.root / "black.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def test_the_statuses_are_in_the_help():
    text = " ".join(CliRunner().invoke(device, ["update", "--help"]).stdout.split())
    for outcome in Outcome:
        assert f" {outcome.value} {outcome.word} " in f"{text} "


def test_a_busy_store_has_one_status_in_every_command(device_1):
    store = device_1.store
    with store.lock():
        for line in (
            ["update"], ["rollback"], ["pin", "1"], ["gc"], ["fsck", "--repair"],
            ["config", "rate_kbps=5"],
        ):  # fmt: skip
            result = device_1.run(*line)
            assert result.exit_code == Outcome.BUSY.value, line
            assert "one process at a time may change the store" in result.output
        for line in (["status"], ["history"], ["fsck"], ["config"]):
            assert device_1.run(*line).exit_code == 0, line


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
        0, f"{name}: other bytes\nremoved: 1; release 1 serves\n",
    )  # fmt: skip
    assert device_1.release == 1
    assert device_1.update().exit_code == 0  # it was not the release's fault: it comes again
    assert device_1.release == 2


def test_fsck_reports_that_nothing_whole_is_left(device_1):
    damage(device_1)
    assert device_1.ok("fsck", "--repair", status=ATTENTION)["release"] is None
    assert device_1.release is None
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


def no_floor(fleet, patch):
    (fleet.path / "floor.json").write_bytes(b"\0" * 9)


def late(fleet, patch):
    there, opened = time.time() + 31 * DAY, Store.open
    patch.setattr(Store, "open", staticmethod(lambda path: opened(path, None, lambda: there)))


CALLS = [
    (no_bundle, "the bundle: "),
    (missing_object, "release 1 is damaged: run `edgecl-device fsck --repair`"),
    (no_floor, "floor.json cannot be read"),
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
    assert "the clock is before a time that it showed: set it" in found["attention"]


def test_a_clock_twenty_years_ahead_stops_updates_and_nothing_else(device_1, monkeypatch):
    device_1.publish(2)
    now = moved(monkeypatch, 20 * 365 * DAY)
    result = poll(Store.open(device_1.path, now=now)).result
    assert (result.outcome, result.release) == (Outcome.STALE, 1)
    assert device_1.ok("classify", black(device_1))[0]["release"] == 1
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


# -- real processes -----------------------------------------------------------------------------


def wait_for(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def started(fleet, *words):
    line = [*COMMAND, words[0], str(fleet.path), *words[1:]]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_takes_releases_until_it_is_asked_to_stop(device_1, number):
    device_1.publish(2)
    with started(device_1, "watch", "--interval", "1", "--json") as process:
        try:
            wait_for(lambda: device_1.release == 2)
            device_1.publish(3)
            wait_for(lambda: device_1.release == 3)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [each["outcome"] for each in lines if each["outcome"] != "up-to-date"] == (
        ["updated"] * 2
    )
    assert all(0.5 <= each["next"] <= 1.5 for each in lines)


def test_watch_honours_retry_after(device_1):
    device_1.server.faults["timestamp"] = Fault(503, headers={"Retry-After": "900"})
    with started(device_1, "watch", "--interval", "1", "--json") as process:
        try:
            first = json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(20)
    assert (first["outcome"], first["next"]) == ("offline", 900)


def test_an_update_that_is_asked_to_stop_leaves_the_trial_to_the_next(device_1):
    device_1.publish(2)
    device_1.limit(trial_seconds=60)
    with started(device_1, "update", "--json") as process:
        try:
            wait_for(lambda: device_1.store.state.phase is Phase.TRIAL)
            process.terminate()
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == Outcome.STOPPED.value
    assert json.loads(out)["outcome"] == "stopped"
    assert device_1.store.state.attempts == 0
    device_1.limit(trial_seconds=0)
    assert device_1.update().exit_code == 0


def test_a_sigkill_in_the_trial_counts_as_a_start_and_the_next_update_goes_on(device_1):
    device_1.publish(2)
    device_1.limit(trial_seconds=60)
    with started(device_1, "update") as process:
        try:
            wait_for(lambda: device_1.store.state.phase is Phase.TRIAL)
        finally:
            process.kill()
    assert (device_1.release, device_1.store.state.attempts) == (2, 1)
    device_1.limit(trial_seconds=0)
    asked = len(device_1.server.asked)
    assert device_1.update().exit_code == 0
    assert len(device_1.server.asked) == asked
    assert device_1.ok("status")["last_good"] == 2


def test_eight_updates_at_once_have_one_winner(device_1):
    device_1.publish(2)
    device_1.limit(trial_seconds=1.5)
    store = device_1.path
    results = []

    def run():
        results.append(poll(Store.open(store)).result.outcome)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(Outcome.UPDATED) == 1
    assert set(results) == {Outcome.UPDATED, Outcome.BUSY}


# -- in the place of a bundle and a release -----------------------------------------------------


def test_a_store_takes_the_place_of_bundle_and_release(device_1):
    image = black(device_1)
    by_store = device_1.ok("classify", image, "--form", "staged", "--slots", "fixed")
    release = make_release(device_1.world, 1).write(device_1.world.root / "r1")
    line = ["classify", str(device_1.world.bundle_path), str(release), str(image), "--json"]
    by_folders = json.loads(CliRunner().invoke(device, line).stdout)
    assert by_store == by_folders
    info = device_1.ok("info")
    assert (info["release"]["number"], info["bundle"]["backbone"]) == (1, "mean-colour")


def test_too_few_or_too_many_words_are_a_wrong_command_line(device_1):
    assert device_1.run("classify").exit_code == 2
    assert device_1.run("bench", "a.png").exit_code == 2
    assert device_1.run("info", "more").exit_code == 2


def test_a_store_without_a_release_is_an_error_with_an_action(fleet):
    fleet.init()
    result = fleet.run("classify", black(fleet))
    assert (result.exit_code, "Run `edgecl-device update` first." in result.stderr) == (1, True)
    assert "release" not in fleet.ok("info")


def test_a_pack_of_another_interface_is_incompatible(device_1):
    made = make_release(device_1.world, 2)
    other = replace(made, release=replace(made.release, interface=digest(b"other")))
    device_1.publish(2, other)
    assert device_1.update().exit_code == Outcome.INCOMPATIBLE.value
