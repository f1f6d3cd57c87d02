"""What a run keeps of the scores of its images: against the definition, image by image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.learning.own_scores import reference_of
from edgecl.learning.runs import SCORES, RunError
from edgecl.methods import build_method
from edgecl.program.learned import join
from edgecl.program.program import OwnRows
from edgecl.session import learn_folder, learn_stream
from edgecl.streams import ImageSet, Stream
from edgecl_deploy.unknown.own import directions, in_subspace, left_out_of_subspace
from edgecl_deploy.unknown.table import ORDER

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]
GROUPS = ((0, 1), (2,))
KEPT = {  # what an image is compared with
    "simplecil": "mean", "aper-ssf": "mean", "ranpac": "unit", "layup": "last tap", "lda": "unit",
    "zero-shot": "text",
}  # fmt: skip


def features_of(learner: Learner, images: ImageSet) -> NDArray[np.float64]:
    batch = learner.load(images, "")
    return learner.predict(batch.images).feature.double().numpy()


def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("method", KEPT)
def test_an_image_is_compared_with_the_others_of_its_class(
    method: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(GROUPS, train=5)
    learner = make_learner(method, stream)
    learn_stream(learner, stream)
    for number, task in enumerate(stream.tasks):
        table = learner.run.scores(number)
        assert table is not None
        assert table.count.tolist() == [5] * len(task.classes)
        features, labels = features_of(learner, task.train), np.array(task.train.labels)
        if KEPT[method] == "last tap":
            features = features[:, -learner.backbone.width :]
        if KEPT[method] in {"unit", "last tap"}:
            features = F.normalize(torch.from_numpy(features), dim=1).numpy()
        for row, name in enumerate(task.classes):
            own = features[labels == stream.classes.index(name)]
            if KEPT[method] == "text":
                text = learner.learned()["texts"][number * 2 + row].double().numpy()
                wanted = [cosine(each, text) for each in own]
            else:
                wanted = [
                    cosine(each, np.delete(own, i, axis=0).mean(axis=0))
                    for i, each in enumerate(own)
                ]
            assert table.order[row, :5] == pytest.approx(sorted(wanted), abs=2e-5)
            assert np.isposinf(table.order[row, 5:]).all()
            if KEPT[method] == "text":
                assert table.angles is None
                continue
            assert table.angles is not None
            assert table.directions is not None
            left = np.sort(left_out_of_subspace(own))
            assert table.angles.order[row, :5] == pytest.approx(left, abs=1e-2)
            stored = in_subspace(own, table.directions[row])
            assert stored == pytest.approx(in_subspace(own, directions(own)), abs=1e-2)
        assert len(table.residual) == 10 + 5 * number  # those of the task before are there too
        assert (table.mean is None) == (KEPT[method] in {"mean", "text"})


@pytest.mark.parametrize("method", ["ranpac", "layup", "aper-adapter"])
def test_what_a_first_session_trained_is_in_what_is_compared(
    method: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(GROUPS, train=5)
    schedule = {"epochs": 4, "batch_size": 4, "lr": 0.1}
    learner = make_learner(method, stream, config={"scale": 3.0, "schedule": schedule})
    learn_stream(learner, stream)
    injected, learned = learner.program.injector.declare(), learner.learned()
    without = {name: 0 * each if name in injected else each for name, each in learned.items()}
    rows = learner.program.own_rows
    assert rows is not None
    for number, task in enumerate(stream.tasks):
        table = learner.run.scores(number)
        assert table is not None
        assert table.angles is not None
        assert table.directions is not None
        images = learner.load(task.train, "").images
        adapted, plain = (
            learner
            .predict(images, tensors)
            .feature.double()
            .numpy()[:, slice(*(rows.columns or (None,)))]
            for tensors in (learned, without)
        )
        labels = np.array(task.train.labels)
        for row, name in enumerate(task.classes):
            own = labels == stream.classes.index(name)
            left = np.sort(left_out_of_subspace(adapted[own]))
            assert table.angles.order[row, :5] == pytest.approx(left, abs=1e-4)
            found = in_subspace(adapted[own], table.directions[row])
            assert found.min() > 0.99
            assert in_subspace(plain[own], table.directions[row]).max() < found.min() - 0.01


@pytest.mark.parametrize("method", ["l2p", "ease", "slca", "s-prompts"])
def test_features_that_do_not_last_have_no_scores(
    method: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner(method, make_stream(GROUPS))
    assert learner.program.own_rows is None
    assert reference_of(learner.program.own_rows, learner.run.knowledge(), {}) is None


def test_text_rows_that_every_task_replaces_are_no_row_of_a_class(tiny_clip: Clip) -> None:
    spec = BackboneSpec.of(tiny_clip)
    for name, rows in (
        ("cgil", OwnRows((0, spec.feature_dim))),
        ("joint-prompts", OwnRows((0, spec.feature_dim))),
        ("clip-lda", OwnRows()),
        ("zero-shot", OwnRows((0, spec.feature_dim), "texts", of_images=False)),
    ):
        assert build_method(name, spec).program.own_rows == rows


def test_a_later_task_leaves_the_p_values_of_a_former_one_as_they_are(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=25)
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    knowledge = learner.run.knowledge()
    reference = reference_of(learner.program.own_rows, knowledge, learner.learned())
    assert reference is not None
    test = np.concatenate([features_of(learner, task.test) for task in stream.tasks])
    both = reference.judge(test, 0.05)
    learner.run.undo()
    before = learner.run.knowledge()
    learned = join(learner.declared, before.parts)
    first = reference_of(learner.program.own_rows, before, learned)
    assert first is not None
    alone = first.judge(test, 0.05)
    assert np.array_equal(alone.p, both.p[:, :2])
    assert reference.names == tuple(f"hue-{hue}" for hue in range(4))
    own = both.inside[np.arange(len(test)), np.repeat(np.arange(4), len(test) // 4)]
    assert own.mean() >= 0.9


def test_more_images_of_a_class_are_compared_with_all_of_them(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0, 1),), train=4)
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    learn_folder(learner, make_folders({"hue-0": 0}, count=3))
    assert learner.run.record(1).moved == ("hue-0",)
    table = learner.run.scores(1)
    assert table is not None
    assert table.count.tolist() == [3]
    row = learner.learned()["prototypes"][-1].flatten().double().numpy()  # of 7 images
    old = features_of(learner, stream.tasks[0].train)[:4]
    total = 7 * row
    wanted = []
    for each in (total - old.sum(axis=0))[None] / 3:  # the mean of the new ones: near each of them
        wanted.append(cosine(each, total - each))
    assert table.order[0, :3] == pytest.approx(wanted * 3, abs=0.02)
    assert len(np.unique(table.order[0, :3])) == 3
    assert table.order.shape == (1, ORDER)


def test_scores_that_are_damaged_are_named(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("simplecil", stream := make_stream(GROUPS))
    learn_stream(learner, stream)
    path = learner.run.path / "tasks" / "001" / SCORES
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RunError, match=r"Restore .* from a copy"):
        learner.run.knowledge()
