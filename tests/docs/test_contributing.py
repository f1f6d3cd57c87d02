"""The method that CONTRIBUTING shows is complete: it learns, exports and answers."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"
LINES = 50  # of the whole file of a method, at most


def shown() -> str:
    """Return the file that the guide shows."""
    block = re.search(r"<!-- method -->\n```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the method, registered for one test."""
    path = tmp_path / "prefix_probe.py"
    path.write_text(shown(), encoding="utf-8")
    registry = importlib.import_module("edgecl.methods")
    registry.methods()  # what is imported later would be registered for this test alone
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    spec = importlib.util.spec_from_file_location("prefix_probe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prefix_probe", module)
    spec.loader.exec_module(module)
    name: str = module.PrefixProbe.name
    return name


def test_the_file_is_short() -> None:
    assert len(shown().splitlines()) <= LINES


def test_the_method_reaches_the_device(
    example: str, tiny_backbone: Backbone, make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    """The export ends with its own check of every form against PyTorch."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = new_learner(
        tmp_path / "run", example, tiny_backbone, stream,
        config={"schedule": {"epochs": 1}}, compute=Compute(torch.device("cpu")),
        cache=FeatureCache(None, tiny_backbone.digest),
    )  # fmt: skip
    learn_stream(learner, stream)
    export_program(learner.method.program, tiny_backbone, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    images = learner.load(stream.tasks[0].test, "").images
    device = Classifier.open(tmp_path / "bundle", tmp_path / "release").scores(images).scores
    assert device == pytest.approx(learner.predict(images).scores.numpy(), abs=1e-4)
