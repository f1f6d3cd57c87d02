"""The incremental loop: images in, class rows out, evaluation by class name."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.class_metrics import ClassFigures, Pair
from edgecl.learning.evaluation import evaluate
from edgecl.learning.learner import Learner, LearnerError
from edgecl.learning.records import Evaluation
from edgecl.learning.task_images import BATCH
from edgecl.session import learn_stream, learn_task
from edgecl.streams import BrokenImageError, ImageSet, PathSource, Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]
GROUPS = ((0, 1), (2, 3), (4, 5))


class Holed:
    """A source of which some images cannot be decoded."""

    def __init__(self, images: ImageSet, broken: set[int]) -> None:
        self.images, self.broken = images, broken

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BrokenImageError(f"image {index} is broken")
        return self.images.image(index)


def holed(images: ImageSet, *broken: int) -> ImageSet:
    return replace(images, source=Holed(images, set(broken)))


# -- SimpleCIL, exactly


def test_simplecil_s_rows_are_the_mean_features(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    summary = learn_stream(learner, stream)
    rows = []
    for task in stream.tasks:
        for name in task.classes:
            chosen = [
                i for i, label in enumerate(task.train.labels) if stream.classes[label] == name
            ]
            images = learner.load(task.train.subset(chosen), "").images[:]
            with torch.no_grad():
                pixels = learner.normalise(torch.from_numpy(images))
                rows.append(learner.backbone.model(pixels).cls.mean(dim=0))
    prototypes = learner.learned()["prototypes"]
    torch.testing.assert_close(prototypes[:, 0], torch.stack(rows), rtol=0, atol=1e-5)
    right = 0
    for task in stream.tasks:
        images = learner.load(task.test, "").images[:]
        with torch.no_grad():
            feature = learner.backbone.model(learner.normalise(torch.from_numpy(images))).cls
        scores = F.cosine_similarity(feature[:, None], torch.stack(rows)[None], dim=-1)
        right += sum(
            stream.classes[row] == stream.classes[label]
            for row, label in zip(scores.argmax(dim=1).tolist(), task.test.labels, strict=True)
        )
    assert summary.a_last == pytest.approx(right / sum(len(t.test) for t in stream.tasks))
    assert summary.a_last > 0.9


def test_the_order_of_the_tasks_does_not_change_simplecil(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    probe = make_stream(test=6)
    said = []
    for index, groups in enumerate(itertools.permutations(GROUPS)):
        learner = make_learner("simplecil", make_stream(groups), out=f"order-{index}")
        learn_stream(learner, make_stream(groups))
        names = [name for rows in learner.run.class_rows() for name in rows]
        images = np.concatenate([learner.load(task.test, "").images for task in probe.tasks])
        scores = learner.predict(images).scores
        said.append([names[row] for row in scores.argmax(dim=1).tolist()])
        by_name = scores[:, torch.tensor(sorted(range(6), key=names.__getitem__))]
        if index == 0:
            expected = by_name
        torch.testing.assert_close(by_name, expected, rtol=0, atol=1e-5)
    assert all(names == said[0] for names in said)
    assert len(set(said[0])) > 3


def test_few_images_are_enough_and_many_make_several_batches(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2,)), train=BATCH // 2 + 3, test=1)
    learner = make_learner("simplecil", stream)
    assert learn_stream(learner, stream).train_images == (BATCH + 6, BATCH // 2 + 3)
    single = make_stream(((0,), (1,)), train=1, test=1)
    assert learn_stream(make_learner("simplecil", single, out="single"), single).a_last == 1


# -- images


def test_a_broken_image_is_named_skipped_and_counted(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    [task] = stream.tasks
    learner = make_learner("simplecil", stream)
    task = replace(task, train=holed(task.train, 1, 6), skipped=("found before",))
    record = learn_task(learner, task, stream.classes, [holed(task.test, 0)])
    assert record.skipped == ("found before", "image 1 is broken", "image 6 is broken")
    assert record.train_images == 6
    evaluation = learner.run.evaluation(0)
    assert evaluation is not None
    assert evaluation.images == (5,)
    assert learner.run.record(0) == record
    # What is left is learned as if the broken ones had never been there.
    whole = make_learner("simplecil", stream, out="whole")
    learn_task(
        whole, replace(task, train=task.train.subset([0, 2, 3, 4, 5, 7])), stream.classes, None
    )
    assert torch.equal(whole.run.part(0)["prototypes"], learner.run.part(0)["prototypes"])


def test_an_image_that_cannot_be_preprocessed_is_skipped_by_name(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0,),))
    learner = make_learner("simplecil", stream)
    root = make_folders({"hue-0": 0}, count=2)
    sliver = root / "sliver.png"
    Image.new("L", (60_000, 1)).save(sliver)
    paths = [*sorted((root / "hue-0").iterdir()), sliver]
    images = ImageSet.of(PathSource(paths), [0] * 3, [str(path) for path in paths])
    record = learn_task(learner, replace(stream.tasks[0], train=images), stream.classes, None)
    assert record.train_images == 2
    [skipped] = record.skipped
    assert str(sliver) in skipped
    assert "Crop the image" in skipped


@pytest.mark.parametrize("broken", [(0, 1, 2, 3), tuple(range(8))])
def test_a_class_without_a_readable_image_is_an_error(
    make_learner: MakeLearner, make_stream: MakeStream, broken: tuple[int, ...]
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    task = replace(stream.tasks[0], train=holed(stream.tasks[0].train, *broken))
    message = (
        rf"got none for 'hue-0' of task_00 \({len(broken)} skipped; image . is broken\). Add images"
    )
    with pytest.raises(LearnerError, match=message):
        learn_task(learner, task, stream.classes, None)
    assert len(learner.run) == 0


def test_a_task_without_test_images(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    nothing = stream.tasks[0].test.subset([])
    learn_task(learner, stream.tasks[0], stream.classes, [nothing])
    found = learner.run.evaluation(0)
    assert found is not None
    assert found.classes == ClassFigures(stream.classes, (0, 0), (0, 0), (0, 0))
    unknown = found.unknown
    assert unknown is not None
    assert (unknown.known_images, unknown.auroc) == (0, None)
    wanted = Evaluation((None,), (0,), ((0,),), {}, given=(None,))
    assert replace(found, classes=None, unknown=None) == wanted


@pytest.mark.parametrize("name", ["simplecil", "l2p", "aper-adapter"])
def test_no_image_gives_no_row(
    make_learner: MakeLearner, make_stream: MakeStream, name: str
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    outputs = learner.predict(np.zeros((0, 32, 32, 3), np.uint8))
    assert outputs.scores.shape == (0, 2)
    assert outputs.match.shape[0] == 0


def test_the_canary_is_a_training_image(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    for index, task in enumerate(stream.tasks):
        first = learner.load(task.train, "").images[:1]
        assert torch.equal(learner.run.canary(index), torch.from_numpy(first))


# -- features


def test_frozen_features_are_computed_once(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    images = sum(len(task.train) + len(task.test) for task in stream.tasks)
    assert learner.cache.misses == images
    assert learner.cache.hits > 0
    # A second run on the same backbone finds them on disk and computes nothing.
    for index in range(2):
        other = make_learner("simplecil", stream, out=f"other-{index}")
        other.cache = FeatureCache(tmp_path / "cache", tiny_backbone.digest)
        learn_stream(other, stream)
        assert other.cache.misses == (images if index == 0 else 0)
        assert torch.equal(other.learned()["prototypes"], learner.learned()["prototypes"])


def test_cached_and_computed_features_are_the_same_bits(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    images = learner.load(stream.tasks[0].train, "").images
    first, second = learner.encoder.plain(images), learner.encoder.plain(images)
    assert first is not None
    assert second is not None
    assert torch.equal(first.cls, second.cls)
    assert learner.encoder.plain(images[:0]) is None


# -- evaluation


def test_confusion_counts_the_task_of_the_predicted_row(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2,)), test=2)
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    swapped = learner.learned()["prototypes"][[2, 1, 0]]  # hue 2 is predicted for hue 0, and back
    parts = {"prototypes": swapped[:2]}, {"prototypes": swapped[2:]}
    tests = [task.test for task in stream.tasks]
    found = evaluate(learner, replace(learner.run.knowledge(), parts=parts), tests, stream.classes)
    wanted = Evaluation((0.5, 0.0), (4, 2), ((2, 2), (2, 0)), {}, given=(0.5, 1.0))
    assert found.unknown is not None
    assert found.unknown.known_images == 6
    assert replace(found, classes=None, unknown=None) == wanted
    figures = found.classes
    assert figures is not None
    assert figures.names == ("hue-0", "hue-1", "hue-2")
    assert (figures.images, figures.right, figures.said) == ((2, 2, 2), (0, 2, 0), (2, 2, 2))
    assert figures.pairs == (Pair("hue-0", "hue-2", 2), Pair("hue-2", "hue-0", 2))
    assert {each.image for each in figures.mistakes} == {
        f"hue-{hue} {seed}" for hue in (0, 2) for seed in (1000, 1001)
    }
    assert all(each.picture for each in figures.mistakes)


def test_matches_of_a_pool_are_counted(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 1),), test=3)
    config = {"pool": 4, "top_k": 2, "schedule": {"epochs": 1}}
    learner = make_learner("l2p", stream, config=config)
    summary = learn_stream(learner, stream)
    assert sum(summary.match_histogram.values()) == 2 * 6
    assert set(summary.match_histogram) <= set("0123")
