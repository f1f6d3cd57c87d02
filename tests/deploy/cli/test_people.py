"""People's slips: root in a store of another user, a umask, a full disk, a command in between."""

import errno
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.deploy.support.faults import ended, in_a_child
from tests.deploy.support.rot import Rot
from tests.deploy.support.sources import MemorySource, make_release, passes
from tests.deploy.support.tuf_repository import PACKS
from tests.deploy.support.world import World

import edgecl_deploy
from edgecl_deploy.cli import device
from edgecl_deploy.format import digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.owner import act_as_owner
from edgecl_deploy.store.store import Store
from edgecl_deploy.update import operate
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome

USER = 65534
COMMANDS = [
    ["rollback", "--keep"], ["pin", "1"], ["config", "rate_kbps=9"], ["gc"], ["fsck", "--repair"],
    ["status"], ["history"], ["update"],
]  # fmt: skip


def as_root(store, command):
    """Run a command in a child, which may become somebody else; give its exit status."""
    name, *more = command

    def work():
        os.umask(0o077)
        result = CliRunner().invoke(device, [name, str(store), *more])
        os._exit(result.exit_code)

    return ended(in_a_child(work))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which acts as somebody else")
def test_a_command_of_root_leaves_the_owners_files(world):
    """One `update` by root, and every later one by the timer ended with 28."""
    for each in pkgutil.walk_packages(edgecl_deploy.__path__, "edgecl_deploy."):
        with suppress(ModuleNotFoundError):  # of an engine that is not installed here
            importlib.import_module(each.name)  # the other user may not read this Python
    folder = Path(tempfile.mkdtemp())  # nor enter pytest's own folder
    try:
        folder.chmod(0o755)
        shutil.copytree(world.bundle_path, folder / "bundle")
        rot = Rot(World(folder, world.bundle), folder / "rot")
        rot.repo.publish("targets", "releases", PACKS)
        store = rot.fresh()
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, USER, USER, follow_symlinks=False)
        statuses = [as_root(store, command) for command in COMMANDS]
        assert statuses == [0, 0, 0, 0, 0, 3, 0, Outcome.DENIED.value]
        foreign = [path.name for path in store.rglob("*") if path.lstat().st_uid != USER]
        assert foreign == []
        documents = [path for path in store.rglob("*.json") if not path.is_symlink()]
        modes = {path.stat().st_mode & 0o777 for path in documents}
        assert modes <= {0o644, 0o444}
        assert len(documents) > 15
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which acts as somebody else")
def test_root_becomes_the_owner_of_the_folder(tmp_path):
    os.chown(tmp_path, USER, USER)
    child = os.fork()
    if child == 0:
        act_as_owner(tmp_path)
        os._exit(0 if (os.getuid(), os.getgid(), os.getgroups()) == (USER, USER, [USER]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.geteuid() == 0


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
def test_every_error_of_the_disk_is_one_line(device_1, monkeypatch, command, code):
    device_1.takes(2)
    if command[0] in {"gc", "fsck"}:  # so that they have something to do
        (device_1.path / "objects" / ("0" * 64)).write_bytes(b"rubbish")
        (device_1.path / "spare" / "root.json").write_bytes(b"moth")

    def fails(self, path, *_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), str(path))

    for name in ("write", "rename", "link", "remove"):
        monkeypatch.setattr(Disk, name, fails)
    result = device_1.run(*command)
    name = command[0]
    if name in {"status", "history"}:
        assert result.exit_code == 0
        return
    failed = Outcome.NO_SPACE.value if code == "ENOSPC" else Outcome.FAILED.value
    assert result.exit_code == (failed if name == "update" else 1), result.output
    assert len(result.stderr.splitlines()) == 1
    assert os.strerror(getattr(errno, code)) in result.stderr


class Slow(MemorySource):
    """A channel whose objects take long; it hears a stop as the real fetcher does."""

    def __init__(self, store):
        super().__init__()
        self.store, self.began = store, threading.Event()

    def fetch(self, target, sha256, size, to):
        self.began.set()
        end = time.monotonic() + 30
        while time.monotonic() < end and not self.store.wanted():
            time.sleep(0.02)
        super().fetch(target, sha256, size, to)


@pytest.mark.parametrize(
    "command", [["rollback", "--keep"], ["pin", "1"], ["gc"], ["config", "rate_kbps=9"]]
)
def test_a_command_takes_the_place_of_an_update_that_fetches(device_1, command):
    """An object may take half an hour."""
    device_1.takes(2)
    source, results = Slow(device_1.store), []
    source.publish(make_release(device_1.world, 3))
    thread = threading.Thread(
        target=lambda: results.append(update(device_1.store, source, test=passes))
    )
    thread.start()
    assert source.began.wait(10)
    begin = time.monotonic()
    assert device_1.run("status").exit_code == 0
    assert device_1.run(*command).exit_code == 0
    assert time.monotonic() - begin < 5
    thread.join(20)
    assert results[0].outcome is Outcome.STOPPED
    assert not device_1.store.wanted()
    assert device_1.release == (2 if command[0] in {"gc", "config"} else 1)


def test_a_command_waits_no_longer_than_it_says(device_1, monkeypatch):
    monkeypatch.setattr(operate, "PATIENCE", 0.3)
    with Store.open(device_1.path).lock():
        begin = time.monotonic()
        assert device_1.run("rollback").exit_code == Outcome.BUSY.value
        assert 0.2 < time.monotonic() - begin < 5


STUCK = """
import ctypes, sys, time
from edgecl_deploy.stopping import stop_on_signals
with stop_on_signals() as stop:
    print("ready", flush=True)
    ctypes.PyDLL(None).sleep(60) if sys.argv[1] == "held" else ctypes.CDLL(None).sleep(60)
    while True:
        ctypes.CDLL(None).sleep(60)
"""


def test_a_signal_is_heard_within_two_seconds_in_a_library(device_1):
    """A resolver of names, for example, goes on sleeping when a handler wants to run."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "free"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == Outcome.STOPPED.value
        assert time.monotonic() - begin < 2.5  # 1.7 and a loaded machine


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
@pytest.mark.parametrize("how", ["pretest", "hook"])
def test_a_child_ends_with_an_updater_that_is_killed(device_1, tmp_path, how):
    """In the drill every killed updater left one."""
    note = tmp_path / "child"
    if how == "hook":
        device_1.ok(
            "config", f'hook=["sh", "-c", "echo $$ >{note}.new; mv {note}.new {note}; sleep 60"]'
        )
        arguments = []
    else:
        code = f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        arguments = [tmp_path / "python"]
        (tmp_path / "child.py").write_text(
            "import os, sys, time\nfrom edgecl_deploy.update import child, pretest\n"
            f"child.tie(int(sys.argv[-1]))\n{code}\n"
        )
        arguments[0].write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/child.py" "$@"\n')
        arguments[0].chmod(0o755)
    device_1.publish(2)
    code = (
        "import sys; from edgecl_deploy.update.poll import poll; "
        "from edgecl_deploy.store.store import Store\n"
        "sys.executable = sys.argv[2] if len(sys.argv) > 2 else sys.executable\n"
        "poll(Store.open(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, device_1.path, *arguments]) as updater:
        end = time.monotonic() + 30
        while not (note.exists() and note.read_text().strip()):
            assert time.monotonic() < end
            time.sleep(0.02)
        process = int(note.read_text())
        assert alive(process)
        updater.kill()
    end = time.monotonic() + 5
    while alive(process):
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.02)


def test_settings_name_a_bundle_that_is_there(device_1, tmp_path):
    result = device_1.run("config", f"bundle={tmp_path}/typo")
    assert result.exit_code == 2
    assert "bundle.json must be there" in result.stderr


def test_an_exchanged_bundle_is_refused_until_it_is_named(device_1):
    """Weights changed, digests refitted."""
    path = device_1.world.bundle_path / "bundle.json"
    path.write_bytes(path.read_bytes().replace(b'"tests"', b'"other"'))
    for command in (["update"], ["fsck"]):
        result = device_1.run(*command)
        assert result.exit_code != 0
        assert "the one that this device was set up with" in result.output
    device_1.publish(2)
    device_1.ok("config", f"bundle={device_1.world.bundle_path}")
    assert device_1.update().exit_code == 0
    assert device_1.run("fsck").exit_code == 0


def test_data_that_the_bundle_does_not_list_is_not_loaded(device_1):
    folder = device_1.world.bundle_path
    bundle = json.loads((folder / "bundle.json").read_bytes())
    (folder / "weights.bin").rename(folder / "mores.bin")
    graph = folder / "plain.fused.onnx"
    old = graph.read_bytes()
    graph.write_bytes(old.replace(b"weights.bin", b"./mores.bin"))
    assert graph.read_bytes() != old
    (folder / "weights.bin").write_bytes((folder / "mores.bin").read_bytes())
    for program in bundle["programs"].values():
        if program["fused"]["file"] == graph.name:
            program["fused"]["sha256"] = digest(graph.read_bytes())
    (folder / "bundle.json").write_bytes(json.dumps(bundle).encode())
    device_1.ok("config", f"bundle={folder}")
    device_1.publish(2)
    result = device_1.update()
    assert result.exit_code == Outcome.FAILED.value
    assert "bundle.json must list every file that plain.fused.onnx names" in result.stderr
    assert device_1.release == 1
