"""New releases over classes of the device: neither is in the way of the other."""

import errno
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from tests.deploy.support.enrolling import CYAN, DECLARED, PINK, YELLOW, release, shades
from tests.deploy.support.following import TRIAL, limit, take, until
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier, follow
from edgecl_deploy.enrol import deciding, enrolling, overlay
from edgecl_deploy.enrol.local import Local
from edgecl_deploy.errors import EngineError, NameTakenError, OptionError
from edgecl_deploy.update.outcome import Outcome

NEW, LEMON = shades(YELLOW, 5), shades(YELLOW, 1, seed=3)


def state(classifier):
    return {each.name: each.state for each in classifier.enrolled}


def updated(classifier, store, source, made):
    result = take(store, source, made)
    assert result.outcome is Outcome.UPDATED, result
    assert until(lambda: classifier.release == made.release.number)


def test_the_class_goes_on_with_the_next_release_of_the_run(toy, store, source, opened):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    updated(classifier, store, source, release(toy, 2, ("red", "green", "blue")))
    answer = classifier.predict(LEMON)[0]
    assert (answer.label, answer.release, answer.local) == ("lemon", 2, 1)
    assert classifier.classes == ("red", "green", "blue", "lemon")
    assert state(classifier) == {"lemon": "active"}
    assert classifier.self_test().images == 3  # of the release alone


def test_the_publisher_wins_a_name_until_somebody_decides(toy, store, source, opened):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    updated(classifier, store, source, release(toy, 2, lemon=CYAN))
    assert state(classifier) == {"lemon": "superseded"}
    assert "resolve" in classifier.enrolled[0].reason
    assert classifier.local == 0
    assert classifier.predict(LEMON)[0].label != "lemon"
    local = Local(store.path / "local")

    deciding.keep_both(local, "lemon")
    classifier.look()
    assert state(classifier) == {"lemon": "active"}
    assert {classifier.predict(each)[0].label for each in (LEMON, shades(CYAN, 1))} == {"lemon"}

    with pytest.raises(NameTakenError, match="Choose one"):
        deciding.rename(local, "lemon", "Red", classifier.classes)
    deciding.rename(local, "lemon", "citron", classifier.classes)
    classifier.look()
    assert (state(classifier), classifier.predict(LEMON)[0].label) == (
        {"citron": "active"},
        "citron",
    )

    updated(classifier, store, source, release(toy, 3))  # the publisher takes the class back
    assert state(classifier) == {"citron": "active"}
    deciding.remove(local, "citron")
    classifier.look()
    assert state(classifier) == {}


def test_more_images_of_a_class_rest_while_the_release_does_not_have_it(toy, store, source, opened):
    classifier = opened(store)
    classifier.enrol("green", shades(CYAN, 3))
    updated(classifier, store, source, release(toy, 2, ("red",)))
    assert state(classifier) == {"green": "suspended"}
    assert classifier.classes == ("red",)
    updated(classifier, store, source, release(toy, 3))
    assert state(classifier) == {"green": "active"}


def other_features(toy, number):
    """A release of the program `pool`, whose features depend on a learned shift."""
    packs = [toy.pack(task, (name,), program="pool") for task, name in enumerate(("red", "green"))]
    return toy.made(*packs, number=number)


def test_another_program_suspends_and_the_former_one_brings_it_back(toy, store, source, opened):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    updated(classifier, store, source, other_features(toy, 2))
    assert state(classifier) == {"lemon": "suspended"}
    assert "pool" in classifier.enrolled[0].reason
    assert classifier.classes == ("red", "green")
    updated(classifier, store, source, release(toy, 3))
    assert state(classifier) == {"lemon": "active"}
    assert classifier.predict(LEMON)[0].label == "lemon"


def declare_pool(toy, store):
    """Let `pool` take classes, with features that depend on its shift."""
    pool = replace(toy.bundle.programs["pool"], enrol=replace(DECLARED, depends=("shift",)))
    toy.bundle = replace(toy.bundle, programs={**toy.bundle.programs, "pool": pool})
    (toy.bundle_path / "bundle.json").write_bytes(toy.bundle.to_bytes())
    with store.lock():
        store.configure(replace(store.config, bundle_digest=None))


