"""Few-shot sessions by lists of images: the published ones, and what a list must be."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgecl.recipes import find_recipe
from edgecl.streams import StreamError, load_stream
from edgecl.streams._option_files import published_images, read_images

MakeFolder = Callable[..., Path]
SHAPES = {"cifar100": (60, 5, 9), "cub200": (100, 10, 11), "mini-imagenet": (60, 5, 9)}


@pytest.mark.parametrize("name", published_images())
def test_published_lists_have_five_images_of_every_new_class(name: str) -> None:
    base, ways, tasks = SHAPES[name]
    sessions = read_images(Path(name))
    assert list(sessions) == [f"task_{task:02d}" for task in range(1, tasks)]
    every = [each for images in sessions.values() for each in images]
    assert len(set(every)) == len(every) == 5 * ways * (tasks - 1)
    if name == "cifar100":  # by position in the training images, whose labels are not in the list
        assert all(0 <= int(each[len("train[") : -1]) < 50_000 for each in every)
    else:
        classes = [list(Counter(map(class_of, images))) for images in sessions.values()]
        assert {len(each) for each in classes} == {ways}
        assert set(Counter(map(class_of, every)).values()) == {5}
        order = [name for each in classes for name in each]
        assert order == sorted(order), "the natural order"
    options = find_recipe(f"fscil-{name}").options
    assert (options["base"], options["increment"], options["session_images"]) == (base, ways, name)


def class_of(name: str) -> str:
    return name.partition("/")[0]


@pytest.mark.parametrize("name", ["cub200", "mini-imagenet"])
def test_a_recipe_opens_its_layout_with_the_images_of_its_list(name: str, tmp_path: Path) -> None:
    """Of the first two sessions; every class has one image more, which no session takes."""
    base, ways, _ = SHAPES[name]
    sessions = read_images(Path(name))
    of_two = [*sessions["task_01"], *sessions["task_02"]]
    few = list(dict.fromkeys(map(class_of, of_two)))
    names = [f"{prefix}/0.png" for prefix in few]
    names += [f"0{number:03d}/0.png" for number in range(base)]
    for each in [*of_two, *names]:
        path = tmp_path / "train" / each
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1)).save(path, "PNG")
    listed = tmp_path / "two.json"
    listed.write_text(json.dumps({"images": {k: sessions[k] for k in ("task_01", "task_02")}}))
    recipe = find_recipe(f"fscil-{name}")
    options = {key: recipe.options[key] for key in ("base", "increment")}
    stream = load_stream(
        str(tmp_path), seed=None, test_fraction=0.0, session_images=str(listed), **options
    )
    assert [len(task.classes) for task in stream.tasks] == [base, ways, ways]
    assert len(stream.tasks[0].train) == base
    for task in stream.tasks[1:]:
        found = {name.partition("/train/")[2] for name in task.train.names}
        assert found == set(sessions[task.name])
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert [t.train.names for t in again.tasks] == [t.train.names for t in stream.tasks]


@pytest.mark.parametrize(
    ("images", "more", "wrong"),
    [
        ({"task_01": ["b/000.png"]}, {}, r"in task_01 these have none: c\. Add images"),
        ({"task_01": ["b/9.png"]}, {}, r"'b/9.png' is of 0 images of task_01\. Take the list"),
        ({"task_01": ["000.png"]}, {}, "'000.png' is of 2 images of task_01"),
        ({"task_7": []}, {}, "session_images must be of tasks of the stream.*got 'task_7'"),
        ({}, {"shots": 2}, "Leave shots out"),
        ({}, {"session_shots": 2}, "Leave session_shots out"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    make_folder: MakeFolder, tmp_path: Path, images: dict[str, Any], more: Any, wrong: str
) -> None:
    root = make_folder(dict.fromkeys("abc", 3))
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"images": images}))
    options = {"base": 1, "increment": 2, "seed": None, "test_fraction": 0.0, **more}
    with pytest.raises(StreamError, match=wrong):
        load_stream(str(root), session_images=str(path), **options)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="Did you mean 'cub200'"):
        load_stream("digits", session_images="cub20")
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(StreamError, match="must be a JSON object with images"):
        load_stream("digits", session_images=path)
