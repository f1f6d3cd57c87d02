"""The run folder: tasks appear whole or not at all, and what is damaged says so."""

import json
from pathlib import Path

import pytest
import torch

from edgecl.learning import runs
from edgecl.learning.runs import Run, RunError, write_json

PART = {"rows": torch.arange(6.0).reshape(3, 2)}
CANARY = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)


def record(task: int) -> dict[str, object]:
    return {"task": task, "name": f"task_{task:02d}", "classes": [f"c{task}"]}


def commit(run: Run, evaluation: dict[str, object] | None = None) -> None:
    run.commit(record(len(run)), PART, evaluation, CANARY)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"method": "simplecil", "seed": 1})


def test_what_was_committed_is_read_again(run: Run) -> None:
    commit(run, {"accuracy": [1.0]})
    commit(run)
    again = Run.open(run.path)
    assert len(again) == 2
    assert again.header == {"format": "edgecl-run/1", "method": "simplecil", "seed": 1}
    assert again.record(1) == record(1)
    assert again.class_rows() == [["c0"], ["c1"]]
    assert again.evaluation(0) == {"accuracy": [1.0]}
    assert again.evaluation(1) is None
    assert torch.equal(again.part(1)["rows"], PART["rows"])
    assert again.canary(0).shape == CANARY.shape
    assert [part.keys() for part in again.parts()] == [{"rows"}] * 2


def test_only_the_newest_statistics_stay(run: Run) -> None:
    assert run.state() == {}
    grams = [torch.eye(2, dtype=torch.float64) * scale for scale in (1, 2, 3)]
    for task, gram in enumerate(grams):
        run.commit(record(task), PART, None, CANARY, {"gram": gram})
        again = Run.open(run.path)
        assert torch.equal(again.state()["gram"], gram)
        assert again.state()["gram"].dtype == torch.float64
        kept = [path.parent.name for path in run.path.rglob("state.safetensors")]
        assert kept == [f"{task:03d}"]
    assert run.record(2)["kept"] == ["gram"]
    commit(run)
    assert Run.open(run.path).state() == {}
    assert not list(run.path.rglob("state.safetensors"))


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_statistics_that_are_lost_are_no_empty_statistics(run: Run, damage: str) -> None:
    run.commit(record(0), PART, None, CANARY, {"gram": torch.eye(2)})
    path = run.path / "tasks" / "000" / "state.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-3])
    with pytest.raises(RunError, match=rf"readable kept.safetensors.* Restore {path} from a copy"):
        Run.open(run.path).state()


def test_a_kill_before_old_statistics_are_dropped_hurts_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(path: Path) -> None:
        raise KilledError

    run.commit(record(0), PART, None, CANARY, {"gram": torch.eye(2)})
    with monkeypatch.context() as patch:
        patch.setattr(runs, "drop", dying)
        with pytest.raises(KilledError):
            run.commit(record(1), PART, None, CANARY, {"gram": 2 * torch.eye(2)})
    again = Run.open(run.path)
    assert len(again) == 2
    assert again.state()["gram"][0, 0] == 2
    again.commit(record(2), PART, None, CANARY, {"gram": 3 * torch.eye(2)})
    assert [path.parent.name for path in run.path.rglob("state.safetensors")] == ["002"]


def test_a_part_need_not_be_contiguous(run: Run) -> None:
    rows = torch.arange(6.0).reshape(2, 3).T
    run.commit(record(0), {"rows": rows}, None, CANARY)
    assert torch.equal(run.part(0)["rows"], rows)


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
    "header", [{"format": "edgecl-run/2"}, {"format": None}, {}, [], "x", 3, None]
)
def test_a_run_of_another_format(tmp_path: Path, header: object) -> None:
    write_json(tmp_path / "run.json", header)
    with pytest.raises(
        RunError, match=r"edgecl-run/1, got .* Use the release of edgecl that wrote it"
    ):
        Run.open(tmp_path)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("save_file", 1),
        ("save_file", 2),
        ("write_json", 1),
        ("write_json", 2),
        ("sync", 1),
        ("sync", 5),
    ],
)
def test_a_kill_between_the_files_leaves_the_old_count(
    run: Run, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    commit(run)
    real, calls = getattr(runs, function), 0

    def dying(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runs, function, dying)
        with pytest.raises(KilledError):
            commit(run)
    again = Run.open(run.path)
    assert len(again) == 1
    again.commit(record(1), {"other": PART["rows"]}, None, CANARY)
    assert len(again) == 2
    assert again.part(1).keys() == {"other"}
    assert sorted(path.name for path in (run.path / "tasks").iterdir()) == ["000", "001"]


def test_a_run_killed_at_its_creation_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise KilledError

    for function in ("sync", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(runs, function, dying)
            with pytest.raises(KilledError):
                Run.create(tmp_path / "run", {"seed": 1})
    commit(Run.create(tmp_path / "run", {"seed": 2}))
    assert Run.open(tmp_path / "run").header["seed"] == 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.json", "tasks"]


def test_a_kill_while_rewriting_json_keeps_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é": 1})
    monkeypatch.setattr(runs, "sync", lambda _: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        write_json(path, {"b": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["task.json", "evaluation.json", "learned.safetensors", "canary.safetensors"]
)
@pytest.mark.parametrize("damage", ["removed", "cut", "garbage"])
def test_a_damaged_file_of_a_finished_task_is_named(run: Run, name: str, damage: str) -> None:
    commit(run, {"accuracy": []})
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
