"""Recipes run and are compared: on a data set in CIFAR-100's published layout, with our pixels."""

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from edgecl.backbones import load_backbone, prepare_torchvision

prepare_torchvision()
from torchvision.datasets import cifar  # noqa: E402 torchvision is prepared first

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = [f"class_{index:02d}" for index in range(100)]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the benchmark's module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("published", BENCHMARKS / "published.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "published", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with CIFAR-100's files: two training images and a test image of a class."""
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (100, 3))
    for part, count in (("train", 2), ("test", 1)):
        labels = [index % 100 for index in range(100 * count)]
        pixels = np.repeat(colours[labels].astype(np.uint8), 1024, axis=1)  # red, green, blue
        pixels[:, :200] = rng.integers(0, 256, (len(labels), 200))
        with (folder / part).open("wb") as file:
            pickle.dump({"data": pixels, "fine_labels": labels}, file)
    with (folder / "meta").open("wb") as file:
        pickle.dump({"fine_label_names": NAMES}, file)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def test_a_recipe_is_run_and_compared(
    published: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = load_backbone("vit-tiny-16", image_size=32, random_seed=0)
    save_file(tiny.model.state_dict(), tmp_path / "tiny.safetensors")
    words = [
        str(tmp_path / "runs"), "cifar100-b0-inc10", "--methods", "simplecil",
        "--options", "--root", str(root), "--backbone", "vit-tiny-16",
        "--weights", str(tmp_path / "tiny.safetensors"), "--image-size", "32", "--quiet",
    ]  # fmt: skip
    published.main(words)
    run = tmp_path / "runs" / "cifar100-b0-inc10-simplecil"
    header = json.loads((run / "run.json").read_text())
    assert header["stream"]["increment"] == 10
    assert header["backbone"]["pixels"] == "pilot"
    assert header["recipe"]["name"] == "cifar100-b0-inc10"
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["tasks"]) == 10
    (row,) = json.loads((tmp_path / "runs" / "published.json").read_text())["rows"]
    assert (row["published"], row["figure"]) == (83.4, "task_mean")
    assert row["ours"] == pytest.approx(100 * metrics["a_last_task_mean"])
    assert "--backbone vit-tiny-16 (the recipe has timm:" in " ".join(row["differs"])
    assert "| simplecil | task mean | 83.4 |" in capsys.readouterr().out
    before = (run / "run.json").stat().st_mtime_ns
    published.main(words)  # it is there
    assert (run / "run.json").stat().st_mtime_ns == before


def test_what_counts_as_near(published: Any) -> None:
    def near(method: str, ours: float, settings: str = "") -> bool:
        return published.Row("r", method, settings, "last", 80.0, ours, ()).near

    assert near("simplecil", 80.5)
    assert not near("simplecil", 80.6)
    assert near("ranpac", 81.5)
    assert not near("ranpac", 81.0, "first_session=none")
