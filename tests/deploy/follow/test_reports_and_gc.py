"""The reports of processes that follow a store, and generations that go while they read."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.deploy.support.following import (
    NAMES,
    labels,
    limit,
    point,
    take,
    until,
)
from tests.deploy.support.sources import (
    make_release,
    make_store,
    objects_of,
    release_digest,
)
from tests.deploy.support.world import World

from edgecl_deploy import follow
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store import store as store_module
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import Report, Reporter, read_reports
from edgecl_deploy.store.layout import HEALTH
from edgecl_deploy.store.records import Limits, Phase
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome

# -- the folder of reports ------------------------------------------------------------------------

SERVICE = """
import os, sys, time
from pathlib import Path
import numpy as np
import logging, edgecl_deploy.follow, onnxruntime  # the other user may not read this Python
from edgecl_deploy import Classifier
store, user, image = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
if user:
    os.seteuid(user)
try:
    (store / "health" / "probe").write_text("")
except OSError:
    pass
else:
    sys.exit("health can be written")
picture = np.full((8, 8, 3), image, np.uint8)
with Classifier.open(store, threads=1) as classifier:
    print(classifier.release, flush=True)
    end = time.monotonic() + 20
    while classifier.release == 1 and time.monotonic() < end:
        classifier.predict([picture])
        time.sleep(0.01)
    print(classifier.release, classifier.predict([picture])[0].label, flush=True)
