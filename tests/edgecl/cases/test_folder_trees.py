"""Folder trees that nobody thought of: every file has an account, no part is a class, no leak."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecl.backbones.preprocess import Preprocess
from edgecl.errors import EdgeclError
from edgecl.streams import Stream, load_stream, task_from_folder
from edgecl.streams.folders.layouts import part_of
from edgecl_deploy.format import Preprocessing
from edgecl_deploy.images import prepare

FOLDERS = [
    *("cat", "dog", "Cat", "train", "test", "val", "valid", "Training", "test_set", "task_0"),
    *("task_00", "task1", "images", "__MACOSX", ".hidden", "@eaDir", "Käse", "a b", "\u202e", "-x"),
]
FILES = [
    *("1.png", "2.PNG", "3.jpg", "4.txt", ".5.png", "Thumbs.db", "6.gif", "line\nbreak.png"),
    *(
        "labels.csv",
        "_classes.csv",
        "metadata.jsonl",
        "train.csv",
        "%s.png",
        "noending",
        "\udce9.png",
    ),
]
TEXTS = [
    b"", b"no image", b"file,label\n1.png,cat\n2.PNG,dog\n", b"filename, cat, dog\n1.png, 1, 0\n",
    b'{"file": "1.png", "label": "dog", "split": "test"}\n', b"file,label,split\n1.png,a,nowhere\n",
    b"file,label\n../../etc/passwd,a\n", b"\xff\xfe\x00", b"file,label,task\n1.png,test,3\n",
]  # fmt: skip
KINDS = ["image"] * 6 + ["text", "pipe", "link", "nowhere", "up"]

entries = st.tuples(
    st.lists(st.sampled_from(FOLDERS), max_size=4),
    st.sampled_from(FILES),
    st.sampled_from(KINDS),
    st.integers(0, 30),
)
trees = st.lists(entries, max_size=50)
PREPROCESS = Preprocess(size=8, resize=9, fit="pad", window=(0.0, 54_000.0))
DEVICE = Preprocessing(**vars(PREPROCESS))
CLASSES = ["cat", "dog", "Käse", "a b", "\u0645\u06cc\u200c\u062e"]
PLANS = [
    ["C"], ["train/C", "test/C"], ["train/C", "val/C"], ["Training/C", "valid/C", "test/C", "test"],
    ["train/C"], ["wrapper/train/C", "wrapper/val/C"], ["task_0/C", "task_1/D"],
    ["train/task_0/C", "train/task_01/D", "test/task_00/C", "test/D"],
    ["train/task_0/C", "train/task_01/D", "validation/task_00/C"],
    ["task_0/train/C", "task_0/test/C", "task_1/train/D"], ["C", "C/nested/deep", "D"],
    ["train/C", "train/task_x/D", "test/C/1"],
]  # fmt: skip
DIRT = ["__MACOSX", ".hidden", "@eaDir", "Thumbs.db", "notes", "labels", "cat", "cat/more", "."]


@st.composite
def planted(draw: st.DrawFn) -> list[tuple[list[str], str, str, int]]:
    """Draw a tree of a layout that is understood, and a little dirt."""
    plan = draw(st.sampled_from(PLANS))
    tree = []
    for _ in range(draw(st.integers(2, 40))):
        pattern = draw(st.sampled_from(plan))
        name = draw(st.sampled_from(CLASSES[:3]))
        folders = [{"C": name, "D": f"{name}-2"}.get(piece, piece) for piece in pattern.split("/")]
        file = f"{draw(st.integers(0, 60))}.png"
        tree.append((folders, file, "image", draw(st.integers(0, 60))))
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.sampled_from(DIRT)).split("/")
        kind = draw(st.sampled_from(["text", "nowhere", "up", "pipe"]))
        tree.append((place, draw(st.sampled_from(FILES)), kind, draw(st.integers(0, 30))))
    return tree


forests = st.one_of(trees, planted(), planted(), planted(), planted())
asked = st.fixed_dictionaries(
    {"increment": st.just(1)},
    optional={
        "shots": st.integers(1, 3),
        "test_fraction": st.sampled_from([0.0, 0.2, 0.5]),
    },
)


def grow(root: Path, tree: list[tuple[list[str], str, str, int]]) -> None:
    """Write what a tree describes; what cannot be written there is left out."""
    root.mkdir(exist_ok=True)
    for folders, name, kind, number in tree:
        path = root.joinpath(*folders, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                continue
            if name.endswith(("csv", "jsonl")) or kind == "text":
                path.write_bytes(TEXTS[number % len(TEXTS)])
            elif kind == "image":
                with path.open("wb") as file:
                    picture(number).save(file, format="PNG")
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                to = {"link": root / "1.png", "nowhere": root / "none", "up": root}[kind]
                path.symlink_to(to)
        except OSError:
            continue


def picture(number: int) -> Image.Image:
    """Draw a small picture; its number decides on its kind of pixels and its content."""
    levels = np.full((3, 4), number, np.uint16)
    levels[1, 2] = 7 * number % 61
    if number % 5 == 4:
        return Image.fromarray(levels * 900)
    return Image.fromarray(levels.astype(np.uint8)).convert(("L", "RGB", "RGBA", "P")[number % 5])


def count(root: Path) -> int:
    """Return how many entries are no folders; a link to a folder above counts as one."""
    return sum(
        len(names) + sum(os.path.islink(os.path.join(place, name)) for name in folders)
        for place, folders, names in os.walk(root)
    )


@contextmanager
def place() -> Iterator[Path]:
    """Make a folder for one tree, and a cache of its own."""
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECL_CACHE", str(folder / "cache"))
        yield folder
    shutil.rmtree(folder)


def check(stream: Stream, root: Path) -> None:
    """Check one stream against its folder."""
    files = stream.files
    parts = sum(reason.count for reason in (*files.skipped, *files.ignored))
    assert files.total == count(root) == files.training + files.test + parts
    assert files.training == sum(len(task.train) for task in stream.tasks)
    assert files.test == sum(len(task.test) for task in stream.tasks)
    for reason in (*files.skipped, *files.ignored):
        assert reason.first
        "".join(reason.first).encode()
    for task in stream.tasks:
        for images in (task.train, task.test):
            for index, name in enumerate(images.names):
                learned = PREPROCESS(images.image(index))
                assert np.array_equal(learned, prepare(name, DEVICE)), name
        assert set(task.train.labels) == {stream.classes.index(name) for name in task.classes}
        assert not set(task.train.names) & set(task.test.names)
        if not files.layout.startswith("table"):
            for name, label in zip(task.train.names, task.train.labels, strict=True):
                check_class(Path(name).relative_to(root).parts[:-1], stream.classes[label])


def check_class(folders: tuple[str, ...], label: str) -> None:
    """Check that a class that is called like a part is below a part."""
    assert label in folders
    if part_of(label):
        assert any(
            part_of(name) for name in folders[: len(folders) - folders[::-1].index(label) - 1]
        )


def contents(stream: Stream) -> tuple[set[bytes], set[bytes]]:
    """Return what is trained and what is tested."""
    return tuple(  # type: ignore[return-value]
        {Path(name).read_bytes() for task in stream.tasks for name in getattr(task, part).names}
        for part in ("train", "test")
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes and bytes in names are POSIX")
@given(tree=forests, more=forests, options=asked, gone=st.sets(st.integers(0, 49)))
@settings(max_examples=120, deadline=None)
def test_any_tree(tree, more, options, gone):
    with place() as folder:
        root = folder / "root"
        grow(root, tree)
        stream = load(root, options)
        if stream is not None:
            check(stream, root)
            trained, _ = contents(stream)
        held_out = stream is not None and part_free(stream)
        for index, (folders, name, _, _) in enumerate(tree):
            path = root.joinpath(*folders, name)
            if index in gone and path.is_file() and not path.is_symlink():
                path.rename(path.with_name(f"moved-{index}.png")) if index % 2 else path.unlink()
        grow(root, more)
        again = load(root, options)
        if again is None:
            return
        check(again, root)
        if held_out and part_free(again):
            assert not contents(again)[1] & trained


def load(root: Path, options: dict[str, Any]) -> Stream | None:
    """Load a stream, as task folders where it has them; None where it is refused."""
    try:
        try:
            return load_stream(str(root), **options)
        except EdgeclError as error:
            if "Leave increment out" not in str(error) and "Leave test_fraction" not in str(error):
                raise
            options = {k: v for k, v in options.items() if k not in ("increment", "test_fraction")}
            return load_stream(str(root), **options)
    except EdgeclError as error:
        str(error).encode()
        return None


def part_free(stream: Stream) -> bool:
    """Return whether the seed chooses the test images of a folder, not its layout."""
    words = stream.files.layout
    return not words.startswith("table") and "val" not in words and "test" not in words


@pytest.mark.skipif(os.name != "posix", reason="pipes and bytes in names are POSIX")
@given(tree=forests, protocol=st.sampled_from(["cil", "dil"]))
@settings(max_examples=60, deadline=None)
def test_any_tree_as_a_new_task(tree, protocol):
    with place() as folder:
        grow(folder / "root", tree)
        try:
            task = task_from_folder(folder / "root", ("cat", "known"), protocol=protocol)
        except EdgeclError as error:
            str(error).encode()
            return
        assert task.files.total == count(folder / "root")
        assert task.files.training == len(task.train) > 0


classes = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 60)), min_size=1, max_size=40
)


@given(first=classes, second=classes, fraction=st.sampled_from([0.2, 0.5, 0.9]), one=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_was_trained_on_is_never_tested(first, second, fraction, one):
    with place() as folder:
        root = folder / "root"
        trained: set[bytes] = set()
        for state in (first, second, [*second, *first]):
            shutil.rmtree(root, ignore_errors=True)
            for index, (label, number) in enumerate(state):
                path = root / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (3, 3), number).save(path)
            chosen = {"shots": 1} if one else {}
            stream = load_stream(str(root), increment=1, test_fraction=fraction, **chosen)
            learned, tested = contents(stream)
            assert not tested & (trained | learned)
            trained |= learned
