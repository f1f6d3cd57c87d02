"""An order of classes that was given: from a file, in the spec, exact."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgecl.cli.data import data
from edgecl.streams import StreamError, load_stream

MakeFolder = Callable[..., Path]
NAMES = ["eel", "cat", "emu", "a dog"]
FOUR = dict.fromkeys(NAMES, 3)


@pytest.mark.parametrize(
    "content",
    ["eel\ncat\n\nemu \r\na dog\n", "\ufeff" + json.dumps(NAMES), json.dumps(NAMES, indent=1)],
)
def test_an_order_from_a_file_stays_in_the_spec(
    content: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder(FOUR)
    file = tmp_path / "order"
    file.write_text(content, encoding="utf-8", newline="")
    stream = load_stream(str(root), increment=3, class_order=str(file))
    assert [task.classes for task in stream.tasks] == [("eel", "cat", "emu"), ("a dog",)]
    assert stream.spec["class_order"] == NAMES
    file.unlink()
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert again.classes == stream.classes
    assert again.tasks[1].train.names == stream.tasks[1].train.names


def test_only_the_order_changes(make_folder: MakeFolder) -> None:
    """Shots and held-out images are by the seed, as without the order."""
    root = make_folder(dict.fromkeys(NAMES, 9))
    ways = [
        load_stream(str(root), increment=1, shots=2, **options)
        for options in ({}, {"class_order": NAMES})
    ]
    used = [
        {n for task in way.tasks for n in (*task.train.names, *task.test.names)} for way in ways
    ]
    assert used[0] == used[1]
    assert "class_order" not in ways[0].spec


@pytest.mark.parametrize(
    ("names", "must"),
    [
        (NAMES[:-1], r"each of the 4 classes once; 1 is missing: 'a dog'\. Correct the file"),
        ([*NAMES, "Cat"], r"1 is unknown: 'Cat'"),
        ([*NAMES, "emu", "eel"], r"2 are twice: 'eel', 'emu'"),
    ],
)
def test_an_order_names_every_class_once(
    names: list[str], must: str, make_folder: MakeFolder
) -> None:
    with pytest.raises(StreamError, match=must):
        load_stream(str(make_folder(FOUR)), increment=1, class_order=names)


@pytest.mark.parametrize(
    ("content", "must"),
    [
        (b"[1, 2]", "names, or a text with one name in each line; .* holds 1"),
        (b"[1, ", "class_order must be JSON"),
        (b"\xff\xfe", "must be a file in UTF-8"),
    ],
)
def test_what_is_no_order(
    content: bytes, must: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    (tmp_path / "order").write_bytes(content)
    with pytest.raises(StreamError, match=must):
        load_stream(str(make_folder(FOUR)), increment=1, class_order=tmp_path / "order")


def test_a_long_order_is_read_in_time(tmp_path: Path) -> None:
    from edgecl.streams._option_files import positions

    names = [f"class {n}" for n in range(20_000)]
    assert positions(names[::-1], names) == tuple(range(len(names)))[::-1]


def test_of_the_first_classes_alone() -> None:
    first = load_stream("digits", classes=4, seed=None).classes
    stream = load_stream("digits", classes=4, class_order=first[::-1])
    assert stream.classes == first[::-1]


def test_task_folders_have_their_order(make_folder: MakeFolder) -> None:
    root = make_folder({"task_0/cat": 1, "task_1/dog": 1})
    with pytest.raises(StreamError, match=r"fix the tasks.*Leave class_order out"):
        load_stream(str(root), class_order=["dog", "cat"])


def test_on_the_command_line(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("\n".join(NAMES))
    options = ["--increment", "4", "--class-order", str(tmp_path / "order.txt")]
    out = tmp_path / "out"
    done = CliRunner().invoke(data, ["unpack", str(make_folder(FOUR)), str(out), *options])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (out / "train" / "task_00").iterdir()} == set(NAMES)
