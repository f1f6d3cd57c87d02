"""Runs as people have them: two commands at once, kills, tasks taken back, other names.

The public reports 2, 9 and 14 and more of their kinds. `test_run_loop.py` has the random commands.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edgecl import session
from edgecl.backbones import Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning import runs as runs_module
from edgecl.learning.changes import classes_of, merge_classes, rename_class
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError
from edgecl.learning.training import Compute
from edgecl.report._read import read_run
from edgecl.session import learn_folder, learn_stream, learn_task, make_learner, resume, undo
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier, commands
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import parse_pack
from edgecl_deploy.manifest import lock
from edgecl_deploy.progress import Reporter
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]
Command = Callable[..., Result]


def bytes_of(run: Run) -> dict[str, str]:
    """Return the digest of every file of a run but its locks."""
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.path.rglob("*")
        if (path.is_file() and path.parent != run.path) or not path.name.startswith(".")
        if path.is_file()
    }


def tensors_of(run: Run) -> list[str]:
    return [hashlib.sha256((run.path / f"tasks/{task:03d}/learned.safetensors").read_bytes())
            .hexdigest() for task in range(len(run))]  # fmt: skip


@pytest.fixture
def learned(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., Learner]:
    """Return a function that learns a stream of two tasks of two classes."""

    def make(method: str = "simplecil", out: str = "run") -> Learner:
        stream = make_stream(((0, 1), (2, 3)))
        learner = make_learner(method, stream, out=out)
        learn_stream(learner, stream)
        return learner

    return make


@pytest.fixture
def more(make_folders: MakeFolders) -> Path:
    return make_folders({"hue-4": 4, "hue-5": 5}, root="more")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `edgecl ...`; the commands need not be installed."""
    points = {
        name: EntryPoint(name, f"edgecl.cli.life:{name}", "edgecl.commands")
        for name in ("undo", "classes", "runs")
    }
    known = dict(commands.plugins())
    monkeypatch.setattr(commands, "plugins", lambda: {**known, **points})

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(commands.edgecl, [str(each) for each in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


# -- one writer


def hold(path: str, ready: "multiprocessing.synchronize.Event", seconds: float) -> None:
    with Run.open(Path(path)).writing():
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def other(learned: Callable[..., Learner]) -> Iterator[Callable[[Run, float], int]]:
    """Return a function that lets another process change a run for some seconds."""
    context, started = multiprocessing.get_context("fork"), []

    def begin(run: Run, seconds: float) -> int:
        ready = context.Event()
        process = context.Process(target=hold, args=(str(run.path), ready, seconds))
        process.start()
        started.append(process)
        assert ready.wait(20)
        assert process.pid is not None
        return process.pid

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_second_command_waits_or_is_refused(
    learned: Callable[..., Learner],
    more: Path,
    make_stream: MakeStream,
    other: Callable[[Run, float], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    learner, stream = learned(), make_stream(((0, 1), (2, 3)))
    pid = other(learner.run, 3.0)
    learner.run.wait = False
    before = bytes_of(learner.run)
    changes: dict[str, Callable[[], object]] = {
        "learn": lambda: learn_folder(learner, more),
        "undo": lambda: undo(learner.run),
        "rename": lambda: rename_class(learner.run, "hue-0", "x"),
        "merge": lambda: merge_classes(learner.run, "hue-0", "hue-1"),
        "resume": lambda: learn_stream(learner, stream),
    }
    for change in changes.values():
        with pytest.raises(RunError, match=rf"process {pid} changes it. Try again when"):
            change()
    assert bytes_of(learner.run) == before
    assert len(export_packs(learner.run, learner.run.path / "packs")) == 2  # a reader need not wait
    learner.run.wait = True
    assert learn_folder(learner, more).task == 2
    assert f"waiting for process {pid}, which changes" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_ends_with_its_process(
    learned: Callable[..., Learner], other: Callable[[Run, float], int]
) -> None:
    run = learned().run
    pid = other(run, 60)
    assert lock.held_by(run.path / ".lock") == f"process {pid}"
    os.kill(pid, 9)
    run.wait = False
    for _ in range(200):
        if lock.held_by(run.path / ".lock") is None:
            break
        time.sleep(0.01)
    assert undo(run).task == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_keep_the_lock_of_its_parent(learned: Callable[..., Learner]) -> None:
    """Else a worker that outlives a killed command would hold the run for ever."""
    run = learned().run
    with run.writing():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.1)
    assert lock.held_by(run.path / ".lock") is None
    child.kill()
    child.join()


def test_two_begin_one_run(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second comes between the look at the folder and the first file."""
    real, looks = runs_module.check_empty, []

    def meanwhile(path: Path) -> None:
        real(path)
        looks.append(path)
        if len(looks) == 1:
            Run.create(path, {"seed": 1})

    monkeypatch.setattr(runs_module, "check_empty", meanwhile)
    with pytest.raises(RunError, match="must be a new or an empty folder"):
        Run.create(tmp_path / "run", {"seed": 2})
    assert Run.open(tmp_path / "run").header["seed"] == 1


def test_a_file_system_without_locks(
    learned: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = learned().run

    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    assert undo(run).task == 1
    assert "has no locks here: run one command at a time" in caplog.text
    caplog.clear()
    monkeypatch.setattr(lock, "fcntl", None)
    export_packs(run, run.path / "packs")
    assert undo(run).task == 0
    assert "has no locks here" in caplog.text


def test_a_run_is_exported_from_where_nobody_can_write(
    learned: Callable[..., Learner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = learned().run, os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if str(path).startswith(str(run.path)) and flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    (run.path / ".reading").unlink(missing_ok=True)
    monkeypatch.setattr(lock.os, "open", refuse)
    assert len(export_packs(run, tmp_path / "packs")) == 2
    with pytest.raises(OSError, match="Read-only"):
        undo(run)


# -- what a command that ended has done


def test_learn_waits_for_the_end_of_the_stream(
    make_learner: MakeLearner, make_stream: MakeStream, more: Path
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    with pytest.raises(RunError, match=r"1 of its tasks to come. Finish it with `edgecl train --r"):
        learn_folder(learner, more)
    before = bytes_of(learner.run)
    with pytest.raises(Exception, match="folder"):
        learn_folder(learner, more / "none", leave_stream=True)
    assert json.loads((learner.run.path / "run.json").read_text())["stream_tasks"] == 2
    assert before.keys() == bytes_of(learner.run).keys()
    learn_folder(learner, more, leave_stream=True)
    assert len(learner.run) == 2
    assert learn_stream(learner, stream) is not None  # and does not learn what was given up
    assert len(learner.run) == 2


def test_a_stream_whose_last_task_was_taken_back_goes_on(
    learned: Callable[..., Learner], make_stream: MakeStream, more: Path
) -> None:
    learner = learned()
    before = bytes_of(learner.run)
    undo(learner.run)
    with pytest.raises(RunError, match="1 of its tasks to come"):
        learn_folder(learner, more)
    learn_stream(learner, make_stream(((0, 1), (2, 3))))
    after = bytes_of(learner.run)
    assert {name for name in before if before[name] != after[name]} <= {
        "tasks/001/task.json", "metrics.json", "report.html",  # they hold the seconds
    }  # fmt: skip


def test_no_test_images_is_no_failure(
    make_learner: MakeLearner, make_folders: MakeFolders, more: Path
) -> None:
    root = make_folders({"hue-0": 0, "hue-1": 1})
    stream = load_stream(str(root), increment=1, test_fraction=0.0)
    learner = make_learner("simplecil", stream)
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert summary.test_images == (0, 0)
    assert learn_folder(learner, more).task == 2
    assert len(export_packs(learner.run, learner.run.path / "packs")) == 3


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("x"), RunError("y")])
def test_figures_that_fail_are_a_warning(
    learned: Callable[..., Learner], more: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, error: Exception,
) -> None:  # fmt: skip
    learner = learned()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(session, "write_report", fail)
    assert learn_folder(learner, more).task == 2
    assert len(learner.run) == 3
    assert "is whole, but its metrics.json and report.html were not written" in caplog.text


def test_what_fails_commits_nothing(
    learned: Callable[..., Learner], more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learned()
    before = bytes_of(learner.run)
    (more / "hue-5" / "extra").mkdir()
    for call in ("save_file", "json_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(runs_module, call, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                learn_folder(learner, more)
        assert bytes_of(learner.run) == before


# -- undo


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("l2p", "cgil")]


@pytest.mark.parametrize("method", ["simplecil", "ranpac", *SLOW])
def test_undo_restores_every_byte(learned: Callable[..., Learner], more: Path, method: str) -> None:
    run = (learner := learned(method)).run
    run.change(keep=3)
    session.refresh(run)
    before = bytes_of(run)
    learn_folder(learner, more)
    assert bytes_of(run) != before
    assert undo(run).classes == ("hue-4", "hue-5")
    assert bytes_of(run) == before
    record = learn_folder(learner, more)
    assert (record.task, len(run)) == (2, 3)


def test_undo_goes_as_far_as_states_are_kept(learned: Callable[..., Learner], more: Path) -> None:
    run = (learner := learned("ranpac")).run
    before = bytes_of(run)
    learn_folder(learner, more)
    assert (run.undoable(), run.kept_bytes() > 0) == (1, True)
    undo(run)
    # what is further back than `keep` is gone; all else is as it was
    assert {*before.items()} - {*bytes_of(run).items()} == {
        ("tasks/000/state.safetensors", before["tasks/000/state.safetensors"])
    }
    with pytest.raises(RunError, match=r"for 1 tasks back only. Release the packs of the first 1"):
        undo(run)
    assert len(run) == 2
    learn_folder(learner, more, keep=0)
    assert (run.undoable(), run.kept_bytes()) == (0, 0)


def test_undo_to_nothing(learned: Callable[..., Learner], make_stream: MakeStream) -> None:
    learner = learned()
    run = learner.run
    assert run.undoable() == 2
    assert [undo(run).task, undo(run).task] == [1, 0]
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".lock", ".reading", "run.json", "tasks",
    ]  # fmt: skip
    with pytest.raises(RunError, match="A task to take back must be there"):
        undo(run)
    assert learn_stream(learner, make_stream(((0, 1), (2, 3)))) is not None


def test_a_kill_in_the_middle_of_undo(
    learned: Callable[..., Learner], more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (learner := learned()).run

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs_module.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            undo(run)
    assert len(run) == 1
    learn_folder(learner, more, leave_stream=True)
    assert sorted(path.name for path in (run.path / "tasks").iterdir()) == ["000", "001"]


def test_packs_follow_what_was_taken_back_and_learned_again(
    learned: Callable[..., Learner], make_folders: MakeFolders, simplecil_bundle: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The task has the same names and other images: its pack must not stay."""
    learner = learned()
    packs = tmp_path / "packs"
    learn_folder(learner, make_folders({"hue-4": 4}, root="wrong"), "third")
    wrong = export_packs(learner.run, packs)
    undo(learner.run)
    assert export_packs(learner.run, packs) == wrong[:2]
    learn_folder(learner, make_folders({"hue-4": 5}, root="right"), "third")
    undo(learner.run)
    rename_class(learner.run, "hue-0", "red")
    with pytest.raises(PackError, match="Export all of them without --task"):
        export_packs(learner.run, packs, [1])
    learn_folder(learner, tmp_path / "right", "third")
    right = export_packs(learner.run, packs)
    assert right[2] != wrong[2]
    assert list(read_packs(packs)[0]) == right
    export_release(packs, tmp_path / "release", simplecil_bundle)


# -- names


@pytest.mark.parametrize("method", ["simplecil", *SLOW])
def test_a_rename_reaches_the_device_and_changes_no_tensor(
    learned: Callable[..., Learner], method: str, tmp_path: Path, simplecil_bundle: Path
) -> None:
    run = learned(method).run
    export_packs(run, tmp_path / "packs")
    former = read_packs(tmp_path / "packs")
    before = tensors_of(run)
    assert rename_class(run, "hue-1", " K\u0061\u0308se ") == "K\u00e4se"
    assert tensors_of(run) == before
    assert run.class_rows() == [("hue-0", "K\u00e4se"), ("hue-2", "hue-3")]
    assert run.record(0).learned_as == ("hue-0", "hue-1")
    export_packs(run, tmp_path / "packs")
    now = read_packs(tmp_path / "packs")
    assert now[1] == former[1]  # the blobs
    assert list(now[0])[1:] == list(former[0])[1:]
    if method == "simplecil":
        export_release(tmp_path / "packs", tmp_path / "new", simplecil_bundle)
        device = Classifier.open(simplecil_bundle, tmp_path / "new")  # runs the canaries
        assert device.classes == ("hue-0", "K\u00e4se", "hue-2", "hue-3")
    rename_class(run, "K\u00e4se", "hue-1")
    assert run.record(0).learned_as == ()
    assert list(read_packs(tmp_path / "packs")[0]) != export_packs(run, tmp_path / "packs")
    assert list(read_packs(tmp_path / "packs")[0]) == list(former[0])


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("hue-0", "hue-1", "'hue-0'.*free, got 'hue-1' and 'hue-1'.*edgecl classes merge"),
        ("hue-0", "HUE-1", "free, got 'hue-1' and 'HUE-1'"),
        ("none", "x", "must be one of .*edgecl classes list"),
        ("hue-0", "a\nb", r"a line break \(U\+000A\). Choose another"),
        ("hue-0", " ", "0 characters"),
        ("hue-0", "x" * 201, "201 characters"),
    ],
)
def test_a_rename_that_cannot_be(
    learned: Callable[..., Learner], old: str, new: str, found: str
) -> None:
    run = learned().run
    before = bytes_of(run)
    with pytest.raises(RunError, match=found):
        rename_class(run, old, new)
    assert bytes_of(run) == before
    rename_class(run, "hue-0", "HUE-0")  # its own name in another case is free


@pytest.mark.parametrize("pair", [("hue-1", "hue-0"), ("hue-3", "hue-0"), ("hue-0", "hue-3")])
def test_merged_classes_answer_as_one(
    learned: Callable[..., Learner], pair: tuple[str, str], make_stream: MakeStream,
    tmp_path: Path, simplecil_bundle: Path, make_folders: MakeFolders,
) -> None:  # fmt: skip
    learner = learned()
    run, before = learner.run, tensors_of(learner.run)
    with pytest.raises(RunError, match="twice"):
        merge_classes(run, pair[0], pair[0])
    merge_classes(run, *pair)
    assert tensors_of(run) == before
    export_packs(run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)
    device = Classifier.open(simplecil_bundle, tmp_path / "release")
    assert pair[0] not in device.classes
    assert len(device.classes) == 3
    images = learner.load(make_stream(((int(pair[0][-1]), int(pair[1][-1])),)).tasks[0].test, "")
    answers = device.loaded.predict(images.images, 1)
    assert {answer.label for answer in answers} == {pair[1]}
    # and the run goes on, the merged class included
    learn_folder(learner, make_folders({pair[1]: int(pair[1][-1]), "hue-4": 4}, root="again"))
    assert run.record(2).known == (pair[1],)
    assert run.record(2).moved == (pair[1],)
    export_packs(run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "later", simplecil_bundle)
    facts = {each.name: each for each in classes_of(run.records())}
    assert (facts[pair[1]].rows, facts[pair[1]].images) == (3, 4 + 4 + 5)
    with pytest.raises(RunError, match="Only classes whose rows all count can be merged"):
        merge_classes(run, "hue-2", pair[1])
    undo(run)
    assert run.class_rows() == [
        tuple(pair[1] if name == pair[0] else name for name in rows)
        for rows in (("hue-0", "hue-1"), ("hue-2", "hue-3"))
    ]


@pytest.mark.parametrize("method", ["simplecil", "ranpac"])
def test_more_images_of_a_merged_class_count_all_of_it(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders, method: str
) -> None:
    """Merged, then more of it: as if all of its images had come under one name."""
    stream = make_stream(((0, 1),))
    merged = make_learner(method, stream, out="merged")
    learn_stream(merged, stream)
    merge_classes(merged.run, "hue-1", "hue-0")
    folder = make_folders({"hue-0": 0}, root="again")
    learn_folder(merged, folder)
    if method == "simplecil":
        rows = merged.learned()["prototypes"].double()
        fresh = make_learner(method, stream, out="fresh")
        single = learn_folder(fresh, folder, leave_stream=True)
        alone = fresh.learned()["prototypes"].double()
        want = (4 * rows[0] + 4 * rows[1] + single.train_images * alone[0]) / (8 + 5)
        torch.testing.assert_close(rows[2], want, rtol=1e-5, atol=1e-6)
    else:
        moments = merged.run.state()["moments"]
        assert not moments[:, 1:].any()
        assert moments[:, 0].sum() > 0
        head = merged.learned()["head_weight"]
        assert torch.equal(head[0], head[1])


def test_a_stream_goes_on_under_the_new_names(
    make_learner: MakeLearner, make_folders: MakeFolders, tmp_path: Path
) -> None:
    root = make_folders({
        "task_00/hue-0": 0, "task_00/hue-1": 1, "task_01/hue-0": 0, "task_01/hue-1": 1,
        "task_02/hue-2": 2,
    })  # fmt: skip
    stream = load_stream(str(root), protocol="dcil")
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    rename_class(learner.run, "hue-0", "red")
    summary = resume(learner)
    assert summary is not None
    assert learner.run.class_rows() == [("red", "hue-1"), ("red", "hue-1"), ("hue-2",)]
    assert learner.run.record(1).known == ("red", "hue-1")
    assert summary.a_last == 1.0
    undo(learner.run)
    rename_class(learner.run, "red", "hue-2")
    with pytest.raises(RunError, match=r"name of its own, got 'hue-2', which 'hue-0' was renamed"):
        resume(learner)
    rename_class(learner.run, "hue-2", "hue-0")
    merge_classes(learner.run, "hue-1", "hue-0")
    undo(learner.run)
    assert resume(learner) is not None
    assert learner.run.class_rows() == [("hue-0", "hue-0"), ("hue-0",), ("hue-2",)]


def test_names_of_the_images_follow_every_change(learned: Callable[..., Learner]) -> None:
    run = learned().run
    for change in (
        lambda: rename_class(run, "hue-0", "red"),
        lambda: rename_class(run, "hue-1", "hue-0"),
        lambda: merge_classes(run, "hue-2", "hue-3"),
        lambda: rename_class(run, "hue-3", "blue"),
        lambda: rename_class(run, "red", "scarlet"),
    ):
        change()
    assert run.setting("names", {}) == {
        "hue-0": "scarlet", "hue-1": "hue-0", "hue-2": "blue", "hue-3": "blue",
    }  # fmt: skip
    assert run.class_rows() == [("scarlet", "hue-0"), ("blue", "blue")]
    assert run.record(0).origin == ("hue-0", "hue-1")
    assert list(run.examples(0)) == ["scarlet", "hue-0"]
    assert list(run.examples(1)) == ["blue"]


def test_a_report_names_each_class_as_it_is_called_now(
    learned: Callable[..., Learner],
) -> None:
    """A name that one class had is another's now, and two have changed places."""
    run = learned().run
    before = read_run(run.path)
    assert before.classes is not None
    for old, new in (("hue-0", "red"), ("hue-1", "hue-0"), ("hue-2", "x"), ("hue-3", "hue-2"),
                     ("x", "hue-3")):  # fmt: skip
        rename_class(run, old, new)
    summary = session.refresh(run)
    assert summary is not None
    after = read_run(run.path)
    for figures in (after.classes, summary.classes):
        assert figures is not None
        assert figures.names == ("red", "hue-0", "hue-3", "hue-2")
        assert figures.images == before.classes.images
    assert after.examples == dict(
        zip(("red", "hue-0", "hue-3", "hue-2"), before.examples.values(), strict=True)
    )


def test_the_figures_of_classes_follow_the_names(
    learned: Callable[..., Learner], make_stream: MakeStream
) -> None:
    run = learned().run
    before = run.evaluation(1)
    assert before is not None
    assert before.classes is not None
    rename_class(run, "hue-0", "red")
    merge_classes(run, "hue-3", "red")
    session.refresh(run)
    after = run.evaluation(1)
    assert after is not None
    assert after.classes is not None
    assert after.classes.names == ("red", "hue-1", "hue-2")
    assert sum(after.classes.images) == sum(before.classes.images)
    assert after.classes.images[0] == before.classes.images[0] + before.classes.images[3]
    assert "red" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
def test_a_kill_in_the_middle_of_a_rename(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, simplecil_bundle: Path, call: int,
) -> None:  # fmt: skip
    """The class has a row in each of two tasks: all rows have the new name, or none has."""
    stream = make_stream(((0, 1), (1, 2)), protocol="dcil")
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    run, calls, real = learner.run, [], runs_module.write_whole

    def dying(*args: object) -> None:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "write_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            rename_class(run, "hue-1", "green")
    name = "hue-1" if call == 1 else "green"
    rows = [("hue-0", name), (name, "hue-2")]
    assert run.class_rows() == rows
    assert run.record(1).known == (name,)
    export_packs(run, tmp_path / "packs")  # a reader sees the names that were meant
    assert parse_pack(list(read_packs(tmp_path / "packs")[0].values())[1]).known == (name,)
    with run.writing():
        pass
    assert not (run.path / ".names.json").exists()
    assert run.class_rows() == rows
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)


# -- the commands


def test_the_commands_of_a_run(
    command: Command, learned: Callable[..., Learner], more: Path, tmp_path: Path
) -> None:
    learner = learned()
    run = learner.run.path
    learned("ranpac", out="second")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    rows = {Path(each["path"]).name: each for each in json.loads(
        command("runs", "list", tmp_path, "--json").stdout)}  # fmt: skip
    assert rows.keys() == {"run", "second", "broken"}
    assert (rows["run"]["method"], rows["run"]["tasks"], rows["run"]["classes"]) == (
        "simplecil", 2, 4,
    )  # fmt: skip
    assert rows["run"]["a_last"] == 1.0
    assert rows["run"]["locked_by"] is None
    assert "made, got" in rows["broken"]["damage"]
    with learner.run.writing():
        (held,) = json.loads(command("runs", "list", run, "--json").stdout)
    assert held["locked_by"] == f"process {os.getpid()}"
    assert "ranpac" in command("runs", "list", tmp_path).output
    assert "no run in" in command("runs", "list", more).output
    assert "Runs are in a" in command("runs", "list", tmp_path / "none", code=1).output
    assert "task_01" in command("runs", "show", run).output
    shown = json.loads(command("runs", "show", run, "--json").stdout)
    assert [task["images"] for task in shown["of_tasks"]] == [8, 8]
    assert "hue-3" in command("classes", "list", run).output
    assert "red now; devices" in command("classes", "rename", run, "hue-0", "red").output
    assert json.loads(command("classes", "merge", run, "hue-1", "red", "--json").stdout) == {
        "run": str(run), "from": "hue-1", "into": "red",
    }  # fmt: skip
    listed = json.loads(command("classes", "list", run, "--json").stdout)
    assert listed[0] == {
        "name": "red", "tasks": [0], "rows": 2, "images": 8, "learned_as": ["hue-0", "hue-1"],
    }  # fmt: skip
    facts = json.loads(command("undo", run, "--keep", 4, "--json").stdout)
    assert (facts["taken_back"], facts["tasks"], facts["undoable"]) == ("task_01", 1, 1)
    assert learner.run.setting("keep", 0) == 4
    assert "0 B kept for it" in command("undo", run).output
    assert "no class" in command("classes", "list", run).output
    assert "A task to take" in command("undo", run, code=1).output


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_learn_says_what_is_kept(
    command: Command, learned: Callable[..., Learner], more: Path,
    monkeypatch: pytest.MonkeyPatch, after: bool,
) -> None:  # fmt: skip
    learner = learned()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "open_learner", lambda *_, **__: learner)
    monkeypatch.setattr(session, "refresh" if after else "learn_task", stop)
    result = CliRunner().invoke(commands.edgecl, ["learn", str(learner.run.path), str(more)])
    assert isinstance(result.exception, KeyboardInterrupt | SystemExit | click.Abort)
    assert f"keeps its {3 if after else 2} finished tasks" in result.output
    assert len(learner.run) == (3 if after else 2)


