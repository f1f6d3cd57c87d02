"""What is added to an image, in every form: an export ends with PyTorch against all its graphs."""

from pathlib import Path

import pytest

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl_deploy.files import read_bundle
from edgecl_export.bundle import export_program


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "frame", "tile"])
@pytest.mark.parametrize("tasks", ["all", "own"])
def test_every_form_is_exported(tiny_clip: Clip, tmp_path: Path, form: str, tasks: str) -> None:
    config = {"form": form, "tasks": tasks}
    program = build_method("input-tuning", BackboneSpec.of(tiny_clip), config).program
    export_program(program, tiny_clip.visual, tmp_path / "bundle")
    entry = read_bundle(tmp_path / "bundle").bundle.programs["input-tuning"]
    assert entry.slots.keys() == program.slots().keys()
    assert {slot.source for slot in entry.slots.values()} == {
        "match" if tasks == "own" else "learned"
    }
