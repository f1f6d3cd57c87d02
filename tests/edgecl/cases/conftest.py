"""What the cases share: a bundle with one program, exported once."""

from pathlib import Path

import pytest

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl_export.bundle import export_program


@pytest.fixture(scope="session")
def simplecil_bundle(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of simplecil on the tiny backbone."""
    bundle = tmp_path_factory.mktemp("cases") / "bundle"
    program = build_method("simplecil", BackboneSpec.of(tiny_backbone), {}).program
    export_program(program, tiny_backbone, bundle)
    return bundle
