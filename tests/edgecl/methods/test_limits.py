"""What keeps a recipe small and a program alone: limits that a new method or part must keep."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.edgecl.methods.comparing import every_method
from torch import nn

import edgecl
import edgecl_export
from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method, methods
from edgecl.methods.base import Method
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.text_method import TextMethod
from edgecl.program import Program

HOOKS = 14  # members that a recipe may override
LINES = 200  # of a file in methods/
EDGECL, EXPORT = (Path(package.__file__).parent for package in (edgecl, edgecl_export))
RECIPES = sorted((EDGECL / "methods").rglob("*.py"))
PARTS = sorted((EDGECL / "program").rglob("*.py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def at(path: Path) -> str:
    return str(path.relative_to(EDGECL.parent.parent))


def open_members(kind: type) -> set[str]:
    """Return the public functions of a class's own body that are not final."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    return {
        node.name
        for node in body.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not any(isinstance(one, ast.Name) and one.id == "final" for one in node.decorator_list)
    }


def test_a_recipe_has_few_members_to_override() -> None:
    hooks = open_members(Method) | {"trains"}
    assert "build" in hooks
    assert "compose" not in hooks, "what a recipe uses is final"
    of_text = open_members(TextMethod)
    assert len(hooks | of_text) <= HOOKS, sorted(hooks | of_text)


@every_method
def test_a_recipe_overrides_no_final_member(name: str) -> None:
    hooks = open_members(Method)
    final = {name for name in vars(Method) if not name.startswith("_")} - hooks
    functions = {name for name in final if callable(getattr(Method, name))}
    assert functions
    for kind in methods()[name].__mro__:
        if kind is not Method:
            assert not functions & vars(kind).keys(), kind


@pytest.mark.parametrize("path", RECIPES, ids=at)
def test_a_file_of_recipes_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", [*RECIPES, *PARTS], ids=at)
def test_types_say_what_is_there(path: Path) -> None:
    """No look by name, no behaviour by gradient mode, no assertion that a type could make."""
    for node in ast.walk(tree_of(path)):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
        assert name not in {"getattr", "hasattr", "is_grad_enabled"}, f"line {node.lineno}"
        if isinstance(node, ast.Assert):
            compared = [one for one in ast.walk(node.test) if isinstance(one, ast.Compare)]
            for one in compared:
                pairs = pairwise([one.left, *one.comparators])
                nothing = [pair for pair in pairs if any(is_none(side) for side in pair)]
                assert not nothing, f"line {node.lineno}"


def is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@every_method
def test_a_configuration_is_frozen_data_of_one_kind(name: str) -> None:
    config_type = methods()[name].config_type
    assert issubclass(config_type, MethodConfig)
    for kind in config_type.__mro__[: config_type.__mro__.index(MethodConfig) + 1]:
        assert "__dataclass_params__" in vars(kind), f"{kind.__name__} is no dataclass of its own"
        assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]


def parts_of(value: object, where: str) -> Iterator[tuple[str, object]]:
    """Walk through everything that a program holds."""
    yield where, value
    held: Mapping[object, object] = {}
    if isinstance(value, Mapping):
        held = value
    elif isinstance(value, tuple | list | set | frozenset):
        held = dict(enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, type | Enum):
        held = vars(value)
    for name, part in held.items():
        yield from parts_of(part, f"{where}.{name}")


@every_method
def test_a_program_is_frozen_and_holds_no_tensor(name: str, tiny_clip: Clip) -> None:
    method = build_method(name, BackboneSpec.of(tiny_clip))
    program = method.program
    for field in dataclasses.fields(Program):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(program, field.name, None)
    walked = dict(parts_of(program, "program"))
    assert "program.classifier" in walked
    for where, part in walked.items():
        assert not isinstance(part, torch.Tensor | nn.Module | np.ndarray), where
        assert not isinstance(part, Method), f"{where}: a program knows no recipe"
        if dataclasses.is_dataclass(part):
            assert part.__dataclass_params__.frozen, where  # type: ignore[attr-defined]
    for where in ("injector", "matcher", "classifier", "late_matcher"):
        hash(getattr(program, where))
    again = build_method(name, BackboneSpec.of(tiny_clip)).program
    assert again == program, "a program is what it is made of"


@pytest.mark.parametrize("path", sorted(EXPORT.rglob("*.py")), ids=lambda path: path.stem)
def test_export_and_verification_know_no_method(path: Path) -> None:
    """They are given a program, or make a run's by `edgecl.session.program_of`."""
    for node in ast.walk(tree_of(path)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
        assert not [one for one in modules if one.startswith("edgecl.methods")], node.lineno
