"""`make gpu` on a fake: what it stores, what it measures, and what it calls unequal."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.deploy.engines.fakes import nvidia_packages

from edgecl_deploy import engines

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """Return the benchmark as a module."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(gpu: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `prepare` makes, of the smallest backbone and one program."""
    folder = tmp_path_factory.mktemp("gpu") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "PROGRAMS", ("l2p",))
        gpu.prepare(folder, "vit-tiny-16", 32, depth=1)
    return folder


@pytest.fixture
def quick(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """Return the benchmark with few rounds, where NVIDIA's packages are fakes."""
    monkeypatch.setattr(gpu, "ROUNDS", 2)
    with nvidia_packages(tmp_path / "nvidia"):
        yield gpu


def test_it_is_prepared_once(gpu: ModuleType, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    gpu.prepare(prepared, "vit-tiny-16", 32, depth=1)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


@pytest.mark.parametrize("engine", ["cuda", "tensorrt-ep", "tensorrt"])
def test_every_engine_is_compared_and_measured(
    quick: ModuleType, prepared: Path, engine: str
) -> None:
    row = json.loads(json.dumps(quick.measure(engine, "l2p", prepared)))
    assert row["equal"] is True
    assert row["error"] < 1e-5
    assert row["labels_differ"] == 0
    assert set(row["ms_per_image"]) == {"1", "8", "32"}
    assert min(row["swap_ms"], row["camera_ms"], row["first_start_s"]) > 0
    assert (row["kept_bytes"] > 0) == (engine != "cuda")
    line = quick.line_of({"engine": engine, "program": "l2p", **row})
    assert "equal" in line
    assert "NOT" not in line


def test_a_difference_is_not_equal(quick: ModuleType, prepared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "made")
    with np.load(folder / "expected.npz") as stored:
        expected = dict(stored)
    expected["l2p-2"][3] += 0.01 * np.abs(expected["l2p-2"]).max()
    np.savez(folder / "expected.npz", **expected)
    row = quick.measure("tensorrt", "l2p", folder)
    assert row["equal"] is False
    assert row["error"] == pytest.approx(0.01, rel=0.1)


def test_a_machine_without_an_engine_is_told(
    gpu: ModuleType, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(engines.installed(name) for name in gpu.ENGINES[1:]):
        pytest.skip("an engine of NVIDIA is installed here")
    assert gpu.one("tensorrt", "l2p", prepared, 5) == {"failed": "not installed"}
    monkeypatch.setattr(sys, "argv", ["gpu.py", "run", "--folder", str(prepared)])
    with pytest.raises(SystemExit, match="no engine of NVIDIA is installed here"):
        gpu.main()


def test_a_row_in_another_process(gpu: ModuleType, prepared: Path) -> None:
    row = gpu.one("onnxruntime", "l2p", prepared, 200)
    assert row["equal"] is True
    assert gpu.one("onnxruntime", "l2p", prepared, 0.01) == gpu.LATE
    assert "exit code 1" in gpu.one("onnxruntime", "no-program", prepared, 200)["failed"]
