"""A machine that signs releases has neither torch nor onnx, and not the learner."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import edgecl_export.channel

ABSENT = ("edgecl", "torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "jaxtyping")
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))  # importing one of them is an ImportError
from edgecl_deploy.commands import main
main()
"""


def edgecl(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `edgecl ARGUMENTS` where those packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=folder, env={**os.environ, "EDGECL_KEY_PASSPHRASE": ""}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def test_nothing_imports_the_learner() -> None:
    """Not at the top of a module, nor inside a function."""
    folder = Path(str(edgecl_export.channel.__file__)).parent
    modules = [*folder.glob("*.py"), folder.parent / "errors.py", folder.parent / "__init__.py"]
    assert len(modules) > 15
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not {name.partition(".")[0] for name in names} & set(ABSENT), path.name


def test_a_release_is_signed_without_them(
    shop: Any, releases: dict[int, Path], tmp_path: Path
) -> None:
    put = ("publish", releases[1], "--bundle", shop.bundle, "--channel", "stable")
    for command in (
        ("init", "site", "--dev"),
        put,
        ("refresh",),
        ("bundle", "usb", "--channel", "stable"),
    ):
        done = edgecl("channel", *command, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
    status = edgecl("channel", "status", "--json", folder=tmp_path)
    assert json.loads(status.stdout)["channels"][0]["release"] == 1
    shown = edgecl("export", "inspect", releases[1], "--json", folder=tmp_path)
    assert json.loads(shown.stdout)["number"] == 1


def test_export_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    for command in (
        ("bundle", "run", "-o", "bundle"),
        ("pack", "run", "-o", "packs"),
        ("text", "edgecl-clip-s", "-o", "text"),
        ("verify", "run", "bundle", "release"),
    ):
        done = edgecl("export", *command, folder=tmp_path)
        assert done.returncode == 1
        assert "`pip install 'edgecl-export[torch]'`" in done.stderr
        assert done.stderr.count("\n") == 1