# -- the cache


@pytest.mark.parametrize(
    "damage", ["read-only", "full", "a file", "a folder of another", "garbage"]
)
def test_a_cache_that_fails_is_one_warning(
    tmp_path: Path, tiny_clip: Clip, make_stream: MakeStream, damage: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from edgecl.backbones import feature_cache

    root = tmp_path / "cache"
    folder = root / "features" / f"{tiny_clip.visual.digest}-cpu"
    folder.mkdir(parents=True)

    def fail(number: int, text: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            raise OSError(number, text)

        return call

    if damage == "a file":
        folder.rmdir()
        folder.write_text("x")
    elif damage == "garbage":
        (folder / "00.safetensors").write_bytes(b"garbage")
        monkeypatch.setattr(Path, "unlink", fail(30, "Read-only file system"))
    elif damage == "a folder of another":
        monkeypatch.setattr(Path, "glob", fail(13, "Permission denied"))
    else:
        full = damage == "full"
        error = fail(28, "No space left") if full else fail(30, "Read-only file system")
        monkeypatch.setattr(feature_cache, "write_whole", error)
    stream = make_stream(((0, 1), (2, 3)))
    cache = FeatureCache(root, tiny_clip.visual.digest)
    monkeypatch.undo() if damage == "a folder of another" else None
    run = Run.create(tmp_path / "run", session.run_header(
        session.build_method("simplecil", session.BackboneSpec.of(tiny_clip.visual), {}),
        tiny_clip.visual, None, 0, "float32"))  # fmt: skip
    learner = make_learner(run, tiny_clip, Compute(torch.device("cpu")), Reporter(), cache)
    learn_stream(learner, stream)
    assert len(run) == 2
    warnings = [each for each in caplog.records if "EDGECL_CACHE" in each.getMessage()]
    assert len(warnings) == 1
    assert np.isfinite(learner.learned()["prototypes"].numpy()).all()


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgecl import cache

    def homeless(*_: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EDGECL_CACHE", raising=False)
    monkeypatch.setattr(cache, "user_cache_dir", homeless)
    assert cache.cache_dir().is_absolute()
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache.cache_dir() == tmp_path
