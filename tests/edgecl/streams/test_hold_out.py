"""Domain generalisation: tasks that are never trained, only tested."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cli import print_summary
from edgecl.learning.learner import Learner
from edgecl.learning.summary import Summary
from edgecl.session import learn_stream, new_learner, open_learner, resume, undo
from edgecl.streams import Stream, StreamError, load_stream, unpack
from edgecl.streams.folders.account import COPY

MakeFolders = Callable[..., Path]
THREE = {f"task_{task}/hue-{hue}": 3 * hue + task for task in range(3) for hue in range(2)}
PARTS = {f"{part}/{name}": hue for part in ("train", "test") for name, hue in THREE.items()}


def folder(root: Path, **options: object) -> Stream:
    return load_stream(str(root), **{"protocol": "dil", "hold_out": ["task_1"], **options})


@pytest.fixture
def begin(tiny_backbone: Backbone, tmp_path: Path) -> Callable[[Stream], Learner]:
    return lambda stream: new_learner(
        tmp_path / "run", "simplecil", tiny_backbone, stream, cache=FeatureCache(None, "")
    )


def reopened(learner: Learner, backbone: Backbone) -> Learner:
    return open_learner(
        learner.run.path, device="cpu", backbone=backbone, cache=FeatureCache(None, "")
    )


def test_without_a_test_part_all_its_images_are_tested(make_folders: MakeFolders) -> None:
    stream = folder(make_folders(THREE))
    assert [task.name for task in stream.tasks] == ["task_0", "task_2"]
    (held,) = stream.held_out
    assert (held.name, len(held.train), len(held.test)) == ("task_1", 0, 10)
    assert all("/task_1/" in name for name in held.test.names)
    assert sorted(held.test.labels) == [0] * 5 + [1] * 5
    assert stream.spec["hold_out"] == ["task_1"]
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert again.held_out[0].test.names == held.test.names
    files = stream.files
    assert files.total == files.training + files.test == 30
    assert files.test == 10 + sum(len(task.test) for task in stream.tasks)


def test_what_another_task_trains_is_not_tested(
    make_folders: MakeFolders, begin: Callable[[Stream], Learner], tiny_backbone: Backbone
) -> None:
    """Nor does the set change when the run goes on."""
    root = make_folders(THREE)
    copies = [Path(name) for name in folder(root).tasks[1].train.names[:3]]
    for index, path in enumerate(copies):
        shutil.copy(path, root / "task_1" / path.parent.name / f"copy-{index}.png")
    stream = folder(root)
    assert not [name for name in stream.held_out[0].test.names if "copy-" in name]
    assert [(each.why, each.count) for each in stream.files.ignored] == [(COPY, 3)]
    learner = begin(stream)
    learn_stream(learner, stream)
    undo(learner.run)
    summary = resume(reopened(learner, tiny_backbone))
    assert summary is not None
    assert summary.held_out[0].images == 10
    found = [learner.run.evaluation(task) for task in range(2)]
    assert [each.held_out[0].images for each in found if each is not None] == [10, 10]


def test_copies_in_its_test_part_stay_when_a_run_goes_on(
    make_folders: MakeFolders, begin: Callable[[Stream], Learner], tiny_backbone: Backbone
) -> None:
    root = make_folders(PARTS, count=3)
    for name in ("train/task_0/hue-0/new.png", "test/task_1/hue-0/copy.png"):
        Image.new("RGB", (9, 7)).save(root / name)
    stream = folder(root)
    learner = begin(stream)
    learn_stream(learner, stream)
    undo(learner.run)
    summary = resume(reopened(learner, tiny_backbone))
    assert summary is not None
    assert summary.held_out[0].images == len(stream.held_out[0].test) == 7


def test_the_others_stay_as_they_are(make_folders: MakeFolders) -> None:
    root = make_folders(THREE)
    with_it, without = load_stream(str(root), protocol="dil"), folder(root)
    assert without.tasks[1].train.names == with_it.tasks[2].train.names
    assert without.tasks[1].test.names == with_it.tasks[2].test.names
    assert with_it.held_out == ()
    assert "hold_out" not in with_it.spec


def test_with_a_test_part_it_is_tested_on_that(make_folders: MakeFolders) -> None:
    root = make_folders(PARTS, count=3)
    stream = folder(root)
    (held,) = stream.held_out
    assert len(held.test) == 6
    assert all("/test/task_1/" in name for name in held.test.names)
    assert stream.files.ignored[0].count == 6, "training images that nobody uses"


def test_limits_and_tasks(make_folders: MakeFolders) -> None:
    stream = folder(make_folders(PARTS), limit_test=6, shots=2, tasks=1)
    assert [task.name for task in stream.tasks] == ["task_0"]
    assert len(stream.held_out[0].test) + len(stream.tasks[0].test) == 6


@pytest.mark.parametrize(
    ("options", "must"),
    [
        ({"hold_out": ["task_4"]}, r"tasks of the stream, task_0, task_1, task_2; got 'task_4'"),
        ({"hold_out": ["task_0", "task_1", "task_2"]}, r"all 3 are held out\. Leave one in"),
    ],
)
def test_names_that_cannot_be_held_out(
    options: dict[str, object], must: str, make_folders: MakeFolders
) -> None:
    with pytest.raises(StreamError, match=must):
        folder(make_folders(THREE), **options)


def test_classes_that_nobody_trains(make_folders: MakeFolders) -> None:
    root = make_folders({"task_0/cat": 0, "task_1/cat": 1, "task_1/dog": 2})
    with pytest.raises(StreamError, match=r"of task_1 none trains dog\. Hold out another task"):
        folder(root)


def test_templates_of_a_task_that_is_not_trained(make_folders: MakeFolders) -> None:
    root, templates = make_folders(THREE), {"task_1": ["a {}"]}
    with pytest.raises(StreamError, match=r"task_1 is held out\. Leave it out of task_templates"):
        folder(root, task_templates=templates)
    trained = folder(root, task_templates={"task_0": ["a {}"]})
    assert [task.templates for task in trained.tasks] == [("a {}",), ()]


def test_without_a_test_image(make_folders: MakeFolders) -> None:
    root = make_folders(PARTS, count=1)
    for path in (root / "test" / "task_1").rglob("*.png"):
        path.unlink()
    with pytest.raises(StreamError, match=r"needs test images; task_1 has none\. Give it a test"):
        folder(root)


def test_tasks_with_classes_of_their_own_are_no_domains(make_folders: MakeFolders) -> None:
    root = make_folders({"task_0/cat": 0, "task_1/dog": 1})
    with pytest.raises(StreamError, match="Give --protocol dil, or leave hold_out out"):
        folder(root, protocol="cil")
    flat = make_folders({"cat": 0, "dog": 1}, root="flat")
    with pytest.raises(StreamError, match="classes and no domains"):
        load_stream(str(flat), increment=1, hold_out=["task_0"])


def test_it_is_not_unpacked(make_folders: MakeFolders, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="task_1, which is held out"):
        unpack(folder(make_folders(THREE)), tmp_path / "out")


def test_its_accuracy_is_in_the_figures(
    make_folders: MakeFolders,
    begin: Callable[[Stream], Learner],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By hand: what the run answers to the task's images after each task."""
    stream = folder(make_folders(THREE))
    learner = begin(stream)
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert summary.tasks == ("task_0", "task_2")
    (found,) = summary.held_out
    images = learner.load(stream.held_out[0].test, "")
    names = [name for record in learner.run.records() for name in record.classes]
    by_hand = []
    for stage in (1, 2):
        scores = learner.predict(
            images.images, {"prototypes": learner.learned()["prototypes"][: 2 * stage]}
        ).scores
        answers = [names[row] for row in scores.argmax(dim=1).tolist()]
        right = [a == stream.classes[b] for a, b in zip(answers, images.labels, strict=True)]
        by_hand.append(sum(right) / len(right))
    assert found.stages == pytest.approx(by_hand)
    assert (found.name, found.images, found.last) == ("task_1", 10, found.stages[-1])
    stored = json.loads((learner.run.path / "metrics.json").read_text())
    assert Summary.from_json(stored) == summary
    assert "held_out" in stored
    page = (learner.run.path / "report.html").read_text()
    assert "Tasks that were never trained" in page
    print_summary(summary, None)
    assert "held out: task_1, never trained" in capsys.readouterr().out


def test_a_run_goes_on_with_it(
    make_folders: MakeFolders, begin: Callable[[Stream], Learner], tiny_backbone: Backbone
) -> None:
    root = make_folders(THREE)
    stream = folder(root)
    learner = begin(stream)
    whole = learn_stream(learner, stream)
    undo(learner.run)
    Image.new("RGB", (9, 7)).save(root / "task_1" / "hue-0" / "more.png")
    again = reopened(learner, tiny_backbone)
    lines: list[str] = []
    summary = resume(again, None, lines.append)
    assert any("1 new since the run began" in line for line in lines)
    assert whole is not None
    assert summary is not None
    assert summary.matrix == whole.matrix
    assert (summary.held_out[0].images, whole.held_out[0].images) == (11, 10)


def test_on_the_command_line(make_folders: MakeFolders, tmp_path: Path) -> None:
    from edgecl.cli import train

    options = ["--protocol", "dil", "--hold-out", "task_9", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(train, ["simplecil", "--stream", str(make_folders(THREE)), *options])
    assert isinstance(done.exception, StreamError)
    assert "got 'task_9'" in str(done.exception)
