"""A process that follows a store from its start to its end, whatever the store holds."""

import gc
import threading
import time
import weakref
from dataclasses import replace

import pytest
from tests.deploy.support.following import NAMES, TRIAL, labels, limit, take, until
from tests.deploy.support.sources import (
    MemorySource,
    make_release,
    make_store,
    objects_of,
)

from edgecl_deploy import Classifier, follow
from edgecl_deploy.errors import AcceptError, DeployError, OptionError, SelfTestError, StoreError
from edgecl_deploy.store.layout import CURRENT, GENERATIONS, HEALTH, OBJECTS
from edgecl_deploy.update.outcome import Outcome

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
    [(flip, 1), (lose, 1), (garble, 2), (dangle, 1),
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
    for path in (store.path / "config.json", store.path / "spare" / "config.json"):
        assert Classifier.open(store.path).release == 1  # one copy is enough
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


def test_the_only_release_does_not_answer_if_the_application_refuses_it(store):
    def accept(classifier):
        raise ValueError("not that one")

    with pytest.raises(AcceptError, match="not that one"):
        Classifier.open(store.path, accept=accept)
