"""The run folder: tasks appear whole or not at all, and what is damaged says so."""

import json
import os
from pathlib import Path

import pytest
import torch

from edgecl.learning import runs
from edgecl.learning.exemplars import Memory
from edgecl.learning.fields import RecordError
from edgecl.learning.records import Evaluation, LearnedTask, TaskRecord
from edgecl.learning.runs import Run, RunError, json_bytes
from edgecl.program.learned import Tensors
from edgecl_deploy.manifest import whole
from edgecl_deploy.manifest.whole import TEMPORARY

PART = {"weights": torch.arange(6.0).reshape(3, 2)}
CANARY = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
EVALUATION = Evaluation((1.0,), (3,), ((3,),), {})


def record(task: int, state: tuple[str, ...] = ()) -> TaskRecord:
    return TaskRecord(
        task, f"task_{task:02d}", (f"c{task}",), (), (4,), ("a line",), 1.5, state=state
    )


def learned(task: int, part: Tensors = PART, state: Tensors | None = None) -> LearnedTask:
    state = state or {}
    return LearnedTask(record(task, tuple(sorted(state))), part, state, CANARY)


def commit(run: Run, evaluation: Evaluation | None = None) -> None:
    run.commit(learned(len(run)), evaluation)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"method": "simplecil", "seed": 1})


def test_what_was_committed_is_read_again(run: Run) -> None:
    commit(run, EVALUATION)
    commit(run)
    again = Run.open(run.path)
    assert len(again) == 2
    assert again.header == {"format": "edgecl-run/3", "method": "simplecil", "seed": 1}
    assert again.record(1) == record(1)
    assert again.records() == [record(0), record(1)]
    assert again.class_rows() == [("c0",), ("c1",)]
    assert again.evaluation(0) == EVALUATION
    assert again.evaluation(1) is None
    assert torch.equal(again.part(1)["weights"], PART["weights"])
    assert again.canary(0).shape == CANARY.shape
    assert [part.keys() for part in again.parts()] == [{"weights"}] * 2


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_the_newest_state_stays_and_those_that_undo_needs(run: Run, keep: int) -> None:
    run.change(keep=keep)
    assert run.state() == {}
    grams = [torch.eye(2, dtype=torch.float64) * scale for scale in (1, 2, 3)]
    for task, gram in enumerate(grams):
        run.commit(learned(task, state={"gram": gram}), None)
        again = Run.open(run.path)
        assert torch.equal(again.state()["gram"], gram)
        assert again.state()["gram"].dtype == torch.float64
        found = sorted(path.parent.name for path in run.path.rglob("state.safetensors"))
        assert found == [f"{each:03d}" for each in range(max(0, task - keep), task + 1)]
        assert run.undoable() == min(keep, task) + (task <= keep)
    assert run.record(2).state == ("gram",)
    commit(run)
    assert Run.open(run.path).state() == {}
    assert len(list(run.path.rglob("state.safetensors"))) == keep


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_state_that_is_lost_is_no_empty_state(run: Run, damage: str) -> None:
    run.commit(learned(0, state={"gram": torch.eye(2)}), None)
    path = run.path / "tasks" / "000" / "state.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-3])
    with pytest.raises(RunError, match=rf"readable state.safetensors.* Restore {path} from a copy"):
        Run.open(run.path).state()


def test_a_kill_before_an_old_state_is_dropped_hurts_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(path: Path) -> None:
        raise KilledError

    run.change(keep=0)
    run.commit(learned(0, state={"gram": torch.eye(2)}), None)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "drop", dying)
        with pytest.raises(KilledError):
            run.commit(learned(1, state={"gram": 2 * torch.eye(2)}), None)
    again = Run.open(run.path)
    assert len(again) == 2
    assert again.state()["gram"][0, 0] == 2
    again.commit(learned(2, state={"gram": 3 * torch.eye(2)}), None)
    assert [path.parent.name for path in run.path.rglob("state.safetensors")] == ["002"]


def test_a_part_need_not_be_contiguous(run: Run) -> None:
    weights = torch.arange(6.0).reshape(2, 3).T
    run.commit(learned(0, {"weights": weights}), None)
    assert torch.equal(run.part(0)["weights"], weights)


