"""Few-shot sessions: the first task has all of its images, the others K of each class."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecl.streams import Stream, StreamError, load_stream

MakeFolder = Callable[..., Path]
FSCIL = {"base": 4, "increment": 2, "seed": 5}


def counts(stream: Stream) -> list[list[int]]:
    return [sorted(Counter(task.train.labels).values()) for task in stream.tasks]


def test_base_classes_have_all_images_and_sessions_few() -> None:
    whole = load_stream("digits", **FSCIL)
    stream = load_stream("digits", **FSCIL, session_shots=3)
    assert [len(task.classes) for task in stream.tasks] == [4, 2, 2, 2]
    assert stream.tasks[0].train.names == whole.tasks[0].train.names
    assert counts(stream)[1:] == [[3, 3]] * 3
    assert [t.test.names for t in stream.tasks] == [t.test.names for t in whole.tasks]
    assert stream.classes == whole.classes
    assert stream.spec["session_shots"] == 3
    assert "session_shots" not in whole.spec


def test_the_seed_chooses_and_one_more_adds_one(make_folder: MakeFolder) -> None:
    root = make_folder(dict.fromkeys("abcdef", 12))
    options = {"base": 2, "increment": 2, "test_fraction": 0.0}

    def chosen(shots: int, seed: int | None = 5) -> set[str]:
        stream = load_stream(str(root), **options, session_shots=shots, seed=seed, shots=9)
        again = load_stream(**json.loads(json.dumps(stream.spec)))
        names = [task.train.names for task in stream.tasks]
        assert [task.train.names for task in again.tasks] == names
        return {name for each in names[1:] for name in each}

    few = chosen(3, seed=None)
    assert len(few) == 12
    assert few < chosen(4, seed=None)
    orders = {frozenset(name.rpartition("/")[2] for name in chosen(3, seed)) for seed in range(4)}
    assert len(orders) > 1


def test_a_class_with_fewer_gives_all(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 8, "b": 2, "c": 8})
    stream = load_stream(str(root), increment=1, session_shots=4, seed=None, test_fraction=0.0)
    assert counts(stream) == [[8], [2], [4]]


def test_task_folders_have_sessions_too(make_folder: MakeFolder) -> None:
    root = make_folder({"task_0/a": 6, "task_1/b": 6, "task_2/c": 6})
    stream = load_stream(str(root), session_shots=2, shots=5, test_fraction=0.0)
    assert counts(stream) == [[5], [2], [2]]


def test_a_session_needs_an_image() -> None:
    with pytest.raises(StreamError, match=r"session_shots must be at least 1, got 0\. Raise it"):
        load_stream("digits", session_shots=0)
