"""A class is enrolled from pictures: what it answers, what is reported, what is refused."""

import time
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.enrolling import CYAN, DECLARED, PINK, YELLOW, release, shades
from tests.deploy.support.following import until
from tests.deploy.support.sources import make_store
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier
from edgecl_deploy.enrol import means
from edgecl_deploy.enrol import records as documents
from edgecl_deploy.errors import (
    EnrolmentUnsupportedError,
    LimitError,
    LocalTestError,
    NameTakenError,
    NotEnoughError,
    OptionError,
)
from edgecl_deploy.format import TEXT

NEW = shades(YELLOW, 5)


def test_a_class_answers_once_it_is_enrolled_and_as_before_once_it_is_removed(store, opened):
    classifier = opened(store)
    pictures = [picture("red"), *shades(YELLOW, 2, seed=9)]
    before = classifier.predict(pictures)
    assert {each.label for each in before} == {"red", "green"}

    found = classifier.enrol("lemon", NEW, note="from the market", by="ada")
    assert (found.name, found.images, found.known, found.local) == ("lemon", 5, False, 1)
    assert found.loo == (True,) * 5
    assert found.nearest is not None
    assert found.nearest[0] == "red"
    assert found.changed_canaries == 0
    after = classifier.predict(pictures)
    assert [each.label for each in after] == ["red", "lemon", "lemon"]
    assert [each.source for each in after] == ["release", "local", "local"]
    assert {(each.release, each.local) for each in after} == {(1, 1)}
    assert classifier.classes == ("red", "green", "lemon")
    (one,) = classifier.enrolled
    assert (one.name, one.state, one.images, one.by, one.note) == (
        "lemon", "active", 5, "ada", "from the market",
    )  # fmt: skip

    assert classifier.unenrol("lemon") == 2
    assert classifier.predict(pictures) == before  # scores bit for bit, and local 0
    assert (classifier.enrolled, classifier.local) == ((), 0)


def test_the_row_is_the_mean_of_all_pictures_whatever_their_order_and_grouping(store, opened):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    at_once = classifier.loaded.learned["prototypes"][-1]
    classifier.unenrol("lemon")
    classifier.enrol("lemon", NEW[:2])
    classifier.enrol("pink", shades(PINK, 2))
    classifier.enrol("lemon", NEW[2:])
    assert classifier.loaded.rows == ("red", "green", "lemon", "pink")
    assert np.array_equal(classifier.loaded.learned["prototypes"][-2], at_once)
    classifier.unenrol("lemon")
    classifier.enrol("lemon", NEW[::-1])
    other = classifier.loaded.learned["prototypes"][-1]
    np.testing.assert_allclose(other, at_once, rtol=0, atol=1e-7)
    assert classifier.enrolled[0].images == 2


def test_ten_classes_of_five_images_cost_a_second_beside_their_passes(store, opened):
    """Of processor time; the passes of the toy backbone cost next to nothing."""
    classifier = opened(store)
    shown = [shades(tuple(np.eye(3)[i % 3] * (0.3 + i / 20)), 5, seed=i) for i in range(10)]
    begin = time.process_time()
    for i, images in enumerate(shown):
        classifier.enrol(f"class {i}", images, force=True)
    assert time.process_time() - begin <= 1.0
    assert len(classifier.enrolled) == 10


def test_a_class_survives_the_process_and_other_processes_take_it(store, opened):
    first, second = opened(store), opened(store)
    first.enrol("lemon", NEW)
    assert until(lambda: second.local == 1)
    lemon = shades(YELLOW, 1, seed=3)
    assert second.predict(lemon) == first.predict(lemon)
    assert opened(store).predict(lemon)[0].label == "lemon"
    first.unenrol("lemon")
    assert until(lambda: second.local == 0)


def test_more_images_of_a_published_class_are_one_more_row_of_it(store, opened):
    classifier = opened(store)
    found = classifier.enrol("red", shades(CYAN, 3))
    assert found.known
    assert classifier.classes == ("red", "green")
    answer = classifier.predict(shades(CYAN, 1, seed=4))[0]
    assert (answer.label, answer.source, answer.local) == ("red", "release", 1)


def test_images_that_cannot_be_read_are_skipped_and_named(store, opened):
    classifier = opened(store)
    found = classifier.enrol("lemon", [b"no image", *NEW])
    assert [place for place, _ in found.skipped] == [0]
    assert found.images == 5
    assert any("could not be read" in each for each in found.warnings)
    with pytest.raises(NotEnoughError, match="Show at least one picture"):
        classifier.enrol("pink", [b"no image"])
    with pytest.raises(NotEnoughError, match="Show at least one picture"):
        classifier.enrol("pink", [])


def test_what_somebody_should_look_at_is_reported(store, opened):
    classifier = opened(store)
    same = classifier.enrol("lemon", [NEW[0]] * 4)
    assert any("nearly the same view" in each for each in same.warnings)
    assert any("show more" in each for each in classifier.enrol("pink", shades(PINK, 1)).warnings)
    twin = classifier.enrol("citron", NEW[1:])
    assert twin.nearest is not None
    assert twin.nearest[0] == "lemon"
    assert any("are they one class?" in each for each in twin.warnings)
    odd = classifier.enrol("sky", [*shades(CYAN, 4), picture("green")])
    assert odd.loo == (True, True, True, True, False)
    assert any("1 of 5 images would not be recognised" in each for each in odd.warnings)


