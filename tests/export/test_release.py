"""Releases: numbered lists of packs that a device tests before it trusts them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl.learning.runs import Run
from edgecl.methods import methods
from edgecl_deploy import Classifier
from edgecl_deploy.errors import DeployError, SelfTestError, TargetExistsError
from edgecl_deploy.files import read_bundle, read_packs, read_release, write_release
from edgecl_deploy.format import digest, read_tensors, write_tensors
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs
from edgecl_export.release import CANARY_ATOL, export_release

every_method = pytest.mark.parametrize("name", methods())


@every_method
def test_canaries_pass_on_the_device(world: Any, name: str) -> None:
    for form, slots in (("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed")):
        device = Classifier.open(
            world.bundle, world.wild[name].release["float16"], form=form, slots=slots
        )
        test = device.self_test()
        assert (test.release, test.images) == (3, 3)
        assert test.max_error <= CANARY_ATOL / 10


@every_method
def test_canaries_carry_the_scores_of_their_own_packs(world: Any, name: str) -> None:
    files = read_release(world.wild[name].release["float16"])
    canaries = files.release.canaries
    assert canaries is not None
    assert set(files.release.blobs) == {*canaries.images, canaries.scores}
    images = np.concatenate([read_tensors(files.blobs[blob])["images"] for blob in canaries.images])
    expected = read_tensors(files.blobs[canaries.scores])["scores"]
    assert expected.shape == (3, 6)
    learner = world.wild[name].learner
    same = [learner.run.canary(task).numpy() for task in range(3)]
    np.testing.assert_array_equal(images, np.concatenate(same))
    want = learner.predict(images).scores.numpy()  # of the float32 run
    assert np.abs(expected - want).max() < 5e-2 * max(1, np.abs(want).max())


@pytest.mark.parametrize("wrong", [10 * CANARY_ATOL, float("nan")])
def test_a_wrong_expected_score_is_refused_and_the_old_release_stays(
    world: Any, tmp_path: Path, wrong: float
) -> None:
    shipped = world.wild["simplecil"]
    export_release(shipped.packs["float16"], tmp_path / "first", world.bundle, tasks=2)
    device = Classifier.open(world.bundle, tmp_path / "first")
    before = device.scores(world.images).scores
    files = read_release(shipped.release["float16"])
    canaries = files.release.canaries
    assert canaries is not None
    scores = read_tensors(files.blobs[canaries.scores])["scores"].copy()
    scores[1, 2] += wrong
    blob = write_tensors({"scores": scores})
    blobs = {name: data for name, data in files.blobs.items() if name != canaries.scores}
    sizes = {name: size for name, size in files.release.blobs.items() if name != canaries.scores}
    corrupted = dataclasses.replace(
        files.release,
        canaries=dataclasses.replace(canaries, scores=digest(blob)),
        blobs={**sizes, digest(blob): len(blob)},
    )
    write_release(tmp_path / "bad", corrupted, files.manifests, {**blobs, digest(blob): blob})
    with pytest.raises(SelfTestError, match="Keep the former release"):
        device.swap(tmp_path / "bad")
    assert device.release == 2
    np.testing.assert_array_equal(device.scores(world.images).scores, before)
    assert device.swap(shipped.release["float16"]) == 3


def test_a_release_of_another_packs_values_fails_its_canaries(
    world: Any, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """The canaries tell one run's packs from another's, not only damage."""
    export_packs(make_run("l2p", seed=9), tmp_path / "packs")
    manifests, blobs = read_packs(tmp_path / "packs")
    files = read_release(world.wild["l2p"].release["float16"])
    mixed = dataclasses.replace(files.release, packs=tuple(manifests))
    canary = {name: files.blobs[name] for name in files.release.blobs}
    write_release(tmp_path / "mixed", mixed, manifests, {**blobs, **canary})
    with pytest.raises(SelfTestError, match="Keep the former release"):
        Classifier.open(world.bundle, tmp_path / "mixed")


def test_number_tasks_and_parent(world: Any, tmp_path: Path) -> None:
    packs = world.trained["simplecil"].packs["float16"]
    bundle = read_bundle(world.bundle)
    for number, tasks, want in (
        (None, None, (3, 2, 3)),
        (None, 1, (1, None, 1)),
        (9, 2, (9, 8, 2)),
    ):
        out = tmp_path / f"{number}-{tasks}"
        found = export_release(packs, out, world.bundle, number=number, tasks=tasks)
        files = read_release(out)
        release = files.release
        assert files.digest == found
        assert (release.number, release.parent, len(release.packs)) == want
        assert release.bundle == bundle.digest
        assert release.program == "simplecil"
        assert Classifier.open(world.bundle, out).release == want[0]
    assert release.packs == tuple(read_packs(packs)[0])[:2]
    ours = {blob for pack in files.packs for blob in pack.blobs} | set(release.blobs)
    assert set(files.blobs) == ours, "a release holds the blobs of its own packs only"


@pytest.mark.parametrize("canaries", [0, 1, 2, 8])
def test_the_newest_tasks_bring_their_canary(world: Any, tmp_path: Path, canaries: int) -> None:
    shipped = world.trained["simplecil"]
    export_release(shipped.packs["float16"], tmp_path / "release", world.bundle, canaries=canaries)
    found = read_release(tmp_path / "release")
    device = Classifier.open(world.bundle, tmp_path / "release")
    assert device.self_test().images == min(canaries, 3)
    if not canaries:
        assert found.release.canaries is None
        assert not found.release.blobs
        return
    assert found.release.canaries is not None
    newest = read_tensors(found.blobs[found.release.canaries.images[-1]])["images"]
    np.testing.assert_array_equal(newest, shipped.learner.run.canary(2).numpy())


def test_unknown_below_marks_predictions(world: Any, tmp_path: Path) -> None:
    packs = world.trained["simplecil"].packs["float16"]
    scores = Classifier.open(world.bundle, world.trained["simplecil"].release["float16"]).scores(
        world.images
    )
    best = np.sort(scores.scores.max(axis=1))
    threshold = float(best[len(best) // 2])
    export_release(packs, tmp_path / "release", world.bundle, unknown_below=threshold)
    predictions = Classifier.open(world.bundle, tmp_path / "release").predict(world.images)
    assert [each.known for each in predictions] == [
        bool(each.score >= threshold) for each in predictions
    ]
    assert {each.known for each in predictions} == {True, False}
    assert all(each.label is not None for each in predictions)
    plain = Classifier.open(world.bundle, world.trained["simplecil"].release["float16"])
    assert all(each.known == (each.set_size > 0) for each in plain.predict(world.images))


def test_too_few_packs(world: Any, tmp_path: Path) -> None:
    packs = world.trained["simplecil"].packs["float16"]
    with pytest.raises(PackError, match=r"of 4 tasks .*got 3 in .*edgecl export pack RUN -o PACKS"):
        export_release(packs, tmp_path / "release", world.bundle, tasks=4)
    assert not (tmp_path / "release").exists()


def test_nothing_is_overwritten(world: Any, tmp_path: Path) -> None:
    packs = world.trained["simplecil"].packs["float16"]
    first = export_release(packs, tmp_path / "release", world.bundle)
    assert export_release(packs, tmp_path / "release", world.bundle) == first, (
        "the same again is fine"
    )
    with pytest.raises(TargetExistsError, match="Write to a new directory"):
        export_release(packs, tmp_path / "release", world.bundle, tasks=1)


@pytest.mark.parametrize("canaries", [0, 8])
def test_packs_that_do_not_fit_the_bundle_are_refused(
    world: Any, make_run: Callable[..., Run], tmp_path: Path, canaries: int
) -> None:
    export_packs(make_run("simplecil", width=384), tmp_path / "packs")
    with pytest.raises(DeployError, match="Install the bundle of that backbone"):
        export_release(tmp_path / "packs", tmp_path / "release", world.bundle, canaries=canaries)
    assert not (tmp_path / "release").exists()


@every_method
def test_swapping_forth_and_back_changes_nothing(world: Any, name: str, tmp_path: Path) -> None:
    """A, B, A: no mixture of the two is left, whatever the method replaces or appends."""
    shipped = world.wild[name]
    first, whole = tmp_path / "first", shipped.release["float16"]
    export_release(shipped.packs["float16"], first, world.bundle, tasks=1)
    device = Classifier.open(world.bundle, first)
    before = device.scores(world.images)
    device.swap(whole)
    assert device.scores(world.images).scores.shape[1] == 6
    device.swap(first)
    after = device.scores(world.images)
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.match, before.match)
