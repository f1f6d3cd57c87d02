"""A process that follows a store: whatever the store comes to, it answers, and rightly."""

import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.support.sources import (
    MemorySource,
    make_release,
    make_store,
    objects_of,
    passes,
    release_digest,
)
from tests.deploy.support.world import COLOURS, World, picture

from edgecl_deploy import Classifier, follow
from edgecl_deploy.errors import DeployError, EngineError, OptionError, SelfTestError, StoreError
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store import store as store_module
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import Report, Reporter, read_reports
from edgecl_deploy.store.layout import CURRENT, GENERATIONS, HEALTH, OBJECTS
from edgecl_deploy.store.records import Limits, Phase
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome

TRIAL = Limits(trial_seconds=4.0)
NAMES = list(COLOURS)
PICTURES = [picture(name) for name in NAMES[:2]]
ROLLED_BACK = 5.0  # seconds from the start of an update of which the trial fails


def until(holds, seconds=5.0):
    """Wait; return whether it holds in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def source():
    return MemorySource()


@pytest.fixture
def store(world, tmp_path):
    return make_store(world, tmp_path / "store", make_release(world, 1))


@pytest.fixture
def opened():
    """`Classifier.open`, closed at the end."""
    classifiers = []

    def open_one(store, **options):
        classifiers.append(Classifier.open(store.path, threads=1, **options))
        return classifiers[-1]

    yield open_one
    for classifier in classifiers:
        classifier.close()


def take(store, source, made, **options):
    source.publish(made)
    return update(store, source, test=passes, **options)


def limit(store, limits):
    with store.lock():
        store.configure(replace(store.config, limits=limits))


def labels(classifier):
    return [each.label for each in classifier.predict(PICTURES)]


def point(store, number):
    with store.lock():
        store.switch(number)


# -- taking a release -----------------------------------------------------------------------------


def test_a_committed_release_answers_within_a_second(world, store, source, opened):
    classifier = opened(store)
    assert (classifier.release, labels(classifier)) == (1, NAMES[:2])
    for number in (2, 3, 4):
        source.publish(make_release(world, number))
        assert update(store, source).outcome is Outcome.UPDATED  # with the real test before it
        begin = time.monotonic()
        assert until(lambda number=number: classifier.release == number)
        assert time.monotonic() - begin < 1.0
        assert labels(classifier) == NAMES[:2]


def test_every_process_follows_for_itself(world, store, source, opened):
    classifiers = [opened(store) for _ in range(3)]
    take(store, source, make_release(world, 2))
    assert until(lambda: {each.release for each in classifiers} == {2})
    assert len({each._follower._reporter._path for each in classifiers}) == 3


def test_a_release_on_trial_gets_requests_and_reports_on_them(world, store, source, opened):
    limit(store, replace(TRIAL, trial_seconds=1.5, trial_requests=10))
    classifier = opened(store)
    done = threading.Event()

    def ask():
        while not done.is_set():
            classifier.predict(PICTURES)
            time.sleep(0.005)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        result = take(store, source, make_release(world, 2))
    finally:
        done.set()
        thread.join()
    assert result.outcome is Outcome.UPDATED
    (report,) = read_reports(store.path, 1)
    assert report.images >= 10
    assert (report.failed, report.error) == (0, "")


def test_a_trial_without_requests_is_rolled_back_if_they_are_asked_for(
    world, store, source, opened
):
    limit(store, Limits(trial_seconds=0.5, trial_requests=1))
    classifier = opened(store)
    result = take(store, source, make_release(world, 2))
    assert result.outcome is Outcome.ROLLED_BACK
    assert "0 images in 0.5 s; 1 must come" in result.reason
    assert until(lambda: classifier.release == 1)


def test_a_switch_there_and_back_between_two_reads_changes_nothing(world, store, source, opened):
    take(store, source, make_release(world, 2))
    classifier = opened(store)
    loaded, follower = classifier.loaded, classifier._follower
    for _ in range(20):
        point(store, 0)
        point(store, 1)
    time.sleep(3 * follow.LOOK)
    assert classifier.loaded is loaded
    assert follower._reported is None


def test_a_switch_back_while_a_release_is_loaded(world, store, source, opened):
    entered, go = threading.Event(), threading.Event()

    def accept(classifier):
        if classifier.release == 2:
            entered.set()
            go.wait(10)

    classifier = opened(store, accept=accept)
    take(store, source, make_release(world, 2))
    assert entered.wait(5)
    assert classifier.release == 1
    point(store, 0)  # the operator went back before release 2 was loaded
    go.set()
    assert until(lambda: classifier._follower._seen == 0)
    assert until(lambda: classifier.release == 1)
    time.sleep(2 * follow.LOOK)
    assert classifier.release == 1


# -- a release that fails in this process ---------------------------------------------------------


def bad_canaries(world):
    return make_release(world, 2, wrong=1.0)


def bad_numbers(world):
    tensors = {"prototypes": np.array([[np.nan, 0, 0]], np.float32)}
    return world.made(world.pack(0, ("red",), tensors=tensors), number=2)


def says_no(classifier):
    return "no reds any more" if classifier.release == 2 else None


def raises(classifier):
    if classifier.release == 2:
        raise KeyError("red")


@pytest.mark.parametrize(
    ("made", "accept", "reason"),
    [
        (bad_canaries, None, "an error of 1"),
        (bad_numbers, None, "must be finite"),
        (None, says_no, "no reds any more"),
        (None, raises, "KeyError"),
    ],
    ids=["canaries", "not-finite", "accept", "accept-raises"],
)
def test_a_release_that_fails_here_is_rolled_back(
    world, store, source, opened, made, accept, reason
):
    limit(store, TRIAL)
    classifier = opened(store, accept=accept)
    made = make_release(world, 2) if made is None else made(world)
    asked = []
    done = threading.Event()

    def ask():
        while not done.is_set():
            asked.append((classifier.predict(PICTURES)[0].release, *labels(classifier)))

    thread = threading.Thread(target=ask)
    thread.start()
    begin = time.monotonic()
    try:
        result = take(store, source, made)
    finally:
        done.set()
        thread.join()
    assert result.outcome is Outcome.ROLLED_BACK
    assert time.monotonic() - begin < ROLLED_BACK
    assert reason in result.reason
    assert reason in store.denied.releases[release_digest(made)]
    assert store.current() == 0
    assert set(asked) == {(1, *NAMES[:2])}
    assert take(store, source, made).outcome is Outcome.DENIED


def test_images_without_an_answer_end_a_trial(world, store, source, opened, fake_engine):
    limit(store, TRIAL)
    classifier = opened(store, engine="fake")
    session = type(classifier.loaded.bound._session)
    good = session.run

    def run(self, feeds):
        black = not feeds["image"].any()
        if black and len(feeds["prototypes"]) == 3:
            raise EngineError("it must run", "a bug", "Undo it.")
        return good(self, feeds)

    session.run = run
    done = threading.Event()
    black = np.zeros_like(PICTURES[0])
    failed = []

    def ask():
        while not done.is_set():
            try:
                classifier.predict([black])
            except DeployError as error:
                failed.append(str(error))
            time.sleep(0.001)

    thread = threading.Thread(target=ask)
    thread.start()
    begin = time.monotonic()
    try:
        result = take(store, source, make_release(world, 2, tasks=3))
        assert until(lambda: classifier.release == 1)
    finally:
        done.set()
        thread.join()
        session.run = good
    assert result.outcome is Outcome.ROLLED_BACK
    assert "images got no answer; 0 may" in result.reason
    assert failed
    assert time.monotonic() - begin < ROLLED_BACK
    assert len(classifier.predict([black])) == 1


def test_a_second_attempt_is_judged_by_new_reports(world, store, source, opened):
    limit(store, replace(TRIAL, trial_seconds=1.0))
    wrong = ["a missing camera"]

    def accept(classifier):
        return wrong[0] if wrong and classifier.release == 2 else None

    classifier = opened(store, accept=accept)
    made = make_release(world, 2)
    assert take(store, source, made).outcome is Outcome.ROLLED_BACK
    wrong.clear()
    result = take(store, source, made, retry=True)
    assert (result.outcome, result.reason) == (Outcome.UPDATED, "release 2 serves")
    assert until(lambda: classifier.release == 2)


def test_a_release_that_could_not_be_taken_is_tried_again(
    world, store, source, opened, monkeypatch
):
    monkeypatch.setattr(follow, "RETRY", 0.05)
    tries = []

    def accept(classifier):
        if classifier.release == 2:
            tries.append(time.monotonic())
            if len(tries) < 4:
                raise MemoryError("for now")

    classifier = opened(store, accept=accept)
    take(store, source, make_release(world, 2))
    assert until(lambda: classifier.release == 2)
    pauses = np.diff(tries)
    assert len(pauses) == 3
    assert pauses[2] > 0.15  # it looks less and less often
    before = len(tries)
    time.sleep(2 * follow.LOOK)
    assert len(tries) == before


def test_the_applications_own_test_is_not_counted_as_service(world, store, source, opened):
    def accept(classifier):
        classifier.predict(PICTURES)

    classifier = opened(store, accept=accept)
    assert (classifier.loaded.tally.images, classifier.loaded.tally.failed) == (0, 0)
    classifier.predict([*PICTURES, b"no image", "/no/such/file"])
    assert (classifier.loaded.tally.images, classifier.loaded.tally.failed) == (2, 0)
    take(store, source, make_release(world, 2))
    assert until(lambda: classifier.release == 2)
    assert classifier.loaded.tally.images == 0


# -- at the start ---------------------------------------------------------------------------------


@pytest.fixture
def second(world, store, source):
    """Release 2, which the store serves, as generation 1."""
    made = make_release(world, 2)
    assert take(store, source, made).outcome is Outcome.UPDATED
    return made


def own_object(world, store, made):
    """An object that only this release has."""
    name = min(set(made.blobs) - set(objects_of(make_release(world, 1))))
    return store.path / OBJECTS / name


def flip(world, store, made):
    path = own_object(world, store, made)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lose(world, store, made):
    own_object(world, store, made).unlink()


def garble(world, store, made):
    path = store.path / GENERATIONS / "000001.json"
    path.chmod(0o644)
    path.write_bytes(b"\0" * 100)


def dangle(world, store, made):
    (store.path / GENERATIONS / "000001.json").unlink()


def point_nowhere(world, store, made):
    (store.path / CURRENT).unlink()
    (store.path / CURRENT).symlink_to("/etc/passwd")


def point_at_nothing(world, store, made):
    (store.path / CURRENT).unlink()


def no_link(world, store, made):
    (store.path / CURRENT).unlink()
    (store.path / CURRENT).write_text("generations/000001.json")


@pytest.mark.parametrize(
    ("damage", "release"),
    [(flip, 1), (lose, 1), (garble, 1), (dangle, 1),
     (point_nowhere, 2), (point_at_nothing, 2), (no_link, 2)],
)  # fmt: skip
def test_the_last_good_release_answers_if_current_is_damaged(
    world, store, second, opened, damage, release
):
    damage(world, store, second)
    classifier = opened(store)
    assert (classifier.release, labels(classifier)) == (release, NAMES[:2])


def test_the_factory_answers_if_the_last_good_release_fails_too(world, store, source, opened):
    for number in (2, 3, 4):
        take(store, source, make_release(world, number))
    classifier = opened(store, accept=lambda each: None)
    assert classifier.release == 4
    asked = []

    def accept(each):
        asked.append(each.release)
        return "not here"

    assert opened(store, accept=accept).release == 3  # `accept` is asked about new ones only
    assert asked == [4]
    fails = make_release(world, 3)
    flip(world, store, fails)
    flip(world, store, make_release(world, 4))
    assert opened(store).release == 1


def test_a_mended_release_is_taken(world, store, second, opened, monkeypatch):
    monkeypatch.setattr(follow, "RETRY", 0.05)
    flip(world, store, second)
    classifier = opened(store)
    assert classifier.release == 1
    flip(world, store, second)
    assert until(lambda: classifier.release == 2)


def test_a_process_that_starts_in_a_trial_reports_to_the_update(world, store, source, opened):
    limit(store, TRIAL)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(take(store, source, make_release(world, 2, wrong=1.0)))
    )
    thread.start()
    try:
        assert until(lambda: store.current() == 1)
        assert opened(store).release == 1
    finally:
        thread.join()
    assert results[0].outcome is Outcome.ROLLED_BACK


def test_a_store_without_a_release_is_an_error(world, tmp_path):
    store = make_store(world, tmp_path / "store")
    with pytest.raises(StoreError, match="Run `edgecl-device update` first"):
        Classifier.open(store.path)
    assert list((store.path / HEALTH).iterdir()) == []


def test_a_bad_release_without_another_is_an_error_and_reported_while_on_trial(world, tmp_path):
    store = make_store(world, tmp_path / "store", make_release(world, 1, wrong=1.0))
    with pytest.raises(SelfTestError, match="Keep the former release"):
        Classifier.open(store.path)
    assert list((store.path / HEALTH).iterdir()) == []
    bare = make_store(world, tmp_path / "bare", limits=TRIAL)
    source, results = MemorySource(), []
    thread = threading.Thread(
        target=lambda: results.append(take(bare, source, make_release(world, 1, wrong=1.0)))
    )
    thread.start()
    try:
        assert until(lambda: bare.current() is not None)
        with pytest.raises(SelfTestError, match="Keep the former release"):
            Classifier.open(bare.path)
    finally:
        thread.join()
    assert results[0].outcome is Outcome.ROLLED_BACK
    assert bare.current() is None


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a bundle", "a file"])
def test_a_folder_that_is_no_store_is_an_error(world, tmp_path, what):
    path = world.bundle_path if what == "a bundle" else tmp_path / "elsewhere"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a file":
        path.write_bytes(b"")
    with pytest.raises(OptionError, match="make a store with `edgecl-device init`"):
        Classifier.open(path)


def test_a_damaged_configuration_is_a_named_error(store):
    path = store.path / "config.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DeployError, match=r"config\.json must be"):
        Classifier.open(store.path)


# -- the end --------------------------------------------------------------------------------------


def test_close_stops_the_thread_and_takes_the_report_back(world, store, source):
    limit(store, replace(TRIAL, trial_seconds=1.0))
    with Classifier.open(store.path, threads=1) as classifier:
        thread = classifier._follower._thread
        take(store, source, make_release(world, 2))
        assert len(list((store.path / HEALTH).iterdir())) == 1
        assert thread.is_alive()
    assert not thread.is_alive()
    assert list((store.path / HEALTH).iterdir()) == []
    classifier.close()  # again
    take(store, source, make_release(world, 3))
    time.sleep(2 * follow.LOOK)
    assert classifier.release == 2
    assert labels(classifier) == NAMES[:2]


def test_close_may_come_from_the_applications_test(world, store, source, opened):
    closed = []

    def accept(_):
        if store.current() == 1 and not closed:
            closed.append(True)
            classifier.close()

    classifier = opened(store, accept=accept)
    thread = classifier._follower._thread
    take(store, source, make_release(world, 2))
    assert until(lambda: not thread.is_alive())
    assert closed


def test_a_classifier_that_is_dropped_leaves_no_thread(world, store, source):
    limit(store, replace(TRIAL, trial_seconds=0.6))
    classifier = Classifier.open(store.path, threads=1)
    take(store, source, make_release(world, 2, wrong=1.0))  # an error was caught on the way, too
    thread, dead = classifier._follower._thread, weakref.ref(classifier)
    assert thread.is_alive()
    del classifier
    gc.collect()
    assert until(lambda: dead() is None and not thread.is_alive(), 2.0)
    assert list((store.path / HEALTH).iterdir()) == []


def test_a_classifier_that_follows_a_store_refuses_a_swap(world, store, opened):
    classifier = opened(store)
    path = make_release(world, 7).write(world.fresh())
    with pytest.raises(OptionError, match=r"close\(\) this one first"):
        classifier.swap(path)
    classifier.close()
    assert classifier.swap(path) == 7


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
