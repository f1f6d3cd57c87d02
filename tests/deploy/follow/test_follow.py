"""A process that follows a store: it takes releases, and refuses those that fail in it."""

import errno
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.following import (
    NAMES,
    PICTURES,
    ROLLED_BACK,
    TRIAL,
    labels,
    limit,
    point,
    take,
    until,
)
from tests.deploy.support.sources import (
    make_release,
    release_digest,
)
from tests.deploy.support.world import picture

from edgecl_deploy import follow, serving
from edgecl_deploy.errors import DeployError, EngineError
from edgecl_deploy.store.health import read_reports
from edgecl_deploy.store.records import Limits
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome

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
    assert result.outcome is Outcome.FAILED
    assert "0 images in 0.5 s; 1 must come" in result.reason
    assert store.denied.releases == {}
    assert until(lambda: classifier.release == 1)


def test_a_switch_there_and_back_between_two_reads_changes_nothing(
    world, store, source, opened, monkeypatch
):
    take(store, source, make_release(world, 2))
    classifier = opened(store)
    loaded, follower = classifier.loaded, classifier._follower
    switching, current = threading.Lock(), follower._store.current

    def between_switches():
        with switching:
            return current()

    monkeypatch.setattr(follower._store, "current", between_switches)
    with switching:
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
    canary = (picture("red", 1), np.zeros((1, 1), np.float32))
    return world.made(world.pack(0, ("red",), tensors=tensors), number=2, canary=canary)


def says_no(classifier):
    return "no reds any more" if classifier.release == 2 else None


@pytest.mark.parametrize(
    ("made", "accept", "reason"),
    [
        (bad_canaries, None, "an error of 1"),
        (bad_numbers, None, "must be finite"),
        (None, says_no, "no reds any more"),
    ],
    ids=["canaries", "not-finite", "accept"],
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


def test_an_application_whose_own_test_breaks_denies_nothing(world, store, source, opened):
    limit(store, TRIAL)
    broken = [True]

    def accept(candidate):
        if broken and candidate.release == 2:
            raise KeyError("red")

    classifier = opened(store, accept=accept)
    result = take(store, source, made := make_release(world, 2))
    assert result.outcome is Outcome.FAILED
    assert "the application's fault" in result.reason
    assert "KeyError" in result.reason
    assert (store.denied.releases, classifier.release) == ({}, 1)
    broken.clear()
    assert take(store, source, made).outcome is Outcome.UPDATED


@pytest.mark.parametrize("how", ["said", "unsaid"])
def test_an_application_that_is_short_of_files_tries_again(
    world, store, source, opened, monkeypatch, how
):
    """EMFILE says nothing about a release, whether an engine names it or not."""
    monkeypatch.setattr(follow, "RETRY", 0.05)
    limit(store, Limits(trial_seconds=1.5, trial_requests=0))
    classifier = opened(store)
    real, tries = serving.Serving.take, []

    def take_it(self, *args):
        tries.append(args)
        if len(tries) < 4:
            if how == "said":
                raise OSError(errno.EMFILE, "too many open files")
            raise EngineError("a graph must load", "a bug", "Report it.")
        return real(self, *args)

    monkeypatch.setattr(serving.Serving, "take", take_it)
    monkeypatch.setattr(follow, "_can_open", lambda: how == "said" or len(tries) >= 4)
    result = take(store, source, make_release(world, 2))
    assert (result.outcome, classifier.release) == (Outcome.UPDATED, 2), result.reason
    assert len(tries) == 4


def test_rot_that_only_the_application_meets_denies_nothing(world, store, source, opened):
    limit(store, TRIAL)
    opened(store)
    made = make_release(world, 2)

    def rots(store, generation):
        """The disk fails after the self-test."""
        path = store.path / "objects" / min(set(made.blobs) - set(make_release(world, 1).blobs))
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))

    source.publish(made)
    result = update(store, source, test=rots)
    assert result.outcome is Outcome.FAILED
    assert "the device's fault" in result.reason
    assert (store.denied.releases, store.current()) == ({}, 0)


def test_images_without_an_answer_end_a_trial(world, store, source, opened, fake_engine):
    limit(store, TRIAL)
    classifier = opened(store, engine="fake")
    session = type(classifier.loaded.bound._pinned.session)
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