@pytest.mark.parametrize("keep", [False, True])
def test_other_features_suspend_a_class_unless_its_images_are_kept(
    toy, store, source, opened, keep
):
    declare_pool(toy, store)
    classifier = opened(store)
    classifier.enrol("lemon", NEW, keep_images=keep)
    assert classifier.enrolled[0].images_kept is keep
    updated(classifier, store, source, other_features(toy, 2))
    assert state(classifier) == {"lemon": "active" if keep else "suspended"}
    if keep:
        assert classifier.predict([picture("red"), *LEMON])[1].label == "lemon"
    else:
        assert "enrol the class again" in classifier.enrolled[0].reason
        classifier.enrol("lemon", NEW)
        assert [each.state for each in classifier.enrolled] == ["suspended", "active"]


def test_images_that_are_kept_run_once_and_one_that_is_damaged_rests_alone(
    toy, store, source, opened, monkeypatch
):
    declare_pool(toy, store)
    classifier = opened(store)
    classifier.enrol("lemon", NEW, keep_images=True)
    classifier.enrol("pink", shades(PINK, 3), keep_images=True)
    local = Local(store.path / "local")
    assert local.damages() == {}
    path = local.path / "objects" / local.read().kept[0].record.pixels.blob
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert list(local.damages()) == ["lemon"]
    runs = []
    run = overlay.features_of
    monkeypatch.setattr(
        overlay, "features_of", lambda base, images: runs.append(len(images)) or run(base, images)
    )
    updated(classifier, store, source, other_features(toy, 2))
    assert state(classifier) == {"lemon": "suspended", "pink": "active"}
    assert "its images are damaged" in classifier.enrolled[0].reason
    classifier.enrol("sky", shades(CYAN, 3))
    classifier.enrol("sky", shades(CYAN, 3, seed=2))
    assert state(classifier) == {"lemon": "suspended", "pink": "active", "sky": "active"}
    assert runs == [3]


def test_a_release_that_fails_its_self_test_is_refused_as_without_classes(
    toy, store, source, opened
):
    limit(store, replace(TRIAL, trial_seconds=1.0, untested=True))
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    zeros = np.zeros((1, 1), np.float32)
    wrong = toy.made(toy.pack(0, ("red",)), number=2, canary=(picture("red", 1), zeros))
    result = take(store, source, wrong)
    assert result.outcome is Outcome.ROLLED_BACK, result
    assert until(lambda: classifier.release == 1)
    assert classifier.predict(LEMON)[0].label == "lemon"


def test_a_class_that_would_take_the_new_releases_self_test_rests(toy, store, source, opened):
    classifier = opened(store)
    classifier.enrol("grass", shades((0.3, 0.9, 0.3), 4))
    classifier.enrol("lemon", NEW)
    updated(classifier, store, source, release(toy, 2, tilt=0.9))
    assert state(classifier) == {"grass": "suspended", "lemon": "active"}
    assert "self-test" in classifier.enrolled[0].reason


@pytest.mark.parametrize("error", [EngineError("a", "b", "c"), ValueError("x"), MemoryError()])
def test_an_overlay_that_cannot_be_made_leaves_the_release_alone(
    toy, store, source, opened, monkeypatch, error
):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)

    def broken(*_):
        raise error

    monkeypatch.setattr(overlay, "_overlay", broken)
    updated(classifier, store, source, release(toy, 2))
    assert state(classifier) == {"lemon": "suspended"}
    assert classifier.predict(LEMON)[0].local == 0


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many")])
def test_a_shortage_suspends_the_classes_only_until_it_is_over(toy, monkeypatch, error):
    path = release(toy, 1).write(toy.fresh())
    folder = toy.root / "mine"
    with Classifier.open(toy.bundle_path, path, local=folder) as classifier:
        classifier.enrol("lemon", NEW)
    tries = []

    def short(*_):
        tries.append(0)
        raise error

    clock = [0.0]
    monkeypatch.setattr(enrolling.time, "monotonic", lambda: clock[0])
    with monkeypatch.context() as now:
        now.setattr(overlay, "_overlay", short)
        classifier = Classifier.open(toy.bundle_path, path, local=folder)
        for seconds in (0.5, 1.5, 2.5, 3.5):
            clock[0] = seconds
            classifier.look()
        assert len(tries) == 3  # at once, after 1 and after 2 more seconds
        assert state(classifier) == {"lemon": "suspended"}
    clock[0] = 10.0
    classifier.look()
    assert state(classifier) == {"lemon": "active"}
    classifier.close()


