"""Shape annotations of edgecl are enforced in the tests, in what has any, once this is imported.

jaxtyping's own option wraps every function, those inside of others at every call of these: that was
two thirds of the time of a test that trains. What has no shape is for mypy. What a check finds
depends on types, shapes and dtypes, so a function is checked once for each of these that it meets,
and never while a graph is traced: the checks of sizes would become a part of it.
"""
# ruff: noqa: N802 - names of ast.NodeVisitor

import ast
import functools
import threading
import types
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from typing import Any

import beartype
import numpy as np
import torch
from jaxtyping import _import_hook as hook
from jaxtyping import jaxtyped

PACKAGES = ["edgecl", "edgecl_export"]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ARRAYS = (torch.Tensor, torch.nn.Parameter, np.ndarray)
every_call = functools.partial(jaxtyped, typechecker=beartype.beartype)


class TracedError(Exception):
    """An array of another type: its sizes may be symbols."""


def kind(value: Any) -> Hashable:
    """Return what a check of a value depends on."""
    own = type(value)
    if own in ARRAYS:
        return own, value.dtype, tuple(value.shape)
    if own is tuple or own is list:
        return own, tuple(map(kind, value))
    if own is dict:
        return own, tuple(value), tuple(map(kind, value.values()))
    if own is str:
        return value  # for literals
    if isinstance(value, ARRAYS):
        raise TracedError
    return own


def checked_once(function: Any) -> Any:
    """Check a function, or the fields of a dataclass, once for all that is of one kind."""
    if isinstance(function, type):
        if is_dataclass(function):
            function.__init__ = checked_once(function.__init__)  # type: ignore[misc]
        return function
    whole, of_result = every_call(function), result_check(function)
    passed: dict[Hashable, set[Hashable]] = {}

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            given = kind((args, kwargs))
        except TracedError:  # a check would compare symbols: the exporter would note each
            return function(*args, **kwargs)
        known = passed.get(given)
        made = whole(*args, **kwargs) if known is None else function(*args, **kwargs)
        try:
            got = kind(made)
        except TracedError:
            got = None
        if known is None:
            passed[given] = {got} - {None}
        elif got not in known:
            of_result(made)(*args, **kwargs)
            passed[given] |= {got} - {None}
        return made

    return run


def result_check(function: types.FunctionType) -> Callable[[Any], Callable[..., Any]]:
    """Return what takes a result and returns a checked function of the same annotations: it."""
    own = threading.local()

    def given(*_: Any, **__: Any) -> Any:
        return own.result

    @functools.cache
    def checked() -> Callable[..., Any]:
        code, closure = given.__code__, given.__closure__
        alike = types.FunctionType(code, function.__globals__, closure=closure)
        return every_call(functools.wraps(function)(alike))

    def of(result: Any) -> Callable[..., Any]:
        own.result = result
        return checked()

    return of


class Decorator:
    """Stands for jaxtyping's own, which is around another that checks."""

    def __init__(self, typechecker: hook.Typechecker) -> None:
        self._typechecker = typechecker

    def get_ast(self) -> ast.expr:
        return self._typechecker.get_ast().keywords[0].value


class ShapesOnly(hook.JaxtypingTransformer):
    """Wraps what has a shape in its own annotations, and nothing inside of a function."""

    def __init__(self, *, typechecker: hook.Typechecker) -> None:
        super().__init__(typechecker=Decorator(typechecker))

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self._shapes = shape_names(node)
        return super().visit_Module(node) if self._shapes else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        fields = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
        if self._has_shape(fields):
            return super().visit_ClassDef(node)
        self._parents.append(node)
        self.generic_visit(node)
        self._parents.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        each = node.args
        given = [*each.posonlyargs, *each.args, *each.kwonlyargs, each.vararg, each.kwarg]
        annotations = [*(one.annotation for one in given if one is not None), node.returns]
        inside = isinstance(self._parents[-1], FUNCTIONS)
        return (
            node if inside or not self._has_shape(annotations) else super().visit_FunctionDef(node)
        )

    def _has_shape(self, annotations: list[ast.expr | None]) -> bool:
        return any(each is not None and self._shapes & names_in(each) for each in annotations)


def names_in(tree: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}


def shape_names(module: ast.Module) -> set[str]:
    """Return the names that a module imports from jaxtyping, and its own names for shapes."""
    names: set[str] = set()
    for each in module.body:
        if isinstance(each, ast.ImportFrom) and each.module == "jaxtyping":
            names |= {alias.asname or alias.name for alias in each.names}
        elif isinstance(each, ast.AnnAssign) and each.value and names & names_in(each.value):
            names |= names_in(each.target)
    return names


hook.JaxtypingTransformer = ShapesOnly
hook.install_import_hook(PACKAGES, "tests.shapes.checked_once")
