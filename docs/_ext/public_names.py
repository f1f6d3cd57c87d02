"""Sphinx extension: the public names of the distributions are documented, and links find them.

A public name is an entry of a package's `__all__`. The build warns, and with -W fails, if one is
missing from the reference, which is what becomes of a name without a docstring. A type in a
signature is looked up under its public name, whatever module it is defined in.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

PACKAGES = ["edgecl", "edgecl_export", "edgecl_export.channel", "edgecl_deploy"]
IGNORED = frozenset({"__version__"})
logger = logging.getLogger(__name__)


def public_names(packages: Sequence[str] = PACKAGES) -> Iterator[tuple[str, object]]:
    """Yield the full name and the object of every public name, package by package."""
    for package in packages:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            if name not in IGNORED:
                yield f"{package}.{name}", getattr(module, name)


def load(app: Sphinx) -> None:
    """Enter the names that a package imports lazily, so that autodoc finds them."""
    for name, value in public_names(app.config.public_packages):
        package, own = name.rsplit(".", 1)
        vars(importlib.import_module(package)).setdefault(own, value)


def has_docstring(value: object) -> bool:
    """Return whether a class or function has a docstring of its own; other values have comments."""
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return True
    text = value.__doc__ or ""
    made = inspect.isclass(value) and text.startswith(f"{value.__name__}(")  # by `dataclass`
    return bool(text.strip()) and not made


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name that the reference lacks."""
    documented = env.domains.python_domain.objects
    for name, value in public_names(app.config.public_packages):
        if name not in documented or not has_docstring(value):
            logger.warning(
                "%s is public, so it must have a docstring and be in docs/reference; found it "
                "without. Write the docstring, or take the name out of __all__.",
                name,
                type="public_names",
            )


def homes(packages: Sequence[str]) -> dict[str, str]:
    """Return the public name of each object by the module path of its definition."""
    found: dict[str, str] = {}
    for name, value in public_names(packages):
        module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if module and own:
            found.setdefault(f"{module}.{own}", name)
    return found


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Link a reference to a class or function by its definition, or by its bare name."""
    if node.get("refdomain") != "py":
        return None
    known = homes(app.config.public_packages)
    target = node["reftarget"]
    name = known.get(target)
    if name is None and "." not in target:
        same = {public for public in known.values() if public.rsplit(".", 1)[1] == target}
        name = same.pop() if len(same) == 1 else None
    if name is None:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], name, node, text)


def fences(
    app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Turn the Markdown code blocks of a docstring into those of reStructuredText."""
    made: list[str] = []
    inside = False
    for line in lines:
        if found := re.fullmatch(r"(\s*)```(\w*)", line):
            inside = not inside
            if inside:
                made += ["", f"{found[1]}.. code-block:: {found[2] or 'text'}", ""]
            else:
                made.append("")
        else:
            made.append(f"    {line}" if inside and line else line)
    lines[:] = made


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the extension."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value("public_packages", PACKAGES, "env", list)
    app.connect("builder-inited", load)
    app.connect("autodoc-process-docstring", fences)
    app.connect("env-check-consistency", check)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