def test_a_class_that_takes_images_of_the_self_test_is_refused_unless_forced(toy, opened):
    store = make_store(toy, toy.root / "tilted", release(toy, 1, tilt=0.2))
    classifier = opened(store)
    reddish = shades((1.0, 0.0, 0.0), 4)
    with pytest.raises(LocalTestError, match="it takes 1 images of the self-test"):
        classifier.enrol("ruby", reddish)
    assert (classifier.enrolled, classifier.local) == ((), 0)
    found = classifier.enrol("ruby", reddish, force=True)
    assert found.changed_canaries == 1
    assert any("self-test" in each for each in found.warnings)
    assert classifier.enrolled[0].state == "active"
    assert classifier.predict(reddish)[0].label == "ruby"
    assert classifier.enrol("ruby", reddish).changed_canaries == 1  # it was allowed before


def test_nothing_is_written_by_a_dry_run(store, opened):
    classifier = opened(store)
    found = classifier.enrol("lemon", NEW, dry_run=True)
    assert (found.local, found.loo, classifier.local) == (0, (True,) * 5, 0)
    assert not (store.path / "local" / "current").exists()


def test_the_same_pictures_in_the_same_second_count_twice(store, opened, monkeypatch):
    classifier = opened(store)
    classifier.enrol("lemon", NEW)
    monkeypatch.setattr(classifier._own().local, "now", lambda: classifier.enrolled[0].created)
    classifier.enrol("lemon", NEW)
    assert (classifier.enrolled[0].images, opened(store).enrolled[0].images) == (10, 10)


def test_names_are_told_apart(store, opened):
    classifier = opened(store)
    with pytest.raises(NameTakenError, match="'red' and 'Red'"):
        classifier.enrol("Red", NEW)
    classifier.enrol("lemon", NEW)
    with pytest.raises(NameTakenError, match="rename"):
        classifier.enrol("LEMON", NEW)
    with pytest.raises(OptionError, match="Rename it"):
        classifier.enrol("a\nb", NEW)
    with pytest.raises(OptionError, match="list of images"):
        classifier.enrol("pear", NEW[0])
    with pytest.raises(OptionError, match="Shorten it"):
        classifier.enrol("pear", NEW, note="x" * 1001)
    for by in ("a\nb", "x" * 201, "\udc80"):
        with pytest.raises(OptionError, match="as `by`"):
            classifier.enrol("pear", NEW, by=by)
    assert [each.name for each in classifier.enrolled] == ["lemon"]


def test_limits(store, opened, monkeypatch):
    classifier = opened(store)
    with pytest.raises(LimitError, match="several calls"):
        classifier.enrol("lemon", NEW * 50)
    from edgecl_deploy.enrol import enrolling

    monkeypatch.setattr(enrolling, "MAX_CLASSES", 1)
    classifier.enrol("lemon", NEW)
    with pytest.raises(LimitError, match="at most 1 classes"):
        classifier.enrol("pink", shades(PINK, 2))
    monkeypatch.setattr(enrolling, "MAX_IMAGES", 6)
    with pytest.raises(LimitError, match="at most 6 images"):
        classifier.enrol("lemon", NEW)
    from edgecl_deploy.enrol import local

    size = sum(path.stat().st_size for path in (store.path / "local" / "objects").iterdir())
    monkeypatch.setattr(local, "MAX_FOLDER", size + 10)
    monkeypatch.setattr(enrolling, "MAX_IMAGES", documents.MAX_IMAGES)
    with pytest.raises(LimitError, match="keep no images"):
        classifier.enrol("lemon", NEW)


def test_programs_that_cannot_say_so(toy, opened):
    for number, enrol in enumerate((None, replace(DECLARED, kind=TEXT))):
        programs = {**toy.bundle.programs}
        programs["plain"] = replace(programs["plain"], enrol=enrol)
        bundle = replace(toy.bundle, programs=programs)
        (toy.bundle_path / "bundle.json").write_bytes(bundle.to_bytes())
        path = release(toy, 1).write(toy.fresh())
        classifier = Classifier.open(toy.bundle_path, path, local=toy.root / f"local-{number}")
        with pytest.raises(EnrolmentUnsupportedError, match=r"plain.*such as simplecil"):
            classifier.enrol("lemon", NEW)


def test_a_bundle_and_a_release_take_classes_into_a_folder(toy):
    path = release(toy, 1).write(toy.fresh())
    with Classifier.open(toy.bundle_path, path) as classifier:
        classifier.look()
        with pytest.raises(OptionError, match="local=FOLDER"):
            classifier.enrol("lemon", NEW)
    folder = toy.root / "mine"
    for _ in range(2):
        with Classifier.open(toy.bundle_path, path, local=folder) as classifier:
            classifier.enrol("lemon", NEW)
    assert classifier.enrolled[0].images == 10
    assert classifier.predict(shades(YELLOW, 1, seed=3))[0].label == "lemon"


def test_left_out_means_are_those_of_the_others():
    features = np.random.default_rng(0).normal(1, 1, (7, 16)).astype(np.float32)
    for i, found in enumerate(means.left_out(features)):
        rest = np.delete(features, i, axis=0).astype(np.float64).mean(axis=0)
        wanted = features[i] @ rest / np.linalg.norm(features[i]) / np.linalg.norm(rest)
        assert found == pytest.approx(wanted, abs=1e-6)


def test_the_program_takes_a_class_while_a_store_makes_its_folder_for_the_group(toy):
    store = make_store(toy, toy.root / "new", release(toy, 1))
    folder = store.path / "local"
    assert folder.stat().st_mode & 0o7777 == 0o2770
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.enrol("lemon", NEW)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.stat().st_mode & 0o7 for path in files} == {0}  # nobody else reads
    assert (folder / "objects").stat().st_mode & 0o7777 == 0o2770
