"""Names and options of streams, and what every registered stream owes."""

import json
from pathlib import Path

import pytest

from edgecl.streams import Stream, StreamError, load_stream, register_stream, stream_names


def summary(stream: Stream) -> list[object]:
    """Everything about a stream except its pixels."""
    tasks = [
        (t.name, t.classes, t.train.names, t.train.labels, t.test.names, t.test.labels, t.skipped)
        for t in stream.tasks
    ]
    return [stream.name, stream.protocol, stream.classes, tasks, stream.spec]


@pytest.mark.parametrize(
    "options",
    [
        {"name": "digits"},
        {"name": "digits", "seed": None, "increment": 3, "base": 4, "shots": 5, "tasks": 2},
        {"name": "emoji-demo", "limit_train": 120, "limit_test": 60},
        {"name": "emoji-demo", "classes": 30, "seed": 7},
    ],
)
def test_spec_rebuilds_the_same_stream(options):
    stream = load_stream(**options)
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert summary(again) == summary(stream)
    assert stream.tasks[0].train.image(0).tobytes() == again.tasks[0].train.image(0).tobytes()


@pytest.mark.parametrize("name", ["digits", "emoji-demo"])
def test_labels_index_the_streams_classes_in_order_of_appearance(name):
    stream = load_stream(name)
    assert stream.protocol == "cil"
    assert stream.classes == tuple(c for task in stream.tasks for c in task.classes)
    for task in stream.tasks:
        for part in (task.train, task.test):
            assert {stream.classes[label] for label in part.labels} == set(task.classes)
        assert not set(task.train.names) & set(task.test.names)


def test_every_documented_stream_is_registered():
    assert {
        "digits",
        "emoji-demo",
        "fashion-mnist",
        "folder",
        "openemoji10",
        "torchvision",
    } <= set(stream_names())


def test_every_registered_stream_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "streams.md").read_text()
    for name in stream_names():
        assert f"`{name}" in page


def test_unknown_stream_names_the_nearest_one():
    with pytest.raises(StreamError, match=r"must be one of .*emoji-demo.*Did you mean 'digits'\?"):
        load_stream("digit")


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(StreamError, match="Did you mean 'limit_train'"):
        load_stream("digits", limit_trian=3)


def test_unused_option_is_refused():
    with pytest.raises(StreamError, match=r"root.*Leave out what it does not take"):
        load_stream("digits", root="/somewhere")


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"shots": 0}, "Raise it or leave it out"),
        ({"increment": 0}, "Raise it or leave it out"),
        ({"base": -1}, "Use 0 for equal tasks"),
        ({"base": 11}, "Lower base or increment"),
        ({"classes": 11}, "Lower it or leave it out"),
        ({"seed": -1}, "Try 1993"),
        ({"test_fraction": 1.0}, "Try 0.2"),
        ({"limit_train": 9}, "Raise it to at least 10"),
    ],
)
def test_unfit_options_say_what_to_do(options, action):
    with pytest.raises(StreamError, match=action):
        load_stream("digits", **options)


def test_a_name_is_registered_once():
    with pytest.raises(AssertionError, match="twice"):
        register_stream("digits")(lambda options: load_stream("emoji-demo"))


def test_digits_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(StreamError, match=r"Install edgecl\[digits\]"):
        load_stream("digits")


def test_digits_are_five_tasks_of_two():
    stream = load_stream("digits")
    assert [len(task.classes) for task in stream.tasks] == [2] * 5
    assert sum(len(t.train) + len(t.test) for t in stream.tasks) == 1797
    image = stream.tasks[0].train.image(0)
    assert (image.mode, image.size) == ("L", (8, 8))
    assert max(image.tobytes()) > 200
