"""The commands that follow a channel: first day, updates, and why nothing new serves."""

import errno
import os
import time

import pytest
from click.testing import CliRunner
from PIL import Image
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.fleet import ATTENTION, DAY, Fleet, black, expired
from tests.deploy.support.sources import make_release, refuse, release_digest
from tests.deploy.support.tuf_repository import new_key
from tests.deploy.support.world import picture

from edgecl_deploy.cli import device
from edgecl_deploy.format import Rollout, digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.store import Store
from edgecl_deploy.update import operate
from edgecl_deploy.update.outcome import Outcome

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
    assert fleet.ok("classify", tmp_path / "green.png")["label"] == "green"
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
    untested = fleet.run("init", *fleet.words("--release", release))
    assert untested.exit_code == 1
    assert "must have canaries" in untested.stderr
    assert fleet.init("--release", release, "--untested")["release"] == 1
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
    Outcome.ROLLED_BACK: (published(lambda f, _: refuse(f.store)), "was undone"),
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
    assert device_1.ok("classify", black(device_1))["error"] is None
    status = device_1.run("status")
    lasts = outcome.value in LASTING
    assert status.exit_code == (ATTENTION if lasts else 0), status.output
    assert (f"ATTENTION  the last update: {outcome.word}: " in status.stdout) == lasts


def test_the_statuses_are_in_the_help():
    text = " ".join(CliRunner().invoke(device, ["update", "--help"]).stdout.split())
    for outcome in Outcome:
        assert f" {outcome.value} {outcome.word} " in f"{text} "


def test_a_busy_store_has_one_status_in_every_command(device_1, monkeypatch):
    monkeypatch.setattr(operate, "PATIENCE", 0.2)
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
