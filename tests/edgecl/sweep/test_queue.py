"""The queue of a sweep, with processes that stand for trainings, and once with true ones."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgecl.cli.sweep import sweep
from edgecl.learning.overview import find_runs
from edgecl.sweep import Cell, Sweep, SweepError, queue, summed

# A training of two tasks: what it is told by its first word decides how it ends.
TRAIN = """
import json, os, sys, time
from pathlib import Path
how, *words = sys.argv[1:]
print("began", *words, flush=True)
resumed = words[0] == "--resume"
out = Path(words[1] if resumed else words[words.index("--out") + 1])
how = (out / "how").read_text() if resumed else how
out.mkdir(exist_ok=True)
(out / "how").write_text(how if how != "once" else "done")
(out / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
header = {"format": "edgecl-run/1", "method": "simplecil", "stream": None, "stream_tasks": 0}
(out / "run.json").write_text(json.dumps(header))
if how in {"fail", "once"}:
    sys.exit("edgecl: no such thing")
if how == "wait":
    (out.parent / "waits").touch()
    time.sleep(60)
(out / "metrics.json").write_text(json.dumps({"a_last": 0.5, "a_avg": 0.75}))
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Start a short script instead of a training, whose run counts as whole with its figures."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)

    def command(module: str, *arguments: str) -> list[str]:
        assert (module, arguments[0]) == ("edgecl.cli", "train")
        words = list(arguments[1:])
        how = "-" if words[0] == "--resume" else words.pop(0)
        return [sys.executable, "-I", str(script), how, *words]

    monkeypatch.setattr(queue, "python_module", command)
    monkeypatch.setattr(queue, "PAUSE", 0.01)
    monkeypatch.setattr(
        Sweep, "_is_done", lambda self, cell: (self.run_of(cell) / "metrics.json").is_file()
    )
    return tmp_path / "out"


def cell(name: str, how: str, seed: int = 1) -> Cell:
    return Cell(f"{name}-seed{seed}", name, seed, (how,))


def states(found: list[Any]) -> dict[str, str]:
    return {each.cell.name: each.state for each in found}


def test_what_fails_stops_nothing_and_a_second_call_goes_on(stand_in: Path) -> None:
    cells = [cell("a", "once"), cell("b", "done"), cell("c", "fail"), cell("b", "done", 2)]
    seen: list[list[Any]] = []
    found = Sweep(cells, stand_in, jobs=2).run(seen.append)
    assert states(found) == {
        "a-seed1": "failed", "b-seed1": "done", "c-seed1": "failed", "b-seed2": "done",
    }  # fmt: skip
    assert {each.why for each in found if each.state == "failed"} == {"edgecl: no such thing"}
    assert max(sum(each.state == "running" for each in one) for one in seen) <= 2
    began = (stand_in / "logs" / "b-seed1.log").read_text()
    again = Sweep(cells, stand_in).run(lambda found: None)
    assert states(again)["a-seed1"] == "done"  # it went on
    assert states(again)["c-seed1"] == "failed"
    assert (stand_in / "logs" / "b-seed1.log").read_text() == began  # not run again
    assert (stand_in / "logs" / "a-seed1.log").read_text().count("began") == 2
    groups = {group.name: group for group in summed(cells, stand_in)}
    assert groups["b"].seeds == (1, 2)
    assert (groups["b"].last, groups["b"].average, groups["b"].spread) == (0.5, 0.75, 0.0)
    assert groups["a"].spread is None


def test_another_plan_does_not_take_old_runs(stand_in: Path) -> None:
    Sweep([cell("a", "done"), cell("b", "done")], stand_in).run(lambda found: None)
    changed = Sweep([Cell("a-seed1", "a", 1, ("done", "--epochs")), cell("b", "done")], stand_in)
    with pytest.raises(SweepError, match=r"a-seed1 was `edgecl train done` and is .* --epochs"):
        changed.run(lambda found: None)
    assert states(changed.status()) == {"a-seed1": "done", "b-seed1": "done"}


def test_options_of_one_call_are_given_again(stand_in: Path) -> None:
    again = Cell("a-seed1", "a", 1, ("once",), ("--workers", "2"))
    for _ in range(2):
        Sweep([again], stand_in).run(lambda found: None)
    assert (stand_in / "logs" / "a-seed1.log").read_text().count("--workers 2") == 2


def test_each_process_has_a_gpu_of_its_own(stand_in: Path) -> None:
    cells = [cell(name, "done") for name in "abcd"]
    Sweep(cells, stand_in, gpus=("3", "5")).run(lambda found: None)
    used = [(stand_in / each.name / "gpu").read_text() for each in cells]
    assert set(used) == {"3", "5"}


def test_an_interruption_ends_the_processes(stand_in: Path) -> None:
    made = Sweep([cell("a", "wait"), cell("b", "done")], stand_in, jobs=1)

    def interrupt(found: list[Any]) -> None:
        if (stand_in / "waits").exists():
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        made.run(interrupt)
    assert time.monotonic() - began < 30
    assert states(made.status()) == {"a-seed1": "waiting", "b-seed1": "waiting"}


def test_true_trainings(make_folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings of a tiny backbone, one of which cannot begin."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    from safetensors.torch import save_file

    from edgecl.backbones import load_backbone

    tiny = load_backbone("vit-tiny-16", image_size=32, random_seed=0)
    save_file(tiny.model.state_dict(), tmp_path / "tiny.safetensors")
    images = make_folders({f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)})
    plan = {
        "methods": ["simplecil", {"method": "simplecil", "name": "none", "set": {"no": 1}}],
        "streams": [{"name": "hues", "stream": str(images)}],
        "seeds": [7],
        "options": {
            "backbone": "vit-tiny-16", "weights": str(tmp_path / "tiny.safetensors"),
            "image-size": 32,
        },
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    out = tmp_path / "out"
    words = [str(tmp_path / "plan.json"), "--out", str(out), "--device", "cpu", "--json"]
    result = CliRunner().invoke(sweep, words)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert {each["name"]: each["state"] for each in found["trainings"]} == {
        "hues-simplecil-seed7": "done", "hues-none-seed7": "failed",
    }  # fmt: skip
    assert "hues-none-seed7 failed: edgecl: " in result.stderr
    assert [group["name"] for group in found["groups"]] == ["hues-simplecil"]
    assert Path(found["report"]).is_file()
    assert [run.name for run in find_runs(out)] == ["hues-simplecil-seed7"]
    dry = CliRunner().invoke(sweep, [*words[:3], "--dry-run"])
    wrong = CliRunner().invoke(sweep, [*words[:3], "--gpus", "0", "--device", "cpu"])
    assert (wrong.exit_code, "--gpus is of --device cuda" in wrong.output) == (2, True)
    assert dry.output.splitlines()[0].startswith("hues-simplecil-seed7: edgecl train simplecil ")