def test_an_empty_folder_will_do_and_a_full_one_will_not(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    assert len(Run.create(tmp_path / "empty", {})) == 0
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(
        RunError, match=rf"Choose another, or continue that run with --resume {run.path}"
    ):
        Run.create(run.path, {})
    assert (run.path / "run.json").read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="must be a new or an empty folder"):
        Run.create(tmp_path / "file", {})


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"`edgecl train --out` made, got .* Check the path"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"format": "edgecl-run/2"},
        {"format": "edgecl-run/4"},
        {"format": None},
        {},
        [],
        "x",
        3,
        None,
    ],
)
def test_a_run_of_another_format(tmp_path: Path, header: object) -> None:
    (tmp_path / "run.json").write_bytes(json_bytes(header))
    with pytest.raises(
        RunError,
        match=r"edgecl-run/3, got .* Use the release of edgecl that wrote it, or learn the",
    ):
        Run.open(tmp_path)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("owner", "function", "call"),
    [
        (runs, "save_file", 1),
        (runs, "save_file", 2),
        (runs, "json_bytes", 1),
        (runs, "json_bytes", 2),
        (whole, "sync", 1),
        (whole, "sync", 5),
    ],
)
def test_a_kill_between_the_files_leaves_the_old_count(
    run: Run, monkeypatch: pytest.MonkeyPatch, owner: object, function: str, call: int
) -> None:
    commit(run)
    real, calls = getattr(owner, function), 0

    def dying(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, dying)
        with pytest.raises(KilledError):
            commit(run)
    again = Run.open(run.path)
    assert len(again) == 1
    again.commit(learned(1, {"other": PART["weights"]}), None)
    assert len(again) == 2
    assert again.part(1).keys() == {"other"}
    assert sorted(path.name for path in (run.path / "tasks").iterdir()) == ["000", "001"]


def test_a_run_killed_at_its_creation_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise KilledError

    for owner, function in ((os, "replace"), (runs, "write_whole")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, dying)
            with pytest.raises(KilledError):
                Run.create(tmp_path / "run", {"seed": 1})
    commit(Run.create(tmp_path / "run", {"seed": 2}))
    assert Run.open(tmp_path / "run").header["seed"] == 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "run.json",
        "tasks",
    ]


def test_what_a_killed_process_left_hurts_nobody(tmp_path: Path) -> None:
    """It has the name of what is not whole yet; an exception would have removed it."""
    path = tmp_path / "run"
    path.mkdir()
    (path / f"{TEMPORARY}0").write_text("{")
    run = Run.create(path, {})
    half = run.path / "tasks" / f"{TEMPORARY}1"
    half.mkdir(parents=True)
    (half / "task.json").write_text("{")
    assert len(Run.open(path)) == 0
    commit(run)
    assert [each.name for each in (run.path / "tasks").iterdir()] == ["000"]


def test_json_is_for_people() -> None:
    assert json_bytes({"é": [1]}).decode() == '{\n "é": [\n  1\n ]\n}\n'


@pytest.mark.parametrize(
    "name", ["task.json", "evaluation.json", "learned.safetensors", "canary.safetensors"]
)
@pytest.mark.parametrize("damage", ["removed", "cut", "garbage"])
def test_a_damaged_file_of_a_finished_task_is_named(run: Run, name: str, damage: str) -> None:
    commit(run, EVALUATION)
    path = run.path / "tasks" / "000" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(content[:-3] if damage == "cut" else b"\xff" * 20)
    read = {
        "task.json": run.record, "evaluation.json": run.evaluation,
        "learned.safetensors": run.part, "canary.safetensors": run.canary,
    }[name]  # fmt: skip
    with pytest.raises(RunError, match=rf"readable {name}, got .* Restore {path} from a copy"):
        read(0)


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("task.json", {"classes": "cat"}, "task.classes must be a list, got 'cat'"),
        ("task.json", {"seconds": None}, "task.seconds must be a finite number, got None"),
        ("task.json", {"author": "me"}, r"task must be an object without further fields, got \['a"),
        ("evaluation.json", {"images": [3, 3]}, "evaluation.images must be one count for each"),
        ("evaluation.json", {"accuracy": [1.5]}, r"evaluation.accuracy\[0\] must be a share in"),
    ],
)
def test_a_file_that_holds_no_record_is_named(
    run: Run, name: str, changes: dict[str, object], found: str
) -> None:
    commit(run, EVALUATION)
    path = run.path / "tasks" / "000" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    read = run.record if name == "task.json" else run.evaluation
    with pytest.raises(RunError, match=rf"readable {name}, got {found}.* Restore {path} from a"):
        read(0)


def test_a_record_names_the_tensors_of_its_state() -> None:
    with pytest.raises(RecordError, match=r"task.state must be .*\('gram',\), got \(\)"):
        LearnedTask(record(0), PART, {"gram": torch.eye(2)}, CANARY)


def test_a_task_that_is_not_the_next_is_not_committed(run: Run) -> None:
    commit(run)
    with pytest.raises(RunError, match=r"must be number 1, got 0\. Learn it again"):
        run.commit(learned(0), None)
    assert len(run) == 1


def test_knowledge_is_what_a_run_holds_or_would_hold(run: Run) -> None:
    memory = Memory(CANARY, torch.tensor([0]))
    first = learned(0, state={"gram": torch.eye(2), **memory.to_state()})
    nothing = run.knowledge()
    assert (nothing.parts, nothing.classes, nothing.state, nothing.memory) == ((), (), {}, None)
    run.commit(first, None)
    for known in (nothing.after(first), run.knowledge()):
        assert torch.equal(known.parts[0]["weights"], PART["weights"])
        assert known.class_rows == (("c0",),)
        assert known.state.keys() == {"gram"}
        assert known.memory is not None
        assert torch.equal(known.memory.images, CANARY)
    assert nothing.after(first).after(learned(1)).classes == ("c0", "c1")
