"""A ridge head that takes classes: the algebra, and the factor on its way to a device."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy.support.enrolling import (
    PINK,
    YELLOW,
    colours_of,
    ridge_head,
    ridge_release,
    ridge_world,
    shades,
)
from tests.deploy.support.following import take, until
from tests.deploy.support.sources import Quick, make_store

from edgecl_deploy import Classifier
from edgecl_deploy.enrol import overlay, ridge
from edgecl_deploy.enrol.solve import cholesky_solve
from edgecl_deploy.errors import LocalTestError, ManifestError, NonFiniteError, StateMissingError
from edgecl_deploy.format import (
    RELU_MATMUL,
    RIDGE,
    Enrol,
    Expand,
    canonical,
    packed,
    packed_size,
    parse_release,
)
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store import fsck
from edgecl_deploy.update.outcome import Outcome

LINEAR = Enrol(RIDGE, "head", (0, 1), scale="scale")
OLD = {"red": shades((0.9, 0.1, 0.1), 6), "green": shades((0.1, 0.9, 0.2), 5, seed=1)}
NEW = shades(YELLOW, 4)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 255, 256, 257, 384, 700])
def test_triangular_solves_are_those_of_lu(size):
    rng = np.random.default_rng(size)
    lower = np.tril(rng.normal(0, 1, (size, size)) / np.sqrt(size)) + 2 * np.eye(size)
    right = rng.normal(0, 1, (size, 3))
    assert len(packed(lower)) == packed_size(size)
    found = cholesky_solve(packed(lower), right)
    wanted = np.linalg.solve(lower @ lower.T, right)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def case(seed, images, log_weight, known, dtype=np.float64):
    """Sums and head of old images, features of new ones, and the head of all together."""
    rng = np.random.default_rng(seed)
    size, names = 24, ["a", "b", "c"]
    old, owner = rng.normal(0.3, 1, (60, size)), rng.integers(0, 3, 60)
    new = {"x": rng.normal(0.2, 1, (images, size)).astype(np.float32)}
    if known:
        new["b"] = rng.normal(0.1, 1, (2, size)).astype(np.float32)
    gram = old.T @ old
    weight = 10.0**log_weight * np.trace(gram) / size
    shifted = gram + weight * np.eye(size)
    moments = old.T @ np.eye(3)[owner]
    head = np.linalg.solve(shifted, moments)
    learned = {"head": head.T, "scale": np.ones(3)}
    factor = packed(np.linalg.cholesky(shifted)).astype(dtype)
    found = ridge.solved(LINEAR, learned, names, factor, new)
    rows = np.concatenate(list(new.values())).astype(np.float64)
    column = {"a": 0, "b": 1, "c": 2, "x": 3}
    target = np.zeros((len(rows), 4))
    labels = [column[name] for name, each in new.items() for _ in each]
    target[np.arange(len(rows)), labels] = 1
    moments = np.pad(moments, ((0, 0), (0, 1)))
    return found, shifted, moments, rows, target


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(-8, 2), st.booleans())
def test_one_step_is_the_solution_of_all_images_together(seed, images, log_weight, known):
    found, shifted, moments, rows, target = case(seed, images, log_weight, known)
    wanted = np.linalg.solve(shifted + rows.T @ rows, moments + rows.T @ target)
    assert found.names == ("a", "b", "c", "x")
    np.testing.assert_allclose(
        found.weight, wanted, rtol=0, atol=1e-8 * max(1, np.abs(wanted).max())
    )


def test_left_out_scores_are_those_of_a_head_without_the_image():
    found, shifted, moments, rows, target = case(1, 6, -3, known=True)
    for i in range(len(rows)):
        keep = np.arange(len(rows)) != i
        some, own = rows[keep], target[keep]
        head = np.linalg.solve(shifted + some.T @ some, moments + some.T @ own)
        np.testing.assert_allclose(found.left_out[i], rows[i] @ head, rtol=0, atol=1e-6)


@pytest.mark.parametrize("log_weight", [-8, -6, -3, 0])
def test_a_factor_of_float32_is_enough_at_every_lambda(log_weight):
    wide, *_ = case(2, 10, log_weight, known=True)
    found, *_, rows, _ = case(2, 10, log_weight, known=True, dtype=np.float32)
    np.testing.assert_allclose(rows @ found.weight, rows @ wide.weight, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_ten_classes_of_five_images_cost_a_second(record_property):
    """Of processor time on one core, at the width of ranpac; each solves the head again."""
    size, known = 2000, [f"old {i}" for i in range(20)]
    rng = np.random.default_rng(0)
    old = rng.normal(0, 1, (2 * size, size)).clip(min=0)
    factor = packed(np.linalg.cholesky(old.T @ old + 100 * np.eye(size))).astype(np.float32)
    learned = {"head": rng.normal(0, 0.01, (20, size)), "scale": np.ones(20)}
    new = {}
    begin = time.process_time()
    for number in range(10):
        new[f"new {number}"] = rng.normal(0, 1, (5, size)).clip(min=0).astype(np.float32)
        found = ridge.solved(LINEAR, learned, known, factor, new)
    seconds = time.process_time() - begin
    record_property("seconds", round(seconds, 2))
    assert found.weight.shape == (size, 30)
    assert seconds <= 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_damaged_factor_is_an_error(value):
    lower = np.eye(3)
    learned = {"head": np.ones((1, 3)), "scale": np.ones(1)}
    images = {"x": np.ones((2, 3), np.float32)}
    lower[2, 2] = value
    with pytest.raises(NonFiniteError, match="Install the release again"):
        ridge.solved(LINEAR, learned, ["a"], packed(lower), images)


def test_features_are_expanded_as_the_graph_does():
    enrol = Enrol(RIDGE, "head", (0, 2), expand=Expand(RELU_MATMUL, "projection"))
    learned = {"projection": np.array([[1.0, -1.0], [0.0, 2.0]], np.float32)}
    found = ridge.expanded(enrol, learned, np.array([[1.0, 0.25]], np.float32))
    np.testing.assert_array_equal(found, np.array([[1.0, 0.0]], np.float32))


def test_a_head_is_split_without_losing_a_bit():
    weight = np.array([[3.0, -0.001], [0.25, 0.0005], [1.0, 0.0]])
    head, scale = ridge.head_of(ridge.Solved(("a", "b"), weight, np.zeros((0, 2))), ["a", "b", "a"])
    assert (np.abs(head).max(axis=1) >= 0.5).all()
    assert (np.abs(head).max(axis=1) < 1).all()
    np.testing.assert_array_equal(head * scale[:, None], weight.T[[0, 1, 0]].astype(np.float32))


# -- on a device ----------------------------------------------------------------------------------


@pytest.fixture
def linear(world):
    return ridge_world(world)


def scores_of(classifier, pictures):
    return classifier.scores(np.stack(pictures)).scores


def test_a_device_solves_the_head_of_all_pictures_and_takes_it_back(linear):
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    folder = linear.root / "mine"
    with Classifier.open(linear.bundle_path, path, local=folder, threads=1) as classifier:
        tests = [*OLD["red"], *NEW, *shades(PINK, 2)]
        before = scores_of(classifier, tests)
        found = classifier.enrol("lemon", NEW, force=True)
        assert found.nearest is not None
        assert found.nearest[0] in OLD
        _, head = ridge_head({**OLD, "lemon": NEW})
        wanted = colours_of(tests) @ head.T
        np.testing.assert_allclose(scores_of(classifier, tests), wanted, rtol=0, atol=1e-5)
        assert classifier.predict(NEW)[0].source == "local"

        classifier.enrol("red", shades((0.6, 0.2, 0.3), 3), force=True)  # its column moves
        red = [*OLD["red"], *shades((0.6, 0.2, 0.3), 3)]
        _, head = ridge_head({"red": red, "green": OLD["green"], "lemon": NEW})
        wanted = colours_of(tests) @ head.T
        np.testing.assert_allclose(scores_of(classifier, tests), wanted, rtol=0, atol=1e-5)

        classifier.unenrol("red")
        classifier.unenrol("lemon")
        np.testing.assert_array_equal(scores_of(classifier, tests), before)


def test_a_class_that_makes_another_one_rest_is_refused_unless_forced(linear):
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    teal, violet = shades((0.12, 0.67, 0.65), 32, seed=2), shades((0.62, 0.38, 1.0), 39, seed=3)
    with Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier:
        classifier.enrol("teal", teal)
        with pytest.raises(LocalTestError, match=r"'teal' rests.*it takes 1 images.*--force"):
            classifier.enrol("violet", violet)
        assert [(each.name, each.state) for each in classifier.enrolled] == [("teal", "active")]
        found = classifier.enrol("violet", violet, force=True)
        assert any("'teal' rests from now on" in each for each in found.warnings)
        assert [each.state for each in classifier.enrolled] == ["suspended", "active"]


def test_the_newest_class_rests_where_a_head_moves_the_self_test(linear, monkeypatch):
    def moving(base, loaded, features, *, fixed):
        assert not fixed
        return {}, 2 if "pink" in features else 0

    monkeypatch.setattr(overlay, "_taken", moving)
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    with Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier:
        classifier.enrol("lemon", NEW)
        with pytest.raises(LocalTestError, match=r"with it 2 images of the self-test"):
            classifier.enrol("pink", shades(PINK, 3))
        found = classifier.enrol("pink", shades(PINK, 3), force=True)
        assert found.changed_canaries == 2
        assert any("moves 2 images" in each for each in found.warnings)
        assert classifier.enrol("sky", shades((0.1, 0.6, 0.9), 3)).changed_canaries == 0
        assert {each.state for each in classifier.enrolled} == {"active"}


def test_one_image_has_no_others_to_be_recognised_by(linear):
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    with Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier:
        assert classifier.enrol("lemon", NEW[:1], force=True).loo == (None,)
        assert classifier.enrol("lemon", NEW[1:], force=True).loo != (None,) * 3


def test_a_release_without_a_factor_says_what_to_do(linear):
    path = ridge_release(linear, 1, OLD, factor=False).write(linear.fresh())
    with (
        Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier,
        pytest.raises(StateMissingError, match=r"without --enrolment.*enrol=true"),
    ):
        classifier.enrol("lemon", NEW)


def test_only_a_device_that_enrols_fetches_the_factor(linear, source):
    made = ridge_release(linear, 2, OLD)
    blob = made.release.enrolment.blob
    store = make_store(
        linear, linear.root / "store", ridge_release(linear, 1, OLD, factor=False), disk=Quick()
    )
    assert take(store, source, made).outcome is Outcome.UPDATED
    assert blob not in source.fetched
    with Classifier.open(store.path, threads=1) as classifier:
        with pytest.raises(StateMissingError, match="was not fetched"):
            classifier.enrol("lemon", NEW)
        with store.lock():
            store.configure(type(store.config)(**{**vars(store.config), "enrol": True}))
        assert take(store, source, made).outcome is Outcome.UPDATED
        assert source.fetched.count(blob) == 1
        assert take(store, source, made).outcome is Outcome.UP_TO_DATE
        assert until(lambda: blob in classifier.loaded.files.blobs)
        classifier.enrol("lemon", NEW, force=True)
        assert classifier.enrolled[0].state == "active"
        assert fsck.check(store) == []

        newer = ridge_release(linear, 3, OLD, factor=False)
        assert take(store, source, newer).outcome is Outcome.UPDATED
        assert until(lambda: classifier.release == 3)
        assert classifier.enrolled[0].state == "suspended"
        assert "factor" in classifier.enrolled[0].reason


def test_a_damaged_factor_leaves_the_release_as_it_is(linear):
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    with Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier:
        classifier.enrol("lemon", NEW, force=True)
        blob = path / "blobs" / f"{classifier.loaded.files.release.enrolment.blob}.safetensors"
    blob.write_bytes(b"x" * blob.stat().st_size)
    with Classifier.open(linear.bundle_path, path, local=linear.root / "mine") as classifier:
        assert classifier.predict(OLD["red"])[0].label == "red"
        assert classifier.enrolled[0].state == "suspended"


def test_what_a_release_declares_is_read_back_or_refused(linear):
    release = ridge_release(linear, 1, OLD).release
    assert parse_release(release.to_bytes()) == release
    document = load_object(release.to_bytes(), "release", 10**6)
    later = {**document, "enrolment": {"kind": "quadratic"}}
    assert parse_release(canonical(later)).enrolment is None
    assert parse_release(canonical(later)).to_bytes() == canonical(later)
    assert parse_release(canonical({**document, "enrolment": None})).enrolment is None
    for change in ({"size": 5793}, {"bytes": 2**27}, {"lambda": -1.0}, {"images": 0}):
        wrong = {**document, "enrolment": {**document["enrolment"], **change}}
        with pytest.raises(ManifestError, match="Make the file again"):
            parse_release(canonical(wrong))