"""


def test_a_service_that_may_write_nowhere_follows_all_the_same(world, source):
    root = Path(tempfile.mkdtemp())  # another user cannot enter pytest's own folder
    try:
        root.chmod(0o755)
        shutil.copytree(world.bundle_path, root / "bundle")
        own = World(root, world.bundle)
        store = make_store(own, root / "store", make_release(own, 1))
        (store.path / HEALTH).chmod(0o555)
        limit(store, Limits(trial_seconds=0.5))
        user = 65534 if os.geteuid() == 0 else 0
        with subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(store.path), str(user), "(255, 0, 0)"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as service:
            try:
                assert service.stdout.readline() == "1\n", service.stderr.read()
                assert take(store, source, make_release(own, 2)).outcome is Outcome.UPDATED
                said, errors = service.communicate(timeout=30)
            finally:
                service.kill()
        assert (said, errors, service.returncode) == ("2 red\n", "", 0)
        assert list((store.path / HEALTH).iterdir()) == []
    finally:
        (root / "store" / HEALTH).chmod(0o755)
        shutil.rmtree(root)


def test_a_missing_or_blocked_folder_of_reports_changes_nothing(world, store, source, opened):
    classifier = opened(store)
    (store.path / HEALTH).rmdir()
    take(store, source, make_release(world, 2))
    assert until(lambda: classifier.release == 2)
    (store.path / HEALTH).write_bytes(b"")
    point(store, 0)
    assert until(lambda: classifier.release == 1)


def test_foreign_files_among_the_reports_do_no_harm(world, store, source):
    health = store.path / HEALTH
    reporter = Reporter(store.path)
    reporter.write(Report(5, 3, 1, "bad\x1b[2J \N{SNOWMAN}" + "x" * 1000))
    (report,) = read_reports(store.path, 5)
    assert report.error.startswith("bad\\x1b[2J \\u2603xxx")
    assert len(report.error) == 300
    assert (report.images, report.failed) == (3, 1)
    own = reporter._path.read_bytes()
    shutil.copy(reporter._path, health / f"{TEMPORARY}0123456789abcdef")  # not renamed yet
    (health / "folder.json").mkdir()
    (health / "link.json").symlink_to(reporter._path)
    os.mkfifo(health / "pipe.json")
    (health / "huge.json").write_bytes(b" " * 70_000)
    (health / "deep.json").write_bytes(b"[" * 60_000)
    for i, change in enumerate([
        {"generation": True},
        {"images": -1},
        {"failed": 0.5},
        {"error": ["x"]},
    ]):
        (health / f"{i}.json").write_text(json.dumps({**json.loads(own), **change}))
    reports = read_reports(store.path, 5)
    assert reports.count(report) == 1
    assert [each.error for each in reports if each != report] == ["no reason given"]
    (health / "terminal.json").write_text(json.dumps({**json.loads(own), "error": "\x1b[2J"}))
    assert "\\x1b[2J" in {each.error for each in read_reports(store.path, 5)}
    old = time.time() - 2 * 86400
    for path in health.iterdir():
        if not path.is_symlink():
            os.utime(path, (old, old))
    with store.lock():
        collect(store)
    assert {path.name for path in health.iterdir()} == {"folder.json", "link.json"}


def test_reports_stay_while_a_release_is_on_trial(store):
    reporter = Reporter(store.path)
    reporter.write(Report(1))
    os.utime(reporter._path, (1, 1))
    with store.lock():
        rested = store.state
        store.write_state(replace(rested, phase=Phase.TRIAL))
        collect(store)
        assert reporter._path.exists()
        store.write_state(rested)
        collect(store)
        assert not reporter._path.exists()


# -- a generation that is collected under a reader's eyes -----------------------------------------


def go_on(store, made):
    """The store goes on to another release, and what nobody needs is removed."""
    own = Store.open(store.path)
    with own.lock():
        for name, data in objects_of(made).items():
            if not own.has(name, len(data)):
                staged = own.path / "staging" / name
                own.disk.write(staged, data)
                own.add(staged, name)
        sizes = {name: len(data) for name, data in objects_of(made).items()}
        new = own.stage(made.release.number, release_digest(made), sizes)
        own.switch(new.number)
        return collect(own)


def test_a_reader_whose_generation_goes_before_it_is_opened_reads_again(
    world, store, source, monkeypatch
):
    take(store, source, make_release(world, 2))
    read, seen = Store.read, []

    def late(self, number):
        seen.append(number)
        if len(seen) == 1:
            assert go_on(store, make_release(world, 3)).generations == 1
        return read(self, number)

    with store.lock():
        store.write_state(replace(store.state, last_good=0))  # nothing keeps generation 1
    monkeypatch.setattr(Store, "read", late)
    number, files = store.read_current()
    assert (number, files.release.number) == (2, 3)
    assert seen == [1, 2]


def test_a_reader_whose_generation_goes_before_it_is_locked_reads_again(
    world, store, source, monkeypatch
):
    take(store, source, make_release(world, 2))
    flock, seen = fcntl.flock, []

    def late(handle, how):
        if how == fcntl.LOCK_SH:
            seen.append(os.fstat(handle.fileno()).st_nlink)
            if len(seen) == 1:
                assert go_on(store, make_release(world, 3)).generations == 1
        flock(handle, how)

    with store.lock():
        store.write_state(replace(store.state, last_good=0))
    monkeypatch.setattr(fcntl, "flock", late)
    number, files = store.read_current()
    assert (number, files.release.number) == (2, 3)
    assert seen == [1, 1]


def test_what_is_read_is_not_collected(world, store, source, monkeypatch):
    take(store, source, made := make_release(world, 2))
    read, gone = store_module.read_objects, []

    def slow(folder, release):
        gone.append(go_on(store, make_release(world, 3)).generations)
        return read(folder, release)

    with store.lock():
        store.write_state(replace(store.state, last_good=0))
    monkeypatch.setattr(store_module, "read_objects", slow)
    files = store.read(1)
    assert gone == [0]
    assert files.release.number == 2
    monkeypatch.undo()
    with store.lock():
        assert collect(store).generations == 1
    assert not store.has(release_digest(made), len(made.release.to_bytes()))


def test_a_reader_that_holds_a_release_needs_no_store(world, store, source, opened):
    classifier = opened(store)
    for number in range(2, 6):
        go_on(store, make_release(world, number))
        assert labels(classifier) == NAMES[:2]
    classifier.close()
    shutil.rmtree(store.path)
    assert labels(classifier) == NAMES[:2]


def test_a_store_that_vanishes_changes_nothing(store, opened):
    classifier = opened(store)
    store.path.rename(store.path.with_name("away"))
    time.sleep(2 * follow.LOOK)
    assert labels(classifier) == NAMES[:2]
    assert classifier._follower._thread.is_alive()
    store.path.with_name("away").rename(store.path)
    assert labels(classifier) == NAMES[:2]
