"""Runs as people have them: what a command that ended has done, and the commands of a run.

`test_run_loop.py` has the random commands.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.edgecl.cases.run_bytes import bytes_of

from edgecl import session
from edgecl.learning import runs as runs_module
from edgecl.learning.learner import Learner
from edgecl.learning.runs import RunError
from edgecl.session import learn_folder, learn_stream, learn_task, undo
from edgecl.streams import Stream, load_stream
from edgecl_deploy import commands
from edgecl_export.pack import export_packs

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]
Command = Callable[..., Result]


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
    assert "0 B kept for that and for `edgecl forget`" in command("undo", run).output
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
