"""The table of the methods: what its rows train, what its marks mean, and its pictures."""

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OWN = {path.stem for path in BENCHMARKS.glob("*.py")}
NEWER = {"acmap", "apg", "inflora", "input-tuning", "lda", "msl-mov", "sd-lora"}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the benchmark's module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("methods")
    for name in OWN & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def report(benchmark: ModuleType) -> ModuleType:
    """Return the module that writes the tables."""
    return importlib.import_module("methods_report")


def cell(a_last: float, machine: str = "one", **more: Any) -> dict[str, Any]:
    """Return the figures of a run."""
    return {
        "a_last": a_last, "a_avg": a_last, "forgetting": 0.0, "task_id_accuracy": 1.0,
        "passes": "1", "pack_bytes": [10, 20, 30], "machine": machine, "precision": "float32",
    } | more  # fmt: skip


def rows(report: ModuleType, cells: dict[str, list[dict[str, Any]]]) -> tuple[str, list[list[str]]]:
    """Return what a stream's table tells of itself, and its rows."""
    setting = {"tasks": 3, "classes": 6, "train_images": [1], "test_images": [1], "pixels": 56}
    lines = report.stream_table("digits", setting | {"epochs": 2}, cells)
    table = [[each.strip() for each in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return lines[2], table[2:]


def test_a_long_row_has_at_least_so_many_steps(benchmark: ModuleType) -> None:
    entries = benchmark.entries()
    long = {name: entry for name, entry in entries.items() if entry.long}
    assert {name.removesuffix("-long") for name in long} == {
        name for name, entry in entries.items() if not entry.long and entry.published is not None
    }
    for entry in long.values():
        for setting in benchmark.SETTINGS.values():
            schedule = benchmark.config(entry, setting.epochs, 1)["schedule"]
            train = replace(entry.published, **schedule)
            for images in (60, 285):
                steps = train.epochs_for(images) * math.ceil(images / train.batch_size)
                assert steps >= 100, entry


@pytest.mark.parametrize(("chosen", "tried"), [(1, (1,)), (3, (1, 3)), (10, (1, 3, 10))])
def test_a_long_row_tries_no_larger_rate(
    benchmark: ModuleType, tmp_path: Path, chosen: int, tried: tuple[int, ...]
) -> None:
    file = tmp_path / "methods.json"
    with pytest.raises(SystemExit, match="tune --methods l2p"):
        benchmark.factors("l2p-long", file)
    benchmark.record(file, "rates", "l2p", {"factor": chosen})
    assert benchmark.factors("l2p-long", file) == tried
    assert benchmark.factors("l2p", file) == (1, 3, 10)


def test_processes_record_beside_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cells import record\n"
        "for n in range(40): record(Path(sys.argv[1]), 'cells', sys.argv[2] + str(n), {'n': n})"
    )
    file = tmp_path / "methods.json"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(file), name], cwd=BENCHMARKS)
        for name in "ab"
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert len(json.loads(file.read_text())["cells"]) == 80
    assert [path.name for path in tmp_path.iterdir()] == ["methods.json"]


def test_a_row_tells_where_it_was_made(report: ModuleType) -> None:
    told, table = rows(report, {
        "l2p": [cell(0.5, seconds=[2.0]), cell(0.5, seconds=[4.0])],
        "lda": [cell(0.9, "two"), cell(0.9)],
        "ease": [cell(0.7, precision="bfloat16")],
    })  # fmt: skip
    assert "(a) one, backbone in bfloat16; (b) one, backbone in float32; (c) two, " in told
    assert [(row[0], row[1], row[-1]) for row in table] == [
        ("lda", "2", "b c"), ("ease", "1", "a"), ("l2p", "2", "b")
    ]  # fmt: skip
    assert [row[-4] for row in table] == ["", "", "3.0"], "no seconds of a machine that was shared"


def test_a_row_of_before_a_mend_is_marked(report: ModuleType) -> None:
    _, table = rows(report, {
        "hide-prompt": [cell(0.5), cell(0.5, commit="abc")], "lda": [cell(0.9)],
        "hide-prompt-long": [cell(0.5, commit="abc")],
    })  # fmt: skip
    assert [row[0] for row in table] == ["lda", "hide-prompt †", "hide-prompt-long"]


def test_a_long_row_follows_its_short_one(report: ModuleType) -> None:
    _, table = rows(report, {
        "l2p": [cell(0.5)], "l2p-long": [cell(0.95)], "lda": [cell(0.9)], "apg-long": [cell(0.6)],
    })  # fmt: skip
    assert [row[0] for row in table] == ["lda", "apg-long", "l2p", "l2p-long"]


def test_the_frontier_is_what_nothing_beats(report: ModuleType) -> None:
    points = {f"m{n}": (float(n * 7 % 11), float(n * 5 % 13)) for n in range(40)}
    found = report.frontier(points)
    costs = [points[name] for name in found]
    assert costs == sorted(set(costs))
    for name, (cost, right) in points.items():
        beaten = any(
            other != name and points[other][0] <= cost and points[other][1] >= right
            for other in found
        )
        assert beaten != (name in found)


def test_a_picture_names_twelve_at_most_and_the_frontier(report: ModuleType) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    points = {f"m{n}": (1.0 + n * 7 % 11, float(n * 5 % 13)) for n in range(40)}
    axis = Figure(figsize=(6.5, 5.2)).add_subplot()
    axis.plot(*zip(*points.values(), strict=True), "o")
    report.write_names(axis, points)
    named = [text.get_text() for text in axis.texts]
    assert len(named) <= 12
    assert set(report.frontier(points)) <= set(named)
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])


def test_a_longer_training_ships_as_many_bytes() -> None:
    """Rows of before the unknown score hold no bytes of it, and later ones do not count them."""
    cells = json.loads((BENCHMARKS / "results" / "methods.json").read_text())["cells"]
    pairs = [
        (cells[short]["pack_bytes"], each["pack_bytes"])
        for key, each in cells.items()
        if (short := key.replace("-long/", "/")) != key and short in cells
    ]
    assert pairs
    for short, long in pairs:
        assert long == pytest.approx(short, rel=0.02)


def test_a_newer_method_is_on_a_frontier(report: ModuleType) -> None:
    cells = json.loads((BENCHMARKS / "results" / "methods.json").read_text())["cells"]
    found = set()
    for stream in ("digits", "emoji-demo", "openemoji10"):
        runs: dict[str, list[dict[str, Any]]] = {}
        for key, each in cells.items():
            if key.startswith(f"{stream}/"):
                runs.setdefault(key.split("/")[1], []).append(each)
        found |= set(report.frontier({
            name: (report.mean(report.later_bytes(c) for c in some), report.one(some, "a_last"))
            for name, some in runs.items()
        }))  # fmt: skip
    assert found & NEWER
