"""What the workstation says of an image of no class, and what the device says: the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl.learning.learner import Learner
from edgecl.learning.own_scores import reference_of
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_deploy.errors import OptionError
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import OWN_SUBSPACE, Rejection, parse_pack, read_tensors
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.unknown.table import Table
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs
from edgecl_export.rejection import rejection_of
from edgecl_export.release import export_release


def test_packs_may_hold_the_cosine_alone(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=22, test=8)
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    sizes = {}
    for unknown in ("subspace", "cosine"):
        out = tmp_path / unknown
        ids = export_packs(learner.run, out, unknown=unknown)
        assert export_packs(learner.run, out) == ids, "what is there stays, of either kind"
        manifests, blobs = read_packs(out)
        packs = [parse_pack(manifests[each]) for each in ids]
        held = [pack.unknown for pack in packs if pack.unknown is not None]
        assert [each.also for each in held] == [OWN_SUBSPACE if unknown == "subspace" else None] * 2
        tensors = [read_tensors(blobs[each.blob]) for each in held]
        assert [("directions" in each) == (unknown == "subspace") for each in tensors] == [True] * 2
        assert all("order" in each for each in tensors)
        sizes[unknown] = sum(len(blobs[each.blob]) for each in held)
    assert sizes["cosine"] < sizes["subspace"] / 2


@pytest.mark.parametrize("name", ["simplecil", "ranpac"])
def test_the_device_has_the_p_values_of_the_learner(
    name: str,
    programs: Any,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    tmp_path: Path,
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=22, test=8)
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    ids = export_packs(learner.run, tmp_path / "packs")
    manifests, blobs = read_packs(tmp_path / "packs")
    for task, pack in enumerate(parse_pack(manifests[each]) for each in ids):
        assert pack.unknown is not None
        stored, kept = read_tensors(blobs[pack.unknown.blob]), learner.run.scores(task)
        assert kept is not None
        assert stored.keys() == kept.to_tensors().keys()
        assert pack.unknown.also == OWN_SUBSPACE
        assert all(np.array_equal(kept.to_tensors()[key], stored[key]) for key in stored)
        assert pack.unknown.blob not in {each.blob for each in pack.tensors.values()}
        assert Table.from_tensors(stored, 2).count.tolist() == [22, 22]
    export_release(tmp_path / "packs", tmp_path / "release", programs.bundle)
    classifier = Classifier.open(programs.bundle, tmp_path / "release")

    images = np.concatenate([learner.load(task.test, "").images[:] for task in stream.tasks])
    reference = reference_of(learner.program.own_rows, learner.run.knowledge(), learner.learned())
    assert reference is not None
    assert classifier.classes == reference.names
    there = classifier.loaded.judged(classifier.scores(images).feature)
    here = reference.judge(learner.predict(images).feature.numpy(), 0.05)
    assert there is not None
    assert not here.pooled.any()
    # A rank differs where a score is within the rounding of features and rows of a kept one.
    apart = np.abs(there.p - here.p) * 23
    assert apart.max() <= 1 + 1e-9
    assert (apart > 0.5).mean() <= 0.02
    own = there.inside[np.arange(len(images)), np.repeat(np.arange(4), 8)]
    assert own.mean() >= 0.85
    assert len(classifier.loaded.predict(images[:1], 1)[0].set) >= 1


def test_a_release_brings_the_figures_of_its_run(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    stream = make_stream(((0,), (1,)), train=20)
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    run, packs = learner.run, tmp_path / "packs"
    export_packs(run, packs)
    assert rejection_of(None, None, packs, 2) is None
    assert rejection_of(0.1, None, packs, 2) == Rejection(0.1)
    for tasks in (1, 2):
        found, evaluation = rejection_of(None, run.path, packs, tasks), run.evaluation(tasks - 1)
        assert found is not None
        assert evaluation is not None
        assert evaluation.unknown is not None
        assert found == Rejection(0.05, evaluation.unknown.numbers())
        assert (found.figures["auroc"] is None) == (tasks == 2)
        assert Rejection.read(Fields(found.to_json(), "unknown")) == found
    other = make_learner("simplecil", stream, out="other").run
    for alpha, source, tasks, words in (
        (None, other.path, 1, "Name that run"),
        (0.1, run.path, 1, "Leave one of the two out"),
        (None, run.path, 3, "Leave --figures out"),
    ):
        with pytest.raises(PackError, match=words):
            rejection_of(alpha, source, packs, tasks)
    with pytest.raises(OptionError, match="is usual"):
        rejection_of(0.9, None, packs, 2)
