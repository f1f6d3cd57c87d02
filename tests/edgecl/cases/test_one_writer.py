"""One command at a time changes a run; readers, file systems and folders as people have them."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.edgecl.cases.run_bytes import bytes_of

from edgecl.learning import runs as runs_module
from edgecl.learning.changes import merge_classes, rename_class
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError
from edgecl.session import learn_folder, learn_stream, undo
from edgecl.streams import Stream
from edgecl_deploy.manifest import lock
from edgecl_export.pack import export_packs

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]


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
