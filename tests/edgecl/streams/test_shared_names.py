"""One name in several tasks: several classes, which a text tower reads by the plain name."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edgecl.backbones import Clip
from edgecl.backbones.clip import Tokenizer
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.changes import rename_class
from edgecl.learning.labelled import read_labelled
from edgecl.learning.learner import Learner
from edgecl.session import learn_folder, learn_stream, new_learner, open_learner, resume, undo
from edgecl.streams import Stream, StreamError, load_stream, unpack
from edgecl.streams.protocols import load_as
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import parse_pack
from edgecl_export.pack import export_packs

MakeFolders = Callable[..., Path]
SHARED = {"task_00/lamp": 0, "task_00/pizza": 1, "task_01/Pizza": 3, "task_01/car": 2}
UNIQUE = {"task_00/lamp": 0, "task_00/pizza": 1, "task_01/car": 2}
CLASSES = ("lamp", "task_00/pizza", "task_01/Pizza", "car")
RECORD = [
    "task", "name", "classes", "known", "class_images", "skipped", "seconds", "state_bytes",
    "exemplars", "state", "moved", "constant", "learned_as",
]  # fmt: skip


@pytest.fixture
def begin(tiny_clip: Clip, tmp_path: Path, small_config: Any) -> Callable[..., Learner]:
    """Return a function that begins a run under MTIL."""

    def begin(stream: Stream, method: str = "zero-shot") -> Learner:
        return new_learner(
            tmp_path / method, method, tiny_clip, stream, config=small_config(method),
            protocol="mtil", cache=FeatureCache(None, ""),
        )  # fmt: skip

    return begin


def test_a_shared_name_is_a_class_of_each_task(make_folders: MakeFolders) -> None:
    root = make_folders(SHARED)
    with pytest.raises(StreamError, match=r"'Pizza' are one name.*give --shared-names, if they"):
        load_stream(str(root))
    stream = load_as(str(root), "mtil")
    assert stream.classes == CLASSES
    assert [task.read_names for task in stream.tasks] == [("lamp", "pizza"), ("Pizza", "car")]
    for task in stream.tasks:
        for images in (task.train, task.test):
            of_file = {Path(name).parent.name for name in images.names}
            assert {stream.classes[label].rpartition("/")[2] for label in images.labels} == of_file
    assert load_stream(**stream.spec).classes == stream.classes
    assert load_stream(str(root), shared_names=True).spec == stream.spec


def test_unique_names_stay_as_they_were(
    make_folders: MakeFolders, begin: Callable[..., Learner]
) -> None:
    root = make_folders(UNIQUE)
    stream = load_as(str(root), "mtil")
    assert stream.spec == {"name": "folder", "seed": 1993, "root": str(root)}
    assert stream.classes == ("lamp", "pizza", "car")
    assert not any(task.texts for task in stream.tasks)
    learner = begin(stream)
    learn_stream(learner, stream)
    record = json.loads((learner.run.path / "tasks/000/task.json").read_text())
    assert list(record) == RECORD


def test_classes_in_one_folder_have_no_shared_names(make_folders: MakeFolders) -> None:
    root = make_folders({"cat": 0, "dog": 1})
    assert "shared_names" not in load_as(str(root), "mtil", increment=1).spec


def test_a_domain_protocol_has_no_shared_names(make_folders: MakeFolders) -> None:
    root = make_folders({"task_0/cat": 0, "task_1/cat": 1})
    with pytest.raises(StreamError, match=r"a name is one class.*Leave shared_names out"):
        load_stream(str(root), protocol="dil", shared_names=True)


def test_a_name_that_is_another_s_identity_is_refused(tmp_path: Path) -> None:
    rows = [("cat", "task_00"), ("cat", "task_01"), ("task_00/cat", "task_01")]
    for row in range(3):
        Image.new("RGB", (9, 7), (row, 0, 0)).save(tmp_path / f"{row}.png")
    lines = [f"{row}.png,{name},{task}" for row, (name, task) in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,task", *lines]))
    with pytest.raises(StreamError, match="'task_00/cat' and 'task_00/cat' are one name"):
        load_as(str(tmp_path / "labels.csv"), "mtil", test_fraction=0.0)


def test_texts_are_of_the_plain_names(
    make_folders: MakeFolders, begin: Callable[..., Learner], tmp_path: Path
) -> None:
    """Of a run, of the pack that ships it, and of the classes to come."""
    stream = load_as(str(make_folders(SHARED)), "mtil")
    learner = begin(stream)
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert learner.text is not None
    wanted = learner.text.zero_shot(["lamp", "pizza", "Pizza", "car"])
    torch.testing.assert_close(learner.learned()["texts"], wanted, atol=1e-6, rtol=0)
    assert summary.mtil is not None
    assert summary.mtil.matrix[0] == summary.mtil.matrix[1], "read alike before and after"
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    packs = [parse_pack(data) for data in read_packs(tmp_path / "packs")[0].values()]
    assert [pack.classes for pack in packs] == [CLASSES[:2], CLASSES[2:]]
    assert all(not pack.known for pack in packs)


@pytest.mark.parametrize("method", ["diki", "zscl", "cgil"])
def test_methods_that_train_read_the_plain_names(
    make_folders: MakeFolders, begin: Callable[..., Learner], method: str
) -> None:
    stream = load_as(str(make_folders(SHARED)), "mtil")
    learner = begin(stream, method)
    read: list[str] = []
    assert learner.text is not None

    class Recorder(Tokenizer):
        """Notes what it reads."""

        def __call__(self, texts: Sequence[str], reserve: int = 0) -> Any:
            read.extend(texts)
            return super().__call__(texts, reserve)

    clip = learner.text.clip
    recorded = replace(clip, tokenizer=Recorder(clip.tokenizer.context_length))
    learner.text = replace(learner.text, clip=recorded)
    learn_stream(learner, stream)
    assert any("pizza" in text for text in read)
    assert not any("task_0" in text for text in read)
    assert learner.run.record(1).texts == ("Pizza", "car")


def test_a_run_goes_on_and_its_classes_can_be_renamed(
    make_folders: MakeFolders, begin: Callable[..., Learner], tiny_clip: Clip
) -> None:
    stream = load_as(str(make_folders(SHARED)), "mtil")
    learner = begin(stream)
    learn_stream(learner, stream)
    wanted = learner.learned()["texts"]
    undo(learner.run)
    rename_class(learner.run, "task_00/pizza", "margherita")
    again = open_learner(
        learner.run.path, device="cpu", backbone=tiny_clip, cache=FeatureCache(None, "")
    )
    resume(again)
    assert again.run.class_rows() == [("lamp", "margherita"), CLASSES[2:]]
    assert again.run.record(0).texts == ("lamp", "pizza"), "what is read stays"
    assert torch.equal(again.learned()["texts"], wanted)


def test_a_class_that_shares_no_name_is_read_by_its_new_name(
    make_folders: MakeFolders, begin: Callable[..., Learner]
) -> None:
    """In a task that has another name in common, and also before the task is learned."""
    stream = load_as(str(make_folders(SHARED)), "mtil")
    learner = begin(stream)
    learn_stream(learner, stream)
    rename_class(learner.run, "lamp", "light")
    rename_class(learner.run, "car", "automobile")
    assert [record.texts for record in learner.run.records()] == [
        ("light", "pizza"), ("Pizza", "automobile"),
    ]  # fmt: skip
    undo(learner.run)
    learn_stream(learner, stream)
    assert learner.run.record(1).texts == ("Pizza", "automobile")
    rename_class(learner.run, "light", "lamp")
    assert learner.run.record(0).texts == ("lamp", "pizza")


def test_more_images_of_a_class_that_shares_its_name(
    make_folders: MakeFolders, begin: Callable[..., Learner], tmp_path: Path
) -> None:
    """Its new row is read as the one before, in its templates."""
    templates = {"task_00": ["a menu with {}."]}
    stream = load_as(str(make_folders(SHARED)), "mtil", task_templates=templates)
    learner = begin(stream)
    learn_stream(learner, stream)
    more = make_folders({"task_00/pizza": 1}, root="more")
    must = "may be task_00/pizza, task_01/Pizza.*TASK/CLASS.*classes rename"
    with pytest.raises(StreamError, match=must):
        learn_folder(learner, more / "task_00")
    assert len(learner.run) == 2
    record = learn_folder(learner, more)
    assert (record.classes, record.known) == (("task_00/pizza",), ("task_00/pizza",))
    assert (record.texts, record.templates) == (("pizza",), ("a menu with {}.",))
    texts = learner.learned()["texts"]
    torch.testing.assert_close(texts[4], texts[1], rtol=0, atol=1e-6)
    mixed = make_folders({"lamp": 0, "boat": 2}, root="mixed")
    record = learn_folder(learner, mixed)
    assert (record.classes, record.texts, record.templates) == (("lamp", "boat"), (), ())


def test_labelled_images_in_task_folders_are_of_their_tasks_classes(
    make_folders: MakeFolders,
) -> None:
    root = make_folders(SHARED, count=1)
    assert sorted(read_labelled(root, CLASSES).wanted) == sorted(CLASSES)


def test_unpacked_folders_have_the_plain_names(make_folders: MakeFolders, tmp_path: Path) -> None:
    stream = load_as(str(make_folders(SHARED)), "mtil", test_fraction=0.0)
    unpack(stream, tmp_path / "out")
    again = load_as(str(tmp_path / "out"), "mtil")
    assert again.classes == stream.classes
