"""The script that halts a roll-out: stores of a canary group, their reports, a signed channel."""

import io
import json
import runpy
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.deploy.support.drifting import Stream, uniform
from tests.deploy.support.sources import Quick, make_release, make_store
from tests.deploy.support.world import make_world

from edgecl_deploy.cli import device
from edgecl_deploy.drift.keeping import NAME
from edgecl_deploy.drift.state import Mark
from edgecl_deploy.store.layout import LOCAL
from edgecl_export.channel import Repository
from edgecl_export.channel.cli import channel

SCRIPT = Path(__file__).parents[2] / "scripts" / "gate_rollout.py"
COMMAND = "from edgecl_deploy.commands import main; main()"


@contextmanager
def patched_arguments(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gate_rollout.py", *map(str, words)])
        yield


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return Group(make_world(tmp_path_factory.mktemp("world")))


class Group:
    """A channel with release 2, and devices that serve it."""

    def __init__(self, world):
        self.world, self.root = world, world.root
        self.made = make_release(world, 2)
        self.place = ["--site", str(self.root / "site"), "--keys", str(self.root / "keys")]
        self.run("init", str(self.root / "site"), "--keys", str(self.root / "keys"), "--dev")
        path = self.made.write(self.root / "release-2")
        self.run("publish", str(path), "--channel", "canary", "--bundle", str(world.bundle_path),
                 *self.place)  # fmt: skip
        self.command = self.root / "edgecl"
        self.command.write_text(f"#!{sys.executable}\n{COMMAND}\n")
        self.command.chmod(0o755)

    def run(self, *words, good=(0,)):
        line = [*words, *([] if "--json" in words else ["--json"])]
        result = CliRunner().invoke(channel, line, catch_exceptions=False)
        assert result.exit_code in good, result.output
        return json.loads(result.stdout)

    def report(self, name, number, typicality, **changes):
        """The report of a device after it saw images."""
        made = self.made if number == 2 else make_release(self.world, number)
        store = make_store(self.world, self.root / name, made, disk=Quick())
        with store.lock():
            store.configure(replace(store.config, device=name, **changes))
        serving = store.serving()
        mark = Mark(serving.digest, serving.release)
        stream = Stream(mark, run_length=store.config.drift_run_length).skip().tell(typicality)
        (store.path / LOCAL / NAME).write_bytes(stream.state.to_bytes())
        result = CliRunner().invoke(device, ["drift", str(store.path), "--json"])
        path = self.root / f"{name}.json"
        path.write_text(result.stdout)
        return path

    def gate(self, *paths, **options):
        """Run the script in this process, without the start of two others."""
        words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        script = runpy.run_path(str(SCRIPT))
        main, output = script["main"], io.StringIO()
        main.__globals__["_edgecl"] = lambda _, words, good: json.dumps(self.run(*words, good=good))
        with redirect_stdout(output), patched_arguments("canary", *paths, *self.place, *words):
            code = main()
        return code, json.loads(output.getvalue())

    def gate_by_itself(self, *paths):
        """Run the script as a script, with the command that it calls."""
        line = [sys.executable, SCRIPT, "canary", *paths, *self.place, "--edgecl", self.command]
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout)

    def like(self, path, name, **changes):
        """A copy of a report in which some fields are other ones."""
        copy = self.root / f"{name}.json"
        copy.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return copy

    @property
    def halted(self):
        found = Repository.open(self.root / "site", self.root / "keys").status()
        return found.channels[0].halted


def test_a_roll_out_is_halted_by_the_devices_that_see_drift(group):
    quiet = group.report("quiet", 2, uniform(600))
    short = group.report("short", 2, uniform(40))
    other = group.report("other", 1, uniform(400, most=0.3))  # an alarm of another release
    broken = group.root / "broken.json"
    broken.write_text('{"device": "broken"}')
    code, said = group.gate(short, other, broken)
    assert (code, said["result"]) == (3, "waits for more images")
    assert list(said["unread"]) == [str(broken)]
    code, said = group.gate(short, quiet, other)
    assert (code, said["devices"], said["quiet"], said["alarms"]) == (0, 2, 1, [])
    drifts = group.report("drifts", 2, uniform(400, most=0.3))
    code, said = group.gate(quiet, drifts, most_alarms=1)
    assert (code, said["alarms"]) == (0, ["drifts"])
    assert not group.halted
    code, said = group.gate_by_itself(quiet, drifts)
    assert (code, said["result"], said["alarms"]) == (4, "is halted", ["drifts"])
    assert group.halted
    assert group.gate(quiet)[0] == 4  # as long as it is
    group.run("resume", "canary", *group.place)
    assert group.gate(quiet)[0] == 0


def test_a_release_that_no_device_can_test_waits(group):
    quiet = group.report("tests", 2, uniform(600))
    untested = group.like(quiet, "untested", device="untested", histogram=None)
    wrong = group.like(quiet, "wrong", device="wrong", histogram=[10**6, -1])
    nested = group.root / "nested.json"
    nested.write_text("[" * 1024 * 1024)
    code, said = group.gate(untested, wrong, nested)
    assert (code, said["devices"], said["quiet"]) == (3, 1, 0)
    assert sorted(said["unread"]) == [str(nested), str(wrong)]
    assert group.gate(quiet)[0] == 0


def test_of_two_reports_of_a_device_the_one_with_an_alarm_counts(group):
    quiet = group.report("twice", 2, uniform(600))
    camera = group.like(quiet, "camera", alarm=True, cause="camera")
    world = group.like(quiet, "world", alarm=True, cause="world")
    for paths, counts, alarms in (
        ((world, camera, quiet), world, ["twice"]),
        ((quiet, camera, world), world, ["twice"]),
        ((camera, quiet), camera, []),
    ):
        code, said = group.gate(*paths, most_alarms=1)
        assert (code, said["devices"], said["quiet"], said["alarms"]) == (3, 1, 0, alarms)
        assert set(said["unread"]) == {str(each) for each in paths if each != counts}
