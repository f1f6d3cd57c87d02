"""Runs on folders: no test images, files that change, and what a run tells of every file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edgecl import cli
from edgecl.backbones import Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cli import printing
from edgecl.learning.learner import Learner
from edgecl.learning.run_files import RunFiles
from edgecl.learning.runs import Run, RunError
from edgecl.learning.summary import Summary
from edgecl.learning.training import Compute
from edgecl.report import write_comparison, write_report
from edgecl.session import learn_folder, learn_stream, learn_task, new_learner, open_learner, resume
from edgecl.streams import Files, Stream, load_stream

MakeFolders = Callable[..., Path]
NewRun = Callable[..., Learner]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def new_run(tiny_clip: Clip, tmp_path: Path) -> NewRun:
    """Return a function that begins a run of simplecil on a folder."""

    def make(stream: Stream, out: str = "run") -> Learner:
        return new_learner(
            tmp_path / out,
            "simplecil",
            tiny_clip,
            stream,
            compute=Compute(torch.device("cpu")),
            cache=FeatureCache(None, tiny_clip.visual.digest),
        )

    return make


@pytest.fixture
def opened(tiny_clip: Clip) -> Callable[[Path], Learner]:
    """Return a function that opens a run again."""

    def open_(run: Path) -> Learner:
        cache = FeatureCache(None, tiny_clip.visual.digest)
        return open_learner(run, device="cpu", backbone=tiny_clip, cache=cache)

    return open_


def few(root: Path, *counts: tuple[str, int]) -> Path:
    """Cut class folders down to so many images."""
    for folder, count in counts:
        for path in sorted((root / folder).iterdir())[count:]:
            path.unlink()
    return root


@pytest.mark.parametrize(
    ("folders", "cut", "options"),
    [
        ({"a": 0, "b": 1}, (), {"increment": 1, "test_fraction": 0.0}),
        ({"a": 0, "b": 1}, (("a", 1), ("b", 1)), {"increment": 1}),
        ({"task_0/a": 0, "task_0/b": 1}, (("task_0/a", 1), ("task_0/b", 1)), {}),
        ({"train/a": 0, "train/b": 1, "test/nested/x": 1}, (("test/nested/x", 0),),
         {"increment": 1}),
    ],
    ids=["a fraction of 0", "one image per class", "one task of single images", "an empty test"],
)  # fmt: skip
def test_no_test_images_is_a_legal_stream(
    folders: dict[str, int],
    cut: tuple[tuple[str, int], ...],
    options: dict[str, Any],
    make_folders: MakeFolders,
    new_run: NewRun,
) -> None:
    root = few(make_folders(folders), *cut)
    if (root / "test").exists():
        shutil.rmtree(root / "test" / "nested")
    stream = load_stream(str(root), **options)
    learner = new_run(stream)
    summary = learn_stream(learner, stream)
    assert summary.a_last is summary.a_avg is summary.task_id_accuracy is None
    assert summary.forgetting == summary.bwt == (None if len(summary.tasks) > 1 else 0.0)
    assert summary.untested == summary.tasks
    stored = json.loads((learner.run.path / "metrics.json").read_text())
    assert Summary.from_json(stored) == summary
    report = (learner.run.path / "report.html").read_text()
    assert "without a test image" in report
    for name in ("new", "newer"):  # a task that is learned is committed, and exits 0
        record = learn_folder(learner, make_folders({f"{name}-class": 2}, root=name))
        assert record.task == len(learner.run) - 1


@pytest.mark.parametrize(
    ("folders", "images"),
    [
        ({"train/task_00/a": 0, "train/task_01/b": 1, "test/a": 0}, (5, 0)),
        ({"train/task_0/a": 0, "train/task_1/b": 1, "test/task_01/b": 1}, (0, 5)),
        ({"train/task_0/a": 0, "train/task_1/b": 1, "val/b": 1, "val/a": 0}, (5, 5)),
    ],
    ids=["by class", "by other numbers", "validation by class"],
)
def test_a_test_part_of_another_shape_is_found(
    folders: dict[str, int],
    images: tuple[int, int],
    make_folders: MakeFolders,
    new_run: NewRun,
) -> None:
    stream = load_stream(str(make_folders(folders)))
    summary = learn_stream(new_run(stream), stream)
    assert summary.test_images == images
    assert summary.a_last is not None
    assert [row[0] is None for row in summary.matrix] == [not images[0]] * 2
    assert len(summary.untested) == images.count(0)


def test_a_run_tells_of_every_file(
    make_folders: MakeFolders, new_run: NewRun, tmp_path: Path
) -> None:
    root = make_folders({"a": 0, "b": 1})
    (root / "a" / "bad.png").write_bytes(b"x")
    (root / "b" / "notes.txt").write_text("x")
    cut = root / "b" / "cut.png"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-500])  # its header is whole
    stream = load_stream(str(root), increment=2, test_fraction=0.0)
    learner = new_run(stream)
    summary = learn_stream(learner, stream)
    files = summary.files[0]
    assert (files.total, files.training, files.test) == (13, 10, 0)
    assert {(r.why, r.count, r.first) for r in files.skipped} == {
        ("not readable as an image", 1, ("a/bad.png",)),
        ("not usable when it was decoded", 1, ("b/cut.png",)),
    }
    new = make_folders({"train/c": 2, "test/c": 2}, root="new")
    learn_folder(learner, new)
    summary = Summary.from_json(json.loads((learner.run.path / "metrics.json").read_text()))
    counts = [(each.total, each.training, each.test) for each in summary.files]
    assert counts == [(13, 10, 0), (10, 5, 5)]
    assert summary.files[1].ignored == ()
    page = write_report(learner.run.path).read_text()
    for words in ("2 class folders", "b/cut.png", "without an image's ending"):
        assert words in page.replace("&#x27;", "'")


@pytest.fixture
def begun(make_folders: MakeFolders, new_run: NewRun) -> tuple[Path, Learner]:
    """Return a folder of two tasks, and a run that has learned the first."""
    root = make_folders({"task_0/a": 0, "task_0/b": 1, "task_1/c": 2}, count=12)
    stream = load_stream(str(root))
    learner = new_run(stream)
    first = stream.tasks[0]
    learn_task(learner, first, stream.classes, [first.test])
    return root, learner


def test_resume_notices_what_changed(
    begun: tuple[Path, Learner], opened: Callable[[Path], Learner]
) -> None:
    root, learner = begun
    Image.new("RGB", (32, 32), (9, 9, 9)).save(root / "task_1/c/new.png")
    (root / "task_1/c/000.png").unlink()
    (root / "task_1/c/001.png").rename(root / "task_1/c/renamed.png")
    Image.new("RGB", (32, 32), (1, 2, 3)).save(root / "task_1/c/002.png")
    lines: list[str] = []
    summary = resume(opened(learner.run.path), notice=lines.append)
    assert lines == [
        "1 new since the run began: task_1/c/new.png",
        "1 gone since the run began: task_1/c/000.png",
        "1 moved since the run began: task_1/c/renamed.png",
        "1 changed since the run began: task_1/c/002.png",
    ]
    assert summary.files[0].total == 36
    lines.clear()
    resume(opened(learner.run.path), notice=lines.append)
    assert lines == []


def test_what_a_run_was_trained_on_is_never_its_test_image(
    begun: tuple[Path, Learner], opened: Callable[[Path], Learner]
) -> None:
    root, learner = begun
    before = learner.run.stream_files()
    assert before is not None
    for part in ("train", "test"):
        for name in sorted({*before.tasks[0].train, *before.tasks[0].test, *before.tasks[1].train}):
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
    trained = sorted(before.tasks[0].train)
    for name in [*before.tasks[0].test, *trained[:3]]:
        shutil.move(root / name, root / "test" / name)
    for name in [*trained[3:], *before.tasks[1].train, *before.tasks[1].test]:
        shutil.move(root / name, root / "train" / name)
    for folder in ("task_0", "task_1"):
        shutil.rmtree(root / folder)
    lines: list[str] = []
    summary = resume(opened(learner.run.path), notice=lines.append)
    assert "36 moved" in lines[0]
    lost = [r for r in summary.files[0].skipped if "trained on before" in r.why]
    assert [(reason.count, reason.first) for reason in lost] == [
        (3, tuple(f"test/{name}" for name in trained[:3]))
    ]
    assert summary.test_images[0] == len(before.tasks[0].test)


def test_data_that_moved(
    begun: tuple[Path, Learner], opened: Callable[[Path], Learner], tmp_path: Path
) -> None:
    root, learner = begun
    root.rename(tmp_path / "elsewhere")
    lines: list[str] = []
    resume(opened(learner.run.path), tmp_path / "elsewhere", lines.append)
    assert lines == []
    assert Run.open(learner.run.path).header["stream"]["root"] == str(tmp_path / "elsewhere")
    resume(opened(learner.run.path))


def test_only_a_folder_moves(
    make_stream: Callable[..., Stream], new_run: NewRun, tmp_path: Path
) -> None:
    learner = new_run(make_stream())
    assert learner.run.stream_files() is None
    with pytest.raises(RunError, match="Leave --stream out"):
        resume(learner, tmp_path)


def test_the_files_of_a_run_are_read_as_they_were_written(
    begun: tuple[Path, Learner], tmp_path: Path
) -> None:
    root, _ = begun
    files = RunFiles.of_stream(load_stream(str(root)))
    path = tmp_path / "files.json.gz"
    path.write_bytes(files.to_bytes())
    assert RunFiles.read(path) == files
    assert files.to_bytes() == path.read_bytes()
    for damage in (b"", path.read_bytes()[:50], b"{}"):
        path.write_bytes(damage)
        with pytest.raises(Exception, match=r"Restore .* from a copy, or remove it"):
            RunFiles.read(path)


def test_the_last_lines_of_a_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (4, 4), index).save(tmp_path / "a" / f"{index}.png")
        (tmp_path / "a" / f"{index}.txt").write_text("x")
    files = load_stream(str(tmp_path), increment=1, test_fraction=0.0).files
    printing.print_files(files)
    assert capsys.readouterr().out.splitlines() == [
        f"files: 14 in {tmp_path} (1 class folder): 7 training images, 0 test images",
        "  7 ignored, without an image's ending: a/0.txt, a/1.txt, a/2.txt, a/3.txt, a/4.txt, ...",
        "  note: 1 of 1 classes have no test image: a",
    ]
    assert printing.layout_line(files) == f"{tmp_path}: 1 class folder, 14 files"
    with pytest.raises(AssertionError, match="not accounted for"):
        Files(total=3, training=1)


def test_a_folder_that_is_not_understood_begins_no_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    arguments = ["simplecil", "--stream", str(tmp_path / "images"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.train, [*arguments, "--increment", "1"])
    assert result.exit_code != 0
    assert "understood would be" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_runs_without_test_images_are_compared(
    make_folders: MakeFolders, new_run: NewRun, tmp_path: Path
) -> None:
    root = make_folders({"hue-0": 0, "hue-1": 1})
    stream = load_stream(str(root), increment=1, test_fraction=0.0)
    paths = []
    for out in ("one", "two"):
        learner = new_run(stream, out)
        learn_stream(learner, stream)
        paths.append(learner.run.path)
    assert "Accuracy after each task" in write_comparison(paths, tmp_path / "both.html").read_text()
