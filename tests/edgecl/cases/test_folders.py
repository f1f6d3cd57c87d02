"""What a folder is: the layouts of the field, their dirt, and what is refused before any work."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgecl.streams import (
    Stream,
    StreamError,
    load_stream,
    split_validation,
    task_from_folder,
)

Text = str | bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache of the test."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(root: Path, names: Sequence[str], texts: Mapping[str, Text] | None = None) -> Path:
    """Write an image of its own for each name, `{0-4}` for five of them, and other files."""
    number = 0
    for name in names:
        head, _, tail = name.partition("{")
        count, _, tail = tail.partition("}") if tail else ("1", "", "")
        for index in range(int(count)):
            path = root / (f"{head}{index}{tail}" if "{" in name else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            number += 1
            Image.new("RGB", (9, 7), (number % 256, number // 256, 99)).save(path)
    for name, text in (texts or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


@dataclass(frozen=True)
class Case:
    """A folder that is understood.

    Attributes:
        tasks: of each task, the classes with the counts of training and test images; a class's
            images that are held out count as training.
        why: reasons of the account, with counts.
    """

    name: str
    images: Sequence[str]
    tasks: Sequence[Mapping[str, tuple[int, int]]]
    layout: str
    texts: Mapping[str, Text] | None = None
    options: Mapping[str, Any] | None = None
    why: Mapping[str, int] | None = None
    notes: Sequence[str] = ()


ONE = {"increment": 1}  # a task; a case has all of its classes in one
UNDERSTOOD = [
    Case("classes", ["cat/{3}.png", "dog/{2}.jpg"], [{"cat": (3, 0), "dog": (2, 0)}],
         "2 class folders", options={**ONE, "test_fraction": 0.0}),
    Case("capitals and many endings", ["cat/a.PNG", "cat/b.JPeG", "cat/c.webp", "dog/d.tiff"],
         [{"cat": (3, 0), "dog": (1, 0)}], "2 class folders", options=ONE),
    Case("one image per class", ["a/1.png", "b/1.png", "c/1.png"],
         [{"a": (1, 0), "b": (1, 0), "c": (1, 0)}], "3 class folders", options=ONE),
    Case("one class", ["cat/{4}.png"], [{"cat": (4, 0)}], "1 class folder", options=ONE),
    Case("one task of single-image classes", ["task_0/a/1.png", "task_0/b/1.png"],
         [{"a": (1, 0), "b": (1, 0)}], "2 class folders in 1 task folder"),
    Case("tasks by number, in capitals and with other zeros",
         ["Task-10/c/1.png", "TASK_2/b/1.png", "task1/a/1.png"],
         [{"a": (1, 0)}, {"b": (1, 0)}, {"c": (1, 0)}], "3 class folders in 3 task folders"),
    *(Case(f"train and {held}", ["train/a/{3}.png", "train/b/{3}.png", f"{held}/a/1.png"],
           [{"a": (3, 1), "b": (3, 0)}], f"2 class folders, parts train and {part}", options=ONE,
           notes=["1 of 2 classes have no test image: b"])
      for held, part in (("val", "val"), ("valid", "val"), ("validation", "val"), ("Test", "test"),
                         ("testing", "test"), ("test_set", "test"))),
    Case("train, val and test", ["train/a/{3}.png", "valid/a/{2}.png", "test/a/1.png"],
         [{"a": (3, 1)}], "1 class folder, parts train and val and test", options=ONE,
         why={"a validation part next to a test part, which nothing uses": 2}),
    Case("a test part without labels, so validation is the test",
         ["train/a/{3}.png", "validation/a/{2}.png", "test/{4}.png"], [{"a": (3, 2)}],
         "1 class folder, parts train and val and test", options=ONE,
         why={"an image outside of every class folder": 4},
         notes=["the validation part is the test part, as there is no other"]),
    Case("train alone", ["train/a/{3}.png", "train/b/{3}.png"], [{"a": (3, 0), "b": (3, 0)}],
         "2 class folders, part train", options={**ONE, "test_fraction": 0}),
    Case("parts above tasks", ["train/task_00/a/1.png", "train/task_01/b/1.png",
         "test/task_01/b/{2}.png"], [{"a": (1, 0)}, {"b": (1, 2)}],
         "2 class folders in 2 task folders, parts train and test"),
    Case("tasks of the test part with other zeros",
         ["train/task_0/a/1.png", "train/task_1/b/1.png", "test/task_00/a/1.png"],
         [{"a": (1, 1)}, {"b": (1, 0)}], "2 class folders in 2 task folders, parts train and test"),
    Case("parts below tasks", ["task_0/train/a/{2}.png", "task_0/val/a/1.png",
         "task_1/train/b/1.png"], [{"a": (2, 1)}, {"b": (1, 0)}],
         "2 class folders in 2 task folders, parts train and val"),
    Case("a test part by class", ["train/task_0/a/1.png", "train/task_1/b/1.png", "test/b/{3}.png",
         "test/a/1.png"], [{"a": (1, 1)}, {"b": (1, 3)}],
         "2 class folders in 2 task folders, parts train and test"),
    Case("a test part by task of classes", ["train/a/1.png", "train/b/1.png",
         "test/task_0/b/{2}.png"], [{"a": (1, 0), "b": (1, 2)}],
         "2 class folders in 1 task folder, parts train and test", options=ONE),
    Case("folders in classes", ["cat/2023/mai/{2}.png", "cat/1.png", "dog/x/1.png"],
         [{"cat": (3, 0), "dog": (1, 0)}], "2 class folders", options=ONE),
    Case("a class that is called like a part, under a part",
         ["train/task_0/train/1.png", "train/task_0/bus/1.png"],
         [{"bus": (1, 0), "train": (1, 0)}], "2 class folders in 1 task folder, part train"),
    Case("a folder above the parts, as archives have it",
         ["cats_and_dogs/train/cat/1.png", "cats_and_dogs/train/dog/1.png",
          "cats_and_dogs/validation/cat/1.png"], [{"cat": (1, 1), "dog": (1, 0)}],
         "2 class folders, parts train and val", {"cats_and_dogs/vectorize.py": "x"}, ONE,
         why={"without an image's ending": 1}),
    Case("Keras: flowers with a licence", ["daisy/{2}.jpg", "rose/{2}.jpg"],
         [{"daisy": (2, 0), "rose": (2, 0)}], "2 class folders", {"LICENSE.txt": "free"},
         {**ONE, "test_fraction": 0}, {"without an image's ending": 1}),
    Case("Roboflow: folders", ["train/a/1.jpg", "valid/a/1.jpg", "test/a/1.jpg"], [{"a": (1, 1)}],
         "1 class folder, parts train and val and test",
         {"README.dataset.txt": "x", "README.roboflow.txt": "x"}, ONE,
         {"without an image's ending": 2}),
    Case("Roboflow: _classes.csv in each part", ["train/{3}.jpg", "valid/{1}.jpg", "test/{2}.jpg"],
         [{"cat": (1, 1), "dog": (1, 0)}], "table test/_classes.csv, train/_classes.csv, "
         "valid/_classes.csv, 2 classes",
         {"train/_classes.csv": "filename, cat, dog\n0.jpg, 1, 0\n1.jpg, 0, 1\n2.jpg, 1, 1\n",
          "valid/_classes.csv": "filename, cat, dog\n0.jpg, 0, 1\n",
          "test/_classes.csv": "filename, cat, dog\n0.jpg, 1, 0\n1.jpg, 0, 0\n"}, ONE,
         {"with several labels in the table": 1, "without a label in the table": 1,
          "a validation part next to a test part, which nothing uses": 1,
          "the table of labels": 3}),
    Case("Ultralytics: classification", ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg",
         "test/b/1.jpg"], [{"a": (1, 0), "b": (1, 1)}],
         "2 class folders, parts train and val and test", {"train.cache": "x"}, ONE,
         {"without an image's ending": 1}),
    Case("fastai: valid, models and labels.csv",
         ["train/3/1.png", "train/7/1.png", "valid/3/1.png"],
         [{"3": (1, 1), "7": (1, 0)}], "2 class folders, parts train and val",
         {"models/stage-1.pth": "x", "labels.csv":
          "name,label\ntrain/3/1.png,3\ntrain/7/1.png,7\nvalid/3/1.png,3\n"}, ONE,
         {"without an image's ending": 1,
          "a table that gives no label, as the folders or another table do": 1}),
    Case("fastai: labels.csv with is_valid", ["images/{4}.png"], [{"a": (2, 1), "b": (1, 0)}],
         "table labels.csv, 2 classes",
         {"labels.csv": "name,label,is_valid\n0,a,False\n1,a,False\n2,b,False\n3,a,True\n"}, ONE,
         {"the table of labels": 1}),
    Case("a table: semicolons, a mark and a split", ["{5}.png"],
         [{"chien é": (2, 1), "x": (1, 0)}], "table index.csv, 2 classes",
         {"index.csv": "\ufefffile;label;split\n0.png;chien é;train\n1.png;chien é;train\n"
          "2.png;x;train\n3.png;chien é;test\n9.png;x;test\n"}, ONE,
         {"an image that the table does not name": 1},
         ["1 rows of the table name no image: 9.png"]),
    Case("JSON lines with tasks", ["img/{3}.png"], [{"b": (1, 0)}, {"a": (1, 0)}],
         "table meta.jsonl, 2 classes in 2 tasks",
         {"meta.jsonl": '{"file_name": "0.png", "label": "a", "task": 2}\n'
          '{"file_name": "img/1.png", "label": "b", "task": 1}\n'}, None,
         {"an image that the table does not name": 1}),
    Case("domains of a table", ["{4}.png"], [{"a": (1, 0), "b": (1, 0)}] * 2,
         "table t.csv, 2 classes in 2 tasks",
         {"t.csv": "path,class,domain\n0.png,a,day\n1.png,b,day\n2.png,a,night\n3.png,b,night\n"},
         {"protocol": "dil"}),
    Case("tables that are named after the parts", ["pics/{3}.png"], [{"a": (1, 1), "b": (1, 0)}],
         "table test.csv, train.csv, 2 classes",
         {"train.csv": "image,label\n0.png,a\n1.png,b\n", "test.csv": "image,label\n2.png,a\n"},
         ONE),
    Case("what systems leave", ["a/1.png", "b/1.png", "__MACOSX/a/._1.png", "@eaDir/a/2.png",
         ".git/x.png", "a/.hidden.png"], [{"a": (1, 0), "b": (1, 0)}], "2 class folders",
         {"a/Thumbs.db": "x", ".DS_Store": "x", "b/desktop.ini": "x"}, ONE,
         {"left there by a system": 5, "hidden": 2}),
    Case("broken images and other files", ["a/1.png", "b/1.png", "top.png"],
         [{"a": (1, 0), "b": (1, 0)}], "2 class folders",
         {"a/2.png": b"", "b/notes.txt": "x", "b/3.jpg": "text"}, ONE,
         {"not readable as an image": 2, "without an image's ending": 1,
          "an image outside of every class folder": 1}),
]  # fmt: skip


def counts(stream: Stream) -> list[dict[str, tuple[int, int]]]:
    return [
        {
            name: tuple(
                sum(stream.classes[label] == name for label in part.labels)
                for part in (task.train, task.test)
            )
            for name in task.classes
        }
        for task in stream.tasks
    ]


def reasons(stream: Stream) -> dict[str, int]:
    files = stream.files
    return {reason.why: reason.count for reason in (*files.skipped, *files.ignored)}


@pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda case: case.name)
def test_a_layout_of_the_field_is_understood(case: Case, tmp_path: Path) -> None:
    root = make(tmp_path / "root", case.images, case.texts)
    options = dict(case.options or {})
    if "increment" in options:
        options["increment"] = len(case.tasks[0])
    stream = load_stream(str(root), seed=None, **options)
    found, files = counts(stream), stream.files
    if not any(held for task in case.tasks for _, held in task.values()):  # a share may be held out
        found = [{name: (sum(n), 0) for name, n in task.items()} for task in found]
    assert found == [dict(task) for task in case.tasks]
    assert files.layout == case.layout
    assert files.total == sum(1 for _, _, names in os.walk(root) for _ in names)
    for why, count in (case.why or {}).items():
        assert reasons(stream)[why] == count
    assert set(case.notes) <= set(files.notes)


REFUSED = [
    ("a part among classes", ["cat/1.png", "test/1.png"], {}, ONE, "put all classes into a folder"),
    ("train among classes", ["bus/1.png", "train/1.png"], {}, ONE, r"'train' is a class, put all"),
    ("parts in classes", ["cat/train/1.png", "cat/test/1.png", "dog/1.png"], {}, ONE,
     "Parts and tasks must be above the classes"),
    ("parts above and below tasks", ["train/task_0/train/a/1.png", "train/task_0/test/a/1.png"], {},
     {}, "one level of parts and one of tasks"),
    ("COCO", ["train2017/1.jpg", "val2017/1.jpg"], {"annotations/captions.json": "{}"}, ONE,
     "Make one folder of images per class"),
    ("Ultralytics: detection", ["images/train/1.jpg", "images/val/1.jpg"],
     {"labels/train/1.txt": "0 0 0 1 1"}, ONE, "one folder of images per class"),
    ("Roboflow: objects", ["train/1.jpg"],
     {"train/_annotations.csv": "filename,width,height,class,xmin\n1.jpg,9,7,cat,0\n"}, ONE,
     "Make one folder of images per class"),
    ("a test part alone", ["test/a/1.png"], {}, ONE, "Rename the part that is for training"),
    ("flat images", ["{3}.png"], {}, ONE, "See docs/streams.md"),
    ("a folder above the classes", ["flowers/rose/1.png", "flowers/daisy/1.png"], {}, ONE,
     "Give that folder in place of the one above it"),
    ("two folders of one part", ["train/a/1.png", "val/a/1.png", "valid/a/1.png"], {}, ONE,
     "Merge the two"),
    ("two folders of one task", ["task_1/a/1.png", "task_01/b/1.png"], {}, {}, "Merge the two"),
    ("task folders next to classes", ["task_1/a/1.png", "cat/1.png"], {}, ONE,
     "Move these into a task folder"),
    ("a task of the test part only", ["train/task_0/a/1.png", "test/task_5/a/1.png"], {}, {},
     "Remove it, or add training images"),
    ("a class of another task", ["train/task_0/a/1.png", "train/task_1/b/1.png",
     "test/task_0/b/1.png"], {}, {}, "has also b. Remove these, or add training"),
    ("domains tested by class", ["train/task_0/a/1.png", "train/task_1/a/1.png", "test/a/1.png"],
     {}, {"protocol": "dil"}, "Make the task folders in the test part too"),
    ("a table against the folders", ["a/1.png", "b/1.png"],
     {"labels.csv": "file,label\na/1.png,b\nb/1.png,b\n"}, ONE, "path of the table in place"),
    ("two labels of one file", ["x/1.png"],
     {"labels.csv": "file,label\n1.png,a\nx/1.png,b\n"}, ONE, "row 2 of .* contradicts row 1"),
    ("two tables", ["x/1.png"], {"one.csv": "file,label\n1.png,a\n", "two.csv":
     "file,label\n1.png,a\n"}, ONE, "move the others out"),
    ("a split that is none", ["x/1.png"], {"t.csv": "file,label,split\n1.png,a,fold7\n"}, ONE,
     "must be train, val or test"),
    ("a class of pipes and broken links only", ["a/1.png"], {"b/readme": "x"}, ONE, "Add images"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("images", "texts", "options", "action"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_what_is_not_understood_is_refused_before_any_work(
    images: Sequence[str],
    texts: Mapping[str, Text],
    options: Mapping[str, Any],
    action: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make(tmp_path / "root", images, texts)
    monkeypatch.setattr("edgecl.streams.folders.index.Index.readings", lambda *_, **__: 1 / 0)
    with pytest.raises(StreamError, match=action):
        load_stream(str(root), **options)


def test_a_refusal_draws_what_was_found_and_what_would_be_understood(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["cat/{3}.png", "dog/a/1.png", "test/{2}.png"])
    with pytest.raises(StreamError) as error:
        load_stream(str(root), increment=1)
    text = str(error.value)
    for line in ("found", "    cat/  (3 images)", "      a/  (1 image)", "    test/  (2 images)"):
        assert line in text.splitlines()
    assert "ROOT/train/...  ROOT/test/..." in text


def test_a_table_may_be_given_in_place_of_its_folder(tmp_path: Path) -> None:
    texts = {"one.csv": "file,label\na/1.png,x\nb/1.png,y\n", "two.csv": "file,label\na/1.png,z\n"}
    root = make(tmp_path / "root", ["a/1.png", "b/1.png", "b/2.png"], texts)
    stream = load_stream(str(root / "one.csv"), increment=2, test_fraction=0.0)
    assert counts(stream) == [{"x": (1, 0), "y": (1, 0)}] or counts(stream) == [
        {"y": (1, 0), "x": (1, 0)}
    ]
    assert reasons(stream) == {
        "an image that the table does not name": 1,
        "the table of labels": 1,
        "a table that gives no label, as the folders or another table do": 1,
    }
    assert load_stream(**stream.spec).files == stream.files
    (root / "bad.csv").write_text("some,columns\n1,2\n")
    with pytest.raises(StreamError, match="Rename its columns"):
        load_stream(str(root / "bad.csv"), increment=1)


@pytest.mark.parametrize(
    ("names", "known", "classes", "training"),
    [
        (["asp/1.png", "emu/{2}.png"], (), ("asp", "emu"), 3),
        (["train/emu/{2}.png", "test/emu/1.png"], ("cat",), ("emu",), 2),
        (["task_07/emu/{2}.png"], (), ("emu",), 2),
        (["emu/2026/{2}.png", "asp/1.png"], (), ("asp", "emu"), 3),
    ],
)
def test_a_new_task_has_any_layout_of_one_task(
    names: list[str],
    known: tuple[str, ...],
    classes: tuple[str, ...],
    training: int,
    tmp_path: Path,
) -> None:
    task = task_from_folder(make(tmp_path / "new", names), known, test_fraction=0.0)
    assert (task.classes, len(task.train), task.files.training) == (classes, training, training)


def test_a_new_task_is_one(tmp_path: Path) -> None:
    root = make(tmp_path / "new", ["task_0/a/1.png", "task_1/b/1.png"])
    with pytest.raises(StreamError, match="folder of one of them, one after the other"):
        task_from_folder(root, ())


@pytest.mark.skipif(os.name != "posix", reason="pipes, links and bytes in names are POSIX")
def test_pipes_links_and_bytes_hang_and_hide_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/1.png", "b/1.png", "store/x.png"])
    os.rename(root / "store", tmp_path / "store")
    os.mkfifo(root / "a" / "camera.jpg")
    (root / "a" / "linked.png").symlink_to(tmp_path / "store" / "x.png")
    (root / "a" / "nowhere.png").symlink_to(tmp_path / "none.png")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "more").symlink_to(tmp_path / "store")
    Image.new("RGB", (3, 3)).save(tmp_path / "latin.png")
    os.rename(tmp_path / "latin.png", os.fsencode(root / "b") + b"/caf\xe9.png")
    Path(os.fsdecode(os.fsencode(root / "b") + b"/th\xe9.png")).write_bytes(b"no image")
    stream = load_stream(str(root), increment=2, test_fraction=0.0)
    assert sorted(name.removeprefix(str(root)) for name in stream.tasks[0].train.names) == [
        "/a/1.png", "/a/linked.png", "/b/1.png", "/b/caf\udce9.png", "/b/more/x.png",
    ]  # fmt: skip
    assert reasons(stream) == {
        "no regular file, or a link to nothing": 2,
        "a link to a folder above it": 1,
        "not readable as an image": 1,
    }
    assert stream.files.skipped[0].first == ("b/th\\xe9.png",)


def held(stream: Stream) -> set[bytes]:
    return {Path(name).read_bytes() for task in stream.tasks for name in task.test.names}


def learned(stream: Stream) -> set[bytes]:
    return {Path(name).read_bytes() for task in stream.tasks for name in task.train.names}


def test_the_split_does_not_depend_on_the_other_images(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/{40}.png", "b/{40}.png", "c/1.png"])
    first = load_stream(str(root), increment=3)
    trained, tested = learned(first), held(first)
    assert 4 <= len(tested) <= 30
    for number in range(0, 40, 3):  # gone, renamed, moved to another class, new
        (root / f"a/{number}.png").unlink()
        (root / f"b/{number}.png").rename(root / f"a/renamed-{number}.png")
        Image.new("L", (5, 5), number).save(root / f"b/new-{number}.png")
    root.rename(tmp_path / "moved")
    again = load_stream(str(tmp_path / "moved"), increment=3)
    assert not held(again) & trained
    assert not learned(again) & tested
    assert held(load_stream(str(tmp_path / "moved"), increment=3, seed=7)) != held(again)


def test_the_one_image_of_a_class_trains_for_ever(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "root", [f"c{index}/0.png" for index in range(30)])
    first = load_stream(str(root), increment=30, test_fraction=0.5)
    assert (first.files.training, first.files.test) == (30, 0)
    number = 0
    for index in range(30):
        for _ in range(4):
            number += 1
            Image.new("L", (5, number), 7).save(root / f"c{index}/{number}.png")
    again = load_stream(str(root), increment=30, test_fraction=0.5)
    assert again.files.test > 20
    assert not held(again) & learned(first)
    assert (cache / "folders" / "trained.bin").stat().st_size % 16 == 0


def test_copies_of_one_image_are_on_one_side(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/{20}.png", "b/1.png"])
    for number in range(20):
        (root / f"b/copy-{number}.png").write_bytes((root / f"a/{number}.png").read_bytes())
    stream = load_stream(str(root), increment=2)
    assert stream.files.test
    assert not held(stream) & learned(stream)


@pytest.mark.parametrize("options", [{"shots": 5}, {"limit_train": 10}, {"limit_test": 2}])
def test_few_images_are_chosen_inside_the_parts(options: dict[str, int], tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/{30}.png", "b/{30}.png"])
    whole, few = (load_stream(str(root), increment=2, **each) for each in ({}, options))
    assert learned(few) <= learned(whole)
    assert held(few) <= held(whole)
    left = whole.files.training + whole.files.test - few.files.training - few.files.test
    assert reasons(few)["left out by the options (tasks, classes, shots, limits)"] == left > 0
    trained = learned(few)
    (root / "a/0.png").unlink()
    assert not held(load_stream(str(root), increment=2, **options)) & trained


def test_validation_images_are_chosen_by_their_content(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/{30}.png", "b/{30}.png", "c/1.png"])
    task = load_stream(str(root), increment=3).tasks[0]
    train, validation = split_validation(task, 0.3, 5)
    assert sorted(train.names + validation.names) == sorted(task.train.names)
    assert {task.classes[label] for label in train.labels} == {"a", "b", "c"}
    chosen = {Path(name).name for name in validation.names if "/a/" in name}
    for path in sorted((root / "a").iterdir())[::2]:
        path.unlink()
    again = split_validation(load_stream(str(root), increment=3).tasks[0], 0.3, 5)[1]
    left = {path.name for path in (root / "a").iterdir()}
    assert {Path(name).name for name in again.names if "/a/" in name} == chosen & left


def test_copies_of_one_image_are_validated_or_trained_together(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a/{4}.png"])
    for path in sorted((root / "a").iterdir()):
        for copy in range(5):
            shutil.copy(path, path.with_stem(f"{path.stem}-{copy}"))
    task = load_stream(str(root), increment=1, test_fraction=0.0).tasks[0]
    for fraction in (0.5, 0.99):  # of nearly all, one image and its copies stay
        parts = split_validation(task, fraction, 5)
        firsts = [{Path(name).stem.partition("-")[0] for name in part.names} for part in parts]
        assert firsts[0] != set() != firsts[1]
        assert not firsts[0] & firsts[1]


def test_an_index_spares_what_did_not_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.streams.folders.index.FEW", 2)
    monkeypatch.setattr("edgecl.streams.folders.index.FRESH", 0)
    opened: list[str] = []
    from edgecl.streams.folders import reading

    inner = reading.read

    def read(path: str, *, decode: bool) -> reading.Reading:
        opened.append(Path(path).name)
        return inner(path, decode=decode)

    monkeypatch.setattr(reading, "read", read)
    root = make(tmp_path / "root", ["a/{3}.png", "b/{3}.png"], {"b/bad.png": "x"})
    first = load_stream(str(root), increment=2)
    assert len(opened) == 7
    assert load_stream(str(root), increment=2).files == first.files
    assert len(opened) == 7
    Image.new("RGB", (20, 20)).save(root / "a/1.png")
    again = load_stream(str(root), increment=2)
    assert opened[7:] == ["1.png"]
    assert again.tasks[0].skipped == first.tasks[0].skipped
    next((cache / "folders").glob("*.gz")).write_bytes(b"damaged")
    found = load_stream(str(root), increment=2)
    assert len(opened) == 15
    assert "cannot be used" in " ".join(found.files.notes)


def test_the_cache_holds_verdicts_of_one_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.streams.folders.index.FEW", 2)
    monkeypatch.setattr("edgecl.streams.folders.index.FRESH", 0)
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    root = make(tmp_path / "root", ["a/{3}.png", "b/{3}.png"])
    Image.new("L", (100, 90)).save(root / "a" / "large.png")
    skipped = []
    for limit in (None, "8000", None):
        if limit is not None:
            monkeypatch.setenv("EDGECL_MAX_PIXELS", limit)
        else:
            monkeypatch.delenv("EDGECL_MAX_PIXELS", raising=False)
        skipped.append(len(load_stream(str(root), increment=2).tasks[0].skipped))
    assert skipped == [0, 1, 0]


def test_a_cache_that_fails_is_one_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecl.streams.folders.index.FEW", 2)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "file"))
    stream = load_stream(str(make(tmp_path / "root", ["a/{3}.png"])), increment=1)
    assert sum("Make it writable, or name another" in note for note in stream.files.notes) == 1


def test_workers_read_what_one_process_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "root", ["a/{150}.png", "b/{50}.png"], {"b/bad.png": "x"})
    alone = load_stream(str(root), increment=2)
    monkeypatch.setattr("edgecl.streams.folders.reading.FEW", 10)
    monkeypatch.setattr("edgecl.streams.folders.reading.usable_cores", lambda: 2)
    shared = load_stream(str(root), increment=2)
    assert shared.files == alone.files
    monkeypatch.setenv("EDGECL_MAX_PIXELS", "1")  # the workers have it, too
    with pytest.raises(StreamError, match="201 broken"):
        load_stream(str(root), increment=2)
    monkeypatch.delenv("EDGECL_MAX_PIXELS")
    assert shared.tasks[0].test.names == alone.tasks[0].test.names
    monkeypatch.setattr("edgecl.streams.folders.reading.sys.executable", "/bin/false")
    assert load_stream(str(root), increment=2).files == alone.files  # workers that end at once
