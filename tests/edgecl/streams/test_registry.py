"""Names and options of streams, and what every registered stream owes."""

import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgecl import streams as package
from edgecl.cli import data, train
from edgecl.streams import (
    ClassOptions,
    Stream,
    StreamError,
    _registry,
    load_stream,
    register_stream,
    stream_names,
    takes_option,
)
from edgecl.streams._registry import streams
from edgecl.streams.command_line import stream_options


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


@pytest.mark.parametrize("name", ["digits", "emoji-demo"])
def test_an_option_of_another_stream_is_refused(name):
    takes = r"takes the options seed, shots, .* increment, base.*; got 'root'\..* Or leave it out"
    with pytest.raises(StreamError, match=takes):
        load_stream(name, root="/somewhere")


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"shots": 0}, "Raise it or leave it out"),
        ({"increment": 0}, "Raise it or leave it out"),
        ({"base": -1}, "must be at least 0, got -1. Raise it or leave it out"),
        ({"base": 11}, "Lower base or increment"),
        ({"classes": 11}, "Lower it or leave it out"),
        ({"seed": -1}, "Try 1993"),
        ({"test_fraction": 1.0}, "Try 0.2"),
        ({"limit_train": 9}, "Raise it to at least 10"),
        ({"shots": "3"}, "digits.shots must be of type int or nothing, got '3'. Write it as JSON"),
    ],
)
def test_unfit_options_say_what_to_do(options, action):
    with pytest.raises(StreamError, match=action):
        load_stream("digits", **options)


def test_a_name_is_registered_once():
    with pytest.raises(AssertionError, match="twice"):
        register_stream("digits", ClassOptions)(lambda options: load_stream("emoji-demo"))


OWN_STREAM = """
from dataclasses import dataclass
from typing import Literal
from edgecl.streams import ClassOptions, Stream, load_stream, option, register_stream

@dataclass(frozen=True)
class OwnOptions(ClassOptions):
    colour: Literal["red", "blue"] | None = option("Of the images.")
    size: int = 8

@register_stream("own", OwnOptions)
def own(options: OwnOptions) -> Stream:
    inner = load_stream("digits", tasks=options.tasks)
    return Stream(options.name, "cil", inner.classes, inner.tasks, options.spec())
"""


@pytest.fixture
def own_stream(tmp_path, monkeypatch):
    """A package of streams with one file more."""
    (tmp_path / "_own_stream_of_a_test.py").write_text(OWN_STREAM)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield "own"
    del _registry._REGISTRY["own"], sys.modules["edgecl.streams._own_stream_of_a_test"]


def test_a_stream_is_one_file(own_stream):
    assert own_stream in stream_names()
    assert takes_option("own", "colour")
    stream = load_stream("own", tasks=2, colour="red")
    assert stream.spec == {"name": "own", "seed": 1993, "tasks": 2, "colour": "red", "size": 8}
    with pytest.raises(
        StreamError, match=r"own.colour must be one of .*'blue'.*, got 'green'. Pick one"
    ):
        load_stream("own", colour="green")
    with pytest.raises(StreamError, match="Did you mean 'colour'"):
        load_stream("own", color="red")


def test_its_options_are_options_of_the_command_line(own_stream):
    @click.command()
    @stream_options
    def command(**options):
        click.echo(json.dumps(options))

    result = CliRunner().invoke(
        command, ["--colour", "blue", "--train-styles", "noto", "--size", "9"]
    )
    given = {k: v for k, v in json.loads(result.stdout).items() if v is not None}
    assert given == {"colour": "blue", "train_styles": ["noto"], "size": 9}
    help_text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for words in ("Of the images. Of own.", "Not of mtil-mini.", "May be given several times."):
        assert words in help_text


def test_every_option_of_every_stream_is_on_the_command_line():
    command_lines = {
        name: {param.name for param in command.params}
        for name, command in (("train", train), ("unpack", unpack_command()))
    }
    for name, entry in streams().items():
        for options in command_lines.values():
            assert set(entry.takes()) <= options, name


def unpack_command():
    group = data
    return group.commands["unpack"]


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
