"""Sphinx extension: the command groups of the reference, found as the command finds them.

A help text is plain text, so its asterisks are no markup.
"""

import click
from sphinx.application import Sphinx

from edgecl_deploy.commands import edgecl


def command(name: str) -> click.Command:
    """Return `edgecl NAME`.

    Raises:
        LookupError: if no installed distribution has it.
    """
    found = edgecl.get_command(click.Context(edgecl), name)
    if found is None:
        raise LookupError(f"`edgecl {name}` must be installed, found no such one. Run `make dev`.")
    return found


export, channel, device = command("export"), command("channel"), command("device")


def plain(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Escape what reStructuredText would take for emphasis."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the extension."""
    app.setup_extension("sphinx_click")
    app.connect("sphinx-click-process-description", plain)
    app.connect("sphinx-click-process-options", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
