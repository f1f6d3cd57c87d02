"""Blurry streams: every image once, of the classes that may; and what learns from them."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecl.learning.learner import Learner
from edgecl.session import learn_stream
from edgecl.streams import Stream, StreamError, load_stream
from edgecl.streams.protocols import ProtocolError, load_as

MakeFolder = Callable[..., Path]
MakeLearner = Callable[..., Learner]
BLURRY = {"blurry": 40, "increment": 5, "seed": 7}
ONCE = {"schedule": {"epochs": 1, "optimizer": "badam", "draws": 1, "spread": 0.0, "cosine": False}}


def trained(stream: Stream) -> list[list[tuple[str, str]]]:
    """Return the name and the class of every training image of each task, in their order."""
    return [
        [(n, stream.classes[label]) for n, label in zip(t.train.names, t.train.labels, strict=True)]
        for t in stream.tasks
    ]


@pytest.mark.parametrize("more", [{}, {"stochastic": True, "disjoint": 30}, {"disjoint": 0}])
def test_every_image_comes_once_and_no_test_image_does(more: dict[str, Any]) -> None:
    plain = load_stream("digits", increment=5, seed=7)
    stream = load_stream("digits", **BLURRY, **more)
    images = [name for task in trained(stream) for name, _ in task]
    assert len(set(images)) == len(images)
    assert sorted(images) == sorted(chain.from_iterable(t.train.names for t in plain.tasks))
    tests = [name for task in stream.tasks for name in task.test.names]
    assert sorted(tests) == sorted(chain.from_iterable(t.test.names for t in plain.tasks))
    assert not set(tests) & set(images)
    for task, own in zip(stream.tasks, trained(stream), strict=True):
        assert set(task.classes) == {name for _, name in own}
        assert list(task.classes) == sorted(task.classes, key=stream.classes.index)
    assert trained(load_stream(**json.loads(json.dumps(stream.spec)))) == trained(stream)
    assert trained(load_stream("digits", **{**BLURRY, **more, "seed": 8})) != trained(stream)


def test_disjoint_classes_stay_and_the_others_leave_in_their_share() -> None:
    """As in the lists of i-Blurry: 1 - M + M / T of a blurry class stay, tasks keep their size."""
    plain = load_stream("digits", increment=5, seed=7)
    stream = load_stream("digits", **BLURRY, disjoint=40)
    assert [len(t.train) for t in stream.tasks] == [len(t.train) for t in plain.tasks]
    for first, now, other in zip(plain.tasks, trained(stream), trained(stream)[::-1], strict=True):
        counts, away = (Counter(name for _, name in task) for task in (now, other))
        for place, name in enumerate(first.classes):
            whole = counts[name] + away[name]
            if place < 2:
                assert not away[name]
            else:
                assert counts[name] / whole == pytest.approx(1 - 0.4 + 0.4 / 2, abs=0.08)


def test_without_blur_it_is_the_disjoint_stream() -> None:
    plain = load_stream("digits", increment=2, seed=7)
    stream = load_stream("digits", increment=2, seed=7, blurry=0)
    assert trained(stream) == trained(plain)
    assert [t.test.names for t in stream.tasks] == [t.test.names for t in plain.tasks]
    assert (stream.classes, stream.protocol) == (plain.classes, "online")


def test_stochastic_tasks_differ_in_size() -> None:
    sizes = {
        tuple(len(t.train) for t in load_stream("digits", blurry=0, stochastic=True, seed=s).tasks)
        for s in range(3)
    }
    assert len(sizes) == 3
    assert all(min(each) > 0 and len(set(each)) > 1 for each in sizes)


def test_files_are_mixed_too(make_folder: MakeFolder) -> None:
    root = make_folder(dict.fromkeys("abcd", 10))
    stream = load_stream(str(root), increment=2, blurry=50, disjoint=0, seed=3)
    assert stream.files.training == sum(len(task.train) for task in stream.tasks)
    assert {len(task.classes) for task in stream.tasks} == {4}
    assert stream.spec["disjoint"] == 0


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"disjoint": 50}, r"where `blurry` is given.*Leave disjoint out"),
        ({"stochastic": True}, "Leave stochastic out"),
        ({"blurry": 101}, "blurry must be a percentage, got 101"),
        ({"blurry": 10, "disjoint": -1}, "disjoint must be at least 0"),
        ({"blurry": 10, "task_templates": {"task_00": ["a {}"]}}, "Leave task_templates out"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(StreamError, match=wrong):
        load_stream("digits", **options)


def test_task_folders_have_their_tasks(make_folder: MakeFolder) -> None:
    root = make_folder({"task_0/a": 2, "task_1/b": 2})
    with pytest.raises(StreamError, match=r"fix the tasks.*Leave blurry out"):
        load_stream(str(root), blurry=10)


def small(**options: Any) -> Stream:
    few = {"classes": 4, "increment": 2, "seed": 7, "limit_train": 48, "limit_test": 8}
    return load_stream("digits", **few, **options)


@pytest.mark.parametrize(
    ("method", "config"),
    [("simplecil", {}), ("lda", {}), ("ranpac", {"first_session": "none", "weight": "gcv"})],
)
def test_sums_do_not_see_where_images_come(
    make_learner: MakeLearner, method: str, config: dict[str, Any]
) -> None:
    """The scores after a blurry stream are those of the disjoint one, row for row of a class."""
    found = []
    for out, options in (("mixed", {"blurry": 50, "disjoint": 0}), ("plain", {"blurry": 0})):
        stream = small(**options)
        learner = make_learner(method, stream, out=out, config=config)
        summary = learn_stream(learner, stream)
        assert summary is not None
        assert summary.protocol == "online"
        counts = summary.train_images
        area = sum(f * n for f, n in zip(summary.pooled, counts, strict=True)) / sum(counts)
        assert summary.a_auc == pytest.approx(area)
        known = learner.run.knowledge()
        rows = [row for row, live in enumerate(known.live_rows) if live]
        rows = sorted({known.classes[row]: row for row in rows}.items())
        images = learner.load_test(small().tasks[0].test).images
        scores = learner.predict(images).scores
        found.append((summary.pooled[-1], scores[:, [row for _, row in rows]]))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)


def test_a_head_goes_on_from_the_rows_of_its_classes(make_learner: MakeLearner) -> None:
    stream = small(blurry=50, disjoint=0)
    schedule = {"epochs": 1, "optimizer": "sgd", "momentum": 0.0, "cosine": False}
    learner = make_learner("single-head", stream, config={"schedule": schedule})
    learn_stream(learner, stream)
    known = learner.run.knowledge()
    assert known.records[1].moved == stream.classes == known.records[1].known
    assert known.live_rows == (False,) * 4 + (True,) * 4
    before, after = (part["head_weight"] for part in known.parts)
    assert torch.equal(after[:4], before), "rows that no longer count take no part in the loss"
    moved = (after[4:] - before).norm() / before.norm()
    assert 0 < moved < 1.0, "the new rows began where the former ones ended"


@pytest.mark.parametrize(
    ("method", "config", "wrong"),
    [
        ("l2p", {}, r"l2p learns a task as a whole\. Choose a method that adds up"),
        ("ranpac", {}, "Give --set first_session=none"),
        ("ranpac", {"first_session": "none"}, "Give --set weight=gcv"),
        ("ranpac", {"first_session": "none", "truncate": 25}, "Give --set truncate=0"),
        ("single-head", {}, r"Give --set schedule\.epochs=1 .*optimizer=badam \(with draws=1"),
        (
            "single-head",
            {"schedule": {**ONCE["schedule"], "bits": 20, "min_steps": 9, "later": {"lr": 0.1}}},
            r"schedule\.min_steps=0 --set schedule\.bits=0 --set schedule\.later\.lr=null\.$",
        ),
    ],
)
def test_a_method_that_needs_a_task_end_is_refused(
    make_learner: MakeLearner, tmp_path: Path, method: str, config: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ProtocolError, match=wrong):
        make_learner(method, small(blurry=10), config=config)
    assert not (tmp_path / "run").exists()


def test_the_protocol_is_of_disjoint_streams_too(make_learner: MakeLearner) -> None:
    stream = load_as("digits", "online", classes=4)
    assert stream.protocol == "cil"
    learner = make_learner("zero-shot", stream, protocol="online")
    assert learner.run.header["protocol"] == "online"
    assert learner.moves
    with pytest.raises(ProtocolError, match="cil needs a stream with classes of its own"):
        load_as("digits", "cil", blurry=30)
