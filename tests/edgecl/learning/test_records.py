"""The records of a run: what is written is read again, and a reader takes nothing else."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.learning.class_metrics import ClassFigures, Mistake, Pair
from edgecl.learning.fields import Fields, RecordError, count, listed, named, number, optional, text
from edgecl.learning.records import Evaluation, HeldOut, Knowledge, TaskRecord

RECORD = TaskRecord(
    1, "birds", ("hen", "owl"), ("owl",), (4, 5), ("x.png: cut",), 2.5, 70, 3, ("gram",)
)
EVALUATION = Evaluation(
    accuracy=(0.5, 1.0),
    images=(4, 2),
    confusion=((3, 1), (0, 2)),
    match={"0": 5, "7": 1},
    matched=((4, 0), (1, 1)),
    oracle=(0.5, 1.0, 0.25),
    open=(0.5, 1.0, 0.0),
    classes=ClassFigures(
        ("hen", "owl"),
        (4, 2),
        (3, 2),
        (3, 3),
        (Pair("hen", "owl", 1),),
        0,
        (Mistake("x.png", "hen", "owl", 0.25, "AAAA"),),
    ),
)
LATER = {"given", "ahead"}  # fields that files of former releases lack
texts = st.text(max_size=5)


def stored(record: TaskRecord | Evaluation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(record.to_json(), allow_nan=False))
    return found


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Return the fields; the class, whose types are checked at random places, is made outside."""
    classes = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    known = draw(st.lists(st.sampled_from(classes), unique=True))
    moved = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    return {
        "task": draw(st.integers(0, 99)),
        "name": draw(texts),
        "classes": tuple(classes),
        "known": tuple(known),
        "class_images": tuple(draw(st.integers(0)) for _ in classes),
        "skipped": tuple(draw(st.lists(texts, max_size=2))),
        "seconds": draw(st.floats(0, 1e9)),
        "state_bytes": draw(st.integers(0)),
        "exemplars": draw(st.integers(0)),
        "state": tuple(draw(st.lists(texts, max_size=2))),
        "moved": tuple(moved),
        "texts": draw(st.sampled_from([(), tuple(classes[::-1])])),
        "templates": tuple(draw(st.lists(texts, max_size=2))),
    }


@st.composite
def evaluations(draw: st.DrawFn) -> dict[str, Any]:
    tasks = draw(st.integers(1, 3))
    counts = st.integers(0, 9)

    def square() -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(draw(counts) for _ in range(tasks)) for _ in range(tasks))

    def shares(number: int) -> tuple[float, ...]:
        return tuple(draw(st.floats(0, 1)) for _ in range(number))

    ahead = draw(st.none() | st.integers(tasks, 4))
    return {
        "accuracy": shares(tasks),
        "images": tuple(draw(counts) for _ in range(tasks)),
        "confusion": square(),
        "match": {str(index): draw(counts) for index in draw(st.sets(counts))},
        "matched": draw(st.sampled_from([None, square()])),
        "oracle": None if ahead is None else shares(ahead),
        "open": None if ahead is None else shares(ahead),
        "held_out": tuple(
            HeldOut(draw(texts), accuracy, draw(counts)) for accuracy in shares(draw(counts))
        ),
        "given": draw(st.sampled_from([None, shares(tasks)])),
        "ahead": draw(st.none() | st.floats(0, 1)),
    }


@given(records())
def test_every_task_s_record_is_read_as_it_was_written(fields: dict[str, Any]) -> None:
    record = TaskRecord(**fields)
    assert TaskRecord.from_json(stored(record)) == record


@given(evaluations())
def test_every_evaluation_is_read_as_it_was_written(fields: dict[str, Any]) -> None:
    evaluation = Evaluation(**fields)
    assert Evaluation.from_json(stored(evaluation)) == evaluation


