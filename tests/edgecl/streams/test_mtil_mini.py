"""The stream of ten domains: what its data file owes, and that it is built from its sources."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecl.streams import StreamError, is_unseen, load_stream
from edgecl.streams import _mtil_mini as mtil_mini
from edgecl.streams._openemoji_fetch import openemoji10_folder, styles

PLAN = json.loads(mtil_mini.PLAN.read_bytes())
ICONS = {name: task for name, task in PLAN["tasks"].items() if task["source"] == "openemoji10"}
PARTS = ("train", "test")
# What edgecl-clip-s is trained on: the seen concepts in these styles.
PRETRAINED = {"noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione"}


def test_orders_hold_every_task_once():
    assert set(PLAN["orders"]) == {"1", "2"}
    assert PLAN["orders"]["1"] != PLAN["orders"]["2"]
    for order in PLAN["orders"].values():
        assert sorted(order) == sorted(PLAN["tasks"])
    assert len(PLAN["tasks"]) == 10


def test_classes_are_disjoint_over_the_stream():
    names = []
    for task in PLAN["tasks"].values():
        renamed = task["source"] in {"digits", "fashion-mnist"}
        names += list(task["classes"].values() if renamed else task["classes"])
    assert len({name.casefold() for name in names}) == len(names) == 144
    assert all(10 <= len(task["classes"]) <= 20 for task in PLAN["tasks"].values())


@pytest.mark.parametrize("name", [*ICONS, "clip-art"])
def test_no_image_trains_and_tests(name):
    used = [
        image
        for members in PLAN["tasks"][name]["classes"].values()
        for part in PARTS
        for image in members[part]
    ]
    assert len(set(used)) == len(used)
    for members in PLAN["tasks"][name]["classes"].values():
        assert members["train"]
        assert members["test"]


def test_every_task_has_a_style_of_its_own():
    used = [style for task in ICONS.values() for style in task["styles"]]
    assert len(set(used)) == len(used)
    assert set(used) <= {style.style for style in styles()}


@pytest.mark.parametrize("name", ICONS)
def test_no_test_image_was_seen_in_pre_training(name):
    """In a style of the pre-training only unseen concepts test."""
    task = ICONS[name]
    tests = [concept for members in task["classes"].values() for concept in members["test"]]
    if PRETRAINED & set(task["styles"]):
        assert all(is_unseen(concept) for concept in tests)
    else:
        assert {is_unseen(concept) for concept in tests} == {True, False}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with one small image for each file of the plan."""
    pixel = tmp_path / "pixel.png"
    Image.new("RGBA", (2, 2)).save(pixel)
    png = pixel.read_bytes()
    concepts: dict[str, dict[str, object]] = {}
    for task in ICONS.values():
        for members in task["classes"].values():
            for concept in [*members["train"], *members["test"]]:
                # the second style of a task lacks one concept in ten
                has = task["styles"][: 1 + bool(len(concepts) % 10)]
                concepts[concept] = {"group": None, "styles": has}
    folder = openemoji10_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "index.json").write_text(json.dumps({"concepts": concepts}))
    for style in styles():
        with zipfile.ZipFile(folder / f"{style.style}.zip", "w") as archive:
            for concept, entry in concepts.items():
                if style.style in entry["styles"]:
                    archive.writestr(f"{concept}.png", png)
    for members in PLAN["tasks"]["clip-art"]["classes"].values():
        for file in [*members["train"], *members["test"]]:
            path = tmp_path / "openclipart" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
    write_fashion(tmp_path / "fashion-mnist")
    return tmp_path


def write_fashion(folder: Path) -> None:
    """Write 20 images of each class for both parts."""
    folder.mkdir()
    labels = np.tile(np.arange(10, dtype=np.uint8), 20)
    images = np.zeros((200, 2, 2), np.uint8)
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            head = bytes((0, 0, 8, array.ndim)) + sizes
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


@pytest.mark.parametrize("order", [1, 2])
def test_the_stream_is_built_from_its_sources(root, order):
    pytest.importorskip("sklearn")
    stream = load_stream("mtil-mini", root=str(root), order=order)
    assert [task.name for task in stream.tasks] == PLAN["orders"][str(order)]
    assert stream.protocol == "dcil"
    assert stream.classes == tuple(name for task in stream.tasks for name in task.classes)
    for task in stream.tasks:
        for part in (task.train, task.test):
            assert {stream.classes[label] for label in part.labels} == set(task.classes)
        assert not set(task.train.names) & set(task.test.names)
        assert 50 <= len(task.test) <= 300
        assert 60 <= len(task.train) <= 300
        assert task.test.image(0).size in {(2, 2), (8, 8)}
    assert set(stream.classes) >= {"zero", "ankle boot"}
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert again.spec == stream.spec
    for one, other in zip(stream.tasks, again.tasks, strict=True):
        assert (one.classes, one.train.names) == (other.classes, other.train.names)
        assert (one.train.labels, one.test.names) == (other.train.labels, other.test.names)


def test_both_orders_have_the_same_images(root):
    pytest.importorskip("sklearn")
    first, second = (load_stream("mtil-mini", root=str(root), order=order) for order in (1, 2))
    by_name = {task.name: task for task in second.tasks}
    for task in first.tasks:
        other = by_name[task.name]
        assert (task.train.names, task.test.names) == (other.train.names, other.test.names)


def test_the_first_tasks_alone(root):
    pytest.importorskip("sklearn")
    stream = load_stream("mtil-mini", root=str(root), tasks=3, shots=2)
    assert [task.name for task in stream.tasks] == PLAN["orders"]["1"][:3]
    assert len(stream.classes) == sum(len(task.classes) for task in stream.tasks)


def test_missing_clip_art_says_what_to_install(root):
    file = PLAN["tasks"]["clip-art"]["classes"]["flag"]["test"][0]
    (root / "openclipart" / file).unlink()
    with pytest.raises(StreamError, match="Install Debian's openclipart-png"):
        load_stream("mtil-mini", root=str(root))


def test_missing_icons_say_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StreamError, match="edgecl data fetch openemoji10"):
        load_stream("mtil-mini", root=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"order": 3}, "Leave it out for order 1"),
        ({"increment": 2}, r"takes the options .*order; got 'increment'.*leave it out"),
        ({"base": 2}, r"got 'base'.*leave it out"),
    ],
)
def test_unfit_options_say_what_to_do(options, action):
    with pytest.raises(StreamError, match=action):
        load_stream("mtil-mini", **options)


def test_real_sources():
    """Where all sources are installed, every image is there and no test image trains."""
    try:
        stream = load_stream("mtil-mini")
    except StreamError as missing:
        pytest.skip(str(missing))
    for task in stream.tasks:
        train = {task.train.image(i).tobytes() for i in range(len(task.train))}
        assert not train & {task.test.image(i).tobytes() for i in range(len(task.test))}