def test_an_overlay_that_fails_is_dropped_in_the_same_call_and_counts_against_nobody(
    store, opened, monkeypatch
):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    loaded = classifier.loaded
    good = loaded.bound.run

    def broken(images):
        out = good(images)
        out.scores[:] = np.nan
        return out

    monkeypatch.setattr(loaded.bound, "run", broken)
    answers = classifier.predict([picture("red"), *LEMON])
    assert [each.error for each in answers] == [None, None]
    assert {(each.release, each.local) for each in answers} == {(1, 0)}
    assert classifier.loaded.tally.failed == 0
    assert state(classifier) == {"lemon": "suspended"}
    assert "NaN" in classifier.enrolled[0].reason
    monkeypatch.setattr(loaded.bound, "run", good)
    assert classifier.predict(LEMON)[0].local == 0  # it is not asked again
    classifier.enrol("pink", shades(PINK, 3))
    assert state(classifier) == {"lemon": "active", "pink": "active"}


def test_a_damaged_class_rests_and_the_others_go_on(store, opened):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    classifier.enrol("pink", shades(PINK, 3))
    local = Local(store.path / "local")
    blob = next(iter(local.read().kept[0].record.blobs))
    path = local.path / "objects" / blob
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = opened(store)
    assert state(again) == {"lemon": "suspended", "pink": "active"}
    assert "damaged" in again.enrolled[0].reason
    assert list(local.damages()) == ["lemon"]


def test_a_class_of_the_release_is_hidden_and_shown_again(store, opened):
    classifier = opened(store)
    local = Local(store.path / "local")
    red = [picture("red")]
    score = classifier.predict(red)[0]
    deciding.suppress(local, "red", classifier.classes)
    assert until(lambda: classifier.classes == ("green",))
    hidden = classifier.predict(red)[0]
    assert (hidden.label, [name for name, _ in hidden.top], hidden.local) == ("green", ["green"], 1)
    with pytest.raises(OptionError, match="Show another one first"):
        deciding.suppress(local, "green", ("red", "green"))
    with pytest.raises(OptionError, match="one of the release"):
        deciding.suppress(local, "blue", ("red", "green"))
    with pytest.raises(OptionError, match="must be hidden"):
        deciding.suppress(local, "green", ("red", "green"), off=True)
    assert deciding.suppress(local, "red", ("red", "green")) == 1  # nothing changes
    deciding.suppress(local, "red", ("red", "green"), off=True)
    assert until(lambda: classifier.classes == ("red", "green"))
    assert classifier.predict(red)[0] == score


def test_a_class_that_is_hidden_is_not_enrolled(store, opened):
    classifier = opened(store)
    local = Local(store.path / "local")
    classifier.enrol("lemon", NEW)
    deciding.suppress(local, "red", ("red", "green"))
    with pytest.raises(NameTakenError, match="suppress --off"):
        classifier.enrol("red", NEW)
    with pytest.raises(NameTakenError, match="Choose one"):
        deciding.rename(local, "lemon", "red", ("green",))