@pytest.mark.parametrize("kind", [RECORD, EVALUATION])
def test_a_reader_wants_every_field_and_no_other(kind: TaskRecord | Evaluation) -> None:
    whole = stored(kind)
    for name in whole.keys() - LATER:
        with pytest.raises(RecordError, match=f"must be an object with the field '{name}'"):
            type(kind).from_json({key: value for key, value in whole.items() if key != name})
    with pytest.raises(RecordError, match="must be an object without further fields, got"):
        type(kind).from_json({**whole, "accuracies": []})
    for other in (None, [], "x", 3):
        with pytest.raises(RecordError, match="must be a JSON object"):
            type(kind).from_json(other)


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"task": -1}, r"task.task must be a whole number of at least 0, got -1"),
        ({"task": True}, r"task.task must be a whole number"),
        ({"task": 1.0}, r"task.task must be a whole number"),
        ({"name": None}, r"task.name must be a text, got None"),
        ({"classes": []}, r"task.classes must be names of one class or more, each once"),
        ({"classes": ["owl", "owl"]}, r"task.classes must be names of one class or more"),
        ({"classes": ["owl", 3]}, r"task.classes\[1\] must be a text, got 3"),
        ({"known": ["cow"]}, r"task.known must be among the task's classes"),
        ({"moved": ["hen"]}, r"task.moved must be among the known classes"),
        ({"texts": ["a"]}, r"task.texts must be one text for each class row, or none"),
        ({"class_images": [9]}, r"task.class_images must be one count for each class"),
        ({"skipped": "x.png"}, r"task.skipped must be a list"),
        ({"seconds": -1.0}, r"task.seconds must be a time of at least 0 seconds"),
        ({"seconds": float("nan")}, r"task.seconds must be a finite number"),
    ],
)
def test_what_is_no_record_of_a_task_is_refused(changes: dict[str, Any], must: str) -> None:
    with pytest.raises(RecordError, match=must):
        TaskRecord.from_json({**stored(RECORD), **changes})


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"accuracy": []}, r"evaluation.images must be one count for each of the 0 accuracies"),
        ({"images": [4]}, r"evaluation.images must be one count for each of the 2 accuracies"),
        ({"accuracy": [0.5, 1.5]}, r"evaluation.accuracy\[1\] must be a share in 0..1, got 1.5"),
        ({"confusion": [[3, 1]]}, r"evaluation.confusion must be a table of 2 x 2 counts"),
        ({"confusion": [[3, 1], [0]]}, r"evaluation.confusion must be a table of 2 x 2 counts"),
        ({"confusion": [[3, 1], [0, -1]]}, r"evaluation.confusion\[1\]\[1\] must be a whole"),
        ({"matched": [[4, 0]]}, r"evaluation.matched must be a table of 2 x 2 counts"),
        ({"match": {"x": 1}}, r"evaluation.match must be counts by whole numbers, got 'x'"),
        ({"match": [1]}, r"evaluation.match must be a JSON object"),
        ({"oracle": None}, r"evaluation.oracle and .open must be both null, or shares of 2"),
        ({"open": [0.5]}, r"evaluation.oracle and .open must be both null, or shares of 2"),
        ({"classes": {"names": []}}, r"evaluation.classes must be an object with the field"),
    ],
)
def test_what_is_no_evaluation_is_refused(changes: dict[str, Any], must: str) -> None:
    with pytest.raises(RecordError, match=must):
        Evaluation.from_json({**stored(EVALUATION), **changes})


def test_rows_count_until_a_task_moves_their_class() -> None:
    def task(index: int, *classes: str, moved: tuple[str, ...] = ()) -> TaskRecord:
        images = tuple(range(1, 1 + len(classes)))
        return TaskRecord(index, "t", classes, moved, images, (), 0.0, moved=moved)

    tasks = (task(0, "hen", "owl"), task(1, "owl", "cow", moved=("owl",)), task(2, "owl"))
    known = Knowledge(({},) * 3, tasks, {})
    assert known.live_rows == (True, False, True, True, True)
    assert known.row_images == (1, 0, 2 + 1, 2, 1)


def test_a_writer_may_not_make_what_a_reader_refuses() -> None:
    with pytest.raises(RecordError, match=r"task.known must be among"):
        dataclasses.replace(RECORD, known=("cow",))
    with pytest.raises(RecordError, match=r"evaluation.oracle and .open must be both null"):
        dataclasses.replace(EVALUATION, open=None)


def test_readers_of_readers() -> None:
    fields = Fields({"a": {"x": [1, None]}, "b": 2, "c": "d"}, "file")
    assert fields.take("a", named(listed(optional(count)))) == {"x": (1, None)}
    assert fields.take("b", number) == 2.0
    with pytest.raises(RecordError, match=r"file must be an object without further.*\['c'\]"):
        fields.done()
    assert fields.take("c", text) == "d"
    fields.done()
    with pytest.raises(RecordError, match=r"got '?x{60}"):
        Fields("x" * 1000, "file")
