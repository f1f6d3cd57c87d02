"""onnxruntime is imported only after edgecl_deploy, which turns its telemetry off."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("deploy", "edgecl", "export", "scripts", "examples", "benchmarks", "docs")


def imports_first(source: str) -> bool:
    """Return whether a module imports onnxruntime when it is itself imported."""
    names = [
        alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (
            node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")]
        )
    ]
    return any(name.partition(".")[0] == "onnxruntime" for name in names)


def test_no_module_imports_it_before_anything_of_ours_ran():
    found = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if imports_first(path.read_text(encoding="utf-8"))
    ]
    assert not found, "import it in the function that needs it"


def test_what_this_test_sees():
    assert imports_first("import onnxruntime as ort")
    assert imports_first("from onnxruntime import InferenceSession")
    assert not imports_first("def f():\n    import onnxruntime")


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "deploy/systemd").glob("*.service")), *(ROOT / "deploy/docker").iterdir()],
    ids=lambda path: path.name,
)
def test_units_and_images_turn_it_off(path):
    found = re.findall(r"ORT_DISABLE_TELEMETRY=1", path.read_text(encoding="utf-8"))
    assert len(found) == 1
