"""The public names of the packages: a type checker and Python agree, and an import is light."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

PACKAGES = ("edgecl", "edgecl_export", "edgecl_export.channel", "edgecl_deploy")


def declared(package: str) -> Iterator[tuple[str, str, str]]:
    """Yield public name, module and the name there, as the block for type checkers says."""
    module = importlib.import_module(package)
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom):
                    for each in line.names:
                        yield each.asname or each.name, str(line.module), each.name


@pytest.mark.parametrize("package", PACKAGES)
def test_python_finds_what_a_type_checker_reads(package: str) -> None:
    module = importlib.import_module(package)
    found = {}
    for name, home, original in declared(package):
        found[name] = getattr(importlib.import_module(home), original)
        assert getattr(module, name) is found[name], name
    assert {*found, "__version__"} == {*module.__all__, "__version__"}
    assert list(module.__all__) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_hidden_by_a_module(package: str) -> None:
    """An import of the module would replace the name: edgecl_export.verify was such a module."""
    module = importlib.import_module(package)
    for name in module.__all__:
        assert importlib.util.find_spec(f"{package}.{name}") is None, name


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_alone_is_light(package: str) -> None:
    code = f"import sys; old = set(sys.modules); import {package}; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert len(loaded) < 80
    assert not {"numpy", "torch", "click", "tuf"} & set(loaded)