def test_a_hidden_class_stays_hidden_where_the_overlay_fails(store, opened, monkeypatch):
    classifier = opened(store)
    red = [picture("red")]
    classifier.enrol("lemon", NEW)
    deciding.suppress(Local(store.path / "local"), "red", ("red", "green"))
    classifier.look()
    loaded = classifier.loaded
    assert loaded.classes == ("green", "lemon")

    def broken(*_):
        raise EngineError("a", "b", "c")

    monkeypatch.setattr(loaded.bound, "run", broken)
    for _ in range(2):
        (answer,) = classifier.predict(red)
        assert (answer.label, [name for name, _ in answer.top]) == ("green", ["green"])
    assert state(classifier) == {"lemon": "suspended"}
    monkeypatch.setattr(overlay.means, "with_rows", broken)
    again = opened(store)
    assert state(again) == {"lemon": "suspended"}
    assert (again.classes, again.predict(red)[0].label) == (("green",), "green")


def test_decisions_about_what_is_not_there_say_so(store):
    local = Local(store.path / "local")
    for decide in (deciding.remove, deciding.keep_both):
        with pytest.raises(OptionError, match="enrolled list"):
            decide(local, "lemon")


def test_an_update_and_enrolments_do_not_wait_for_each_other(
    toy, store, source, opened, monkeypatch
):
    monkeypatch.setattr(follow, "LOOK", 0.01)
    classifier = opened(store)
    local = Local(store.path / "local")
    with store.lock():  # an update is at work
        classifier.enrol("lemon", NEW)
    with local.lock():  # somebody enrols
        updated(classifier, store, source, release(toy, 2))
    assert classifier.predict(LEMON)[0].label == "lemon"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_updates_and_enrolments_at_once(toy, store, source, opened, monkeypatch):
    monkeypatch.setattr(follow, "LOOK", 0.01)
    classifier, failed, rounds = opened(store), [], 1000
    made = [release(toy, number) for number in (2, 3)]

    def updates():
        for number in range(2, rounds + 2):
            other = made[number % 2]
            other.release = replace(other.release, number=number)
            result = take(store, source, other)
            if result.outcome is not Outcome.UPDATED:
                failed.append(result)

    def enrolments():
        for _ in range(rounds):
            classifier.enrol("lemon", NEW[:1], force=True)
            classifier.unenrol("lemon", purge=True)

    threads = [threading.Thread(target=each, daemon=True) for each in (updates, enrolments)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(800)
        assert not thread.is_alive()
    assert failed == []
    assert until(lambda: classifier.release == rounds + 1)
    assert not classifier.enrolled


def test_four_threads_ask_while_classes_come_and_go(toy, store, source, opened, monkeypatch):
    classes_come_and_go(toy, store, source, opened, monkeypatch, range(2, 12))


@pytest.mark.slow
def test_fifty_classes_come_and_go_and_leave_no_memory(toy, store, source, opened, monkeypatch):
    grown = classes_come_and_go(toy, store, source, opened, monkeypatch, range(2, 57))
    assert grown < 20e6


def classes_come_and_go(toy, store, source, opened, monkeypatch, releases):
    """Return how many bytes the process has grown since the fifth of the releases."""
    monkeypatch.setattr(follow, "LOOK", 0.01)
    classifier, process, before = opened(store), psutil.Process(), 0
    done, failed, mixed, calls = threading.Event(), [], [], [0] * 4
    pictures = [picture("red"), *LEMON, *shades(PINK, 1, seed=5)]

    def ask(place):
        while not done.is_set():
            try:
                answers = classifier.predict(pictures)
            except Exception as error:  # whatever it is, a request failed
                failed.append(error)
                continue
            calls[place] += 1
            failed.extend(each for each in answers if each.error is not None)
            versions = {(each.release, each.local) for each in answers}
            labels = [each.label for each in answers]
            local = [name for name, each in zip(labels, answers, strict=True)
                     if each.source == "local"]  # fmt: skip
            if len(versions) != 1 or labels[0] != "red" or (local and not answers[0].local):
                mixed.append(answers)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in releases:
            if number == releases[0] + 5:
                before = process.memory_info().rss
            classifier.enrol("lemon", NEW)
            classifier.enrol("pink", shades(PINK, 3))
            take(store, source, release(toy, number))
            classifier.unenrol("lemon")
            classifier.unenrol("pink", purge=number % 2 == 0)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert min(calls) > 10
    assert (failed, mixed) == ([], [])
    return process.memory_info().rss - before
