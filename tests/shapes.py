"""Shape annotations of edgecl are enforced in the tests, in what has any, once this is imported.

jaxtyping's own option wraps every function, those inside of others at every call of these: that was
two thirds of the time of a test that trains. What has no shape is for mypy.
"""
# ruff: noqa: N802 - names of ast.NodeVisitor

import ast

import beartype
from jaxtyping import _import_hook as hook

PACKAGES = ["edgecl", "edgecl_export"]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

checked = beartype.beartype  # under a name of our own: compiled files are told apart by it


class ShapesOnly(hook.JaxtypingTransformer):
    """Wraps what has a shape in its own annotations, and nothing inside of a function."""

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
hook.install_import_hook(PACKAGES, "tests.shapes.checked")
