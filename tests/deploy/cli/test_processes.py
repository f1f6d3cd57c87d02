"""Commands as real processes, and a store in the place of bundle and release."""

import json
import signal
import subprocess
import threading
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.fleet import COMMAND, black, wait_for
from tests.deploy.support.sources import make_release

from edgecl_deploy.cli import device
from edgecl_deploy.format import digest
from edgecl_deploy.store.records import Phase
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.poll import poll

# -- real processes -----------------------------------------------------------------------------


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
    by_folders = json.loads(CliRunner().invoke(device, line).stdout)  # one line
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
