"""Sphinx extension: the command groups of the reference, found as the installed commands find them.

A help text is plain text, so its asterisks are no markup.
"""

from importlib.metadata import entry_points

import click
from sphinx.application import Sphinx


def group(name: str) -> click.Group:
    """Return the group `edgecl NAME`.

    Raises:
        LookupError: if no installed distribution has it.
    """
    for point in entry_points(group="edgecl.commands"):
        if point.name == name:
            found: click.Group = point.load()
            return found
    raise LookupError(f"`edgecl {name}` must be installed, found no such group. Run `make dev`.")


def main_group() -> click.Group:
    """Return the command `edgecl`."""
    from edgecl.cli import cli

    return cli


edgecl = main_group()
export, channel, device = group("export"), group("channel"), group("device")


def plain(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Escape what reStructuredText would take for emphasis."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the extension."""
    app.setup_extension("sphinx_click")
    app.connect("sphinx-click-process-description", plain)
    app.connect("sphinx-click-process-options", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
