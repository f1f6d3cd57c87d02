"""What the commands of a workstation share, whichever distribution they come from."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

from edgecl_deploy.progress import Reporter, RichReporter

Command: TypeAlias = Callable[..., Any]
path_type = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What PyTorch computes on.",
)


def options(*group: Command) -> Command:
    """Return a decorator that adds options to a command, in the order of the help."""

    def add(command: Command) -> Command:
        for option in reversed(group):
            command = option(command)
        return command

    return add


def reporter_for(as_json: bool, quiet: bool) -> Reporter:
    """Return what shows bars to a person at a terminal, and nothing to anyone else."""
    return Reporter() if as_json or quiet or not sys.stderr.isatty() else RichReporter()


def print_json(value: object) -> None:
    """Print one JSON object on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))
