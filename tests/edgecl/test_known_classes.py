"""More images of known classes, in a run that began without domains."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgecl.learning.learner import Learner
from edgecl.methods import methods
from edgecl.program.classifiers.ridge import ChoosingRidge
from edgecl.session import learn_folder, learn_stream, learn_task
from edgecl.streams import Stream, Task

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]


def parts_of(task: Task, *shares: slice) -> list[Task]:
    """Return tasks of the same classes, each with a share of every class's training images."""
    classes = sorted(set(task.train.labels))
    rows = {c: [i for i, label in enumerate(task.train.labels) if label == c] for c in classes}
    chosen = [sorted(row for own in rows.values() for row in own[share]) for share in shares]
    return [
        replace(task, name=f"{task.name}-{i}", train=task.train.subset(some))
        for i, some in enumerate(chosen)
    ]


@pytest.mark.parametrize("name", ["simplecil", "ranpac", "layup"])
def test_more_images_of_known_classes_are_learned_as_if_they_had_come_at_once(
    make_learner: MakeLearner, make_stream: MakeStream, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ChoosingRidge.__subclasses__():  # of the newest task: here it is the same
        monkeypatch.setattr(kind, "choose", lambda *_: 1.0)
    stream = make_stream(((0, 1, 2), (3, 4)), train=7)
    config = {} if name == "simplecil" else {"first_session": "none"}
    images = make_learner(name, stream, out="x").load(stream.tasks[1].train, "").images
    first, later = parts_of(stream.tasks[0], slice(0, 3), slice(3, None))
    best = []
    for out, tasks in (
        ("at-once", stream.tasks),
        ("in-turns", (first, stream.tasks[1], later)),
    ):
        learner = make_learner(name, stream, out=out, config=config)
        for task in tasks:
            learn_task(learner, task, stream.classes)
        outputs = learner.predict(images).scores
        known = learner.run.knowledge()
        best.append(merged(outputs, known.classes, known.live_rows))
    assert torch.allclose(best[0], best[1], atol=1e-6, rtol=0)
    moved = learner.run.record(2).moved
    assert moved == (later.classes if name == "simplecil" else ())


def merged(scores: Tensor, names: Sequence[str], live: Sequence[bool]) -> Tensor:
    """Return the best row that counts of each class, the classes sorted by name."""
    rows = [
        [row for row, own in enumerate(names) if own == name and live[row]]
        for name in sorted(set(names))
    ]
    return torch.stack([scores[:, own].amax(dim=1) for own in rows], dim=1)


def test_a_folder_s_task_brings_more_of_a_known_class(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    learner = make_learner("simplecil", make_stream(((0, 1),)))
    learn_stream(learner, make_stream(((0, 1),)))
    record = learn_folder(learner, make_folders({"hue-1": 1, "hue-2": 2}))
    assert (record.classes, record.known, record.moved) == (("hue-1", "hue-2"), *[("hue-1",)] * 2)
    known = learner.run.knowledge()
    assert known.live_rows == (True, False, True, True)
    assert known.row_images == (4, 0, 4 + 5, 5)


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_learns_more_of_a_known_class(
    make_learner: MakeLearner, make_stream: MakeStream, name: str
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    again = replace(stream.tasks[0], name="again")
    record = learn_task(learner, again, stream.classes)
    known = learner.run.knowledge()
    assert record.known == again.classes
    assert known.classes == (*stream.classes, *again.classes)
    assert set(record.moved) <= set(record.known)
    images = learner.load(stream.tasks[0].test, "").images
    assert learner.predict(images).scores.shape[1] == len(known.live_rows)
