"""What `edgecl export` does, in Python: one call each, of a learner or of its run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgecl_export
from edgecl.learning.learner import Learner
from edgecl.session import learn_stream
from edgecl_deploy import Classifier, read_bundle
from edgecl_export.errors import MissingPackageError
from edgecl_export.extras import explain_missing

MakeLearner = Callable[..., Learner]


def test_a_learner_goes_to_a_device_in_four_calls(
    make_learner: MakeLearner, make_stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    digest = edgecl_export.export_bundle(learner, "bundle")
    assert digest == read_bundle("bundle").digest
    ids = edgecl_export.export_packs(learner, "packs")
    assert edgecl_export.export_packs(str(learner.run.path), tmp_path / "packs") == ids
    edgecl_export.export_release("packs", "release", "bundle")
    result = edgecl_export.verify(learner, "bundle", "release")
    assert not result.failures()
    assert Classifier.open("bundle", "release").classes == stream.classes
    assert edgecl_export.inspect("release")["classes"] == len(stream.classes)


def test_the_capacity_is_of_this_export_alone(make_learner: MakeLearner, tmp_path: Path) -> None:
    learner = make_learner("c-ada")
    before = {name: slot.capacity for name, slot in learner.method.program.slots().items()}
    edgecl_export.export_bundle(learner, tmp_path / "bundle", capacity=3)
    slots = read_bundle(tmp_path / "bundle").bundle.program("c-ada").slots
    after = {name: slot.capacity for name, slot in learner.method.program.slots().items()}
    assert after == before
    assert any(slot.capacity < before[name] for name, slot in slots.items())


def test_a_missing_package_names_its_extra() -> None:
    message = r"needs the package onnx, .*pip install 'edgecl-export\[torch\]'"
    with pytest.raises(MissingPackageError, match=message), explain_missing():
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx.helper")
    assert issubclass(MissingPackageError, ImportError)


def test_another_missing_package_is_no_matter_of_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="'tomato'"), explain_missing():
        raise ModuleNotFoundError("No module named 'tomato'", name="tomato")
