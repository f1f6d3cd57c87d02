"""The command `edgecl`: every installed distribution adds its own commands.

A distribution names a command in its entry points `edgecl.commands`. It is imported when it is
used, so a machine that signs releases or runs a device needs no torch (ADR 0020).
"""

import traceback
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgecl_deploy.console import reader_left, run_script

if TYPE_CHECKING:
    from click import Group
else:
    try:
        from rich_click import RichGroup as Group
    except ImportError:  # a device: click alone draws the help
        from click import Group

OURS = ("edgecl", "edgecl_export", "edgecl_deploy")  # whose errors say what to do


class Failure(click.ClickException):
    """An error of a command: one line, exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"edgecl: {self.message}", file=file, err=True)


@cache
def plugins() -> dict[str, EntryPoint]:
    """Return where each command is; every look reads the metadata of all that is installed."""
    return {point.name: point for point in entry_points(group="edgecl.commands")}


class Umbrella(Group):
    """The group of all commands that the installed distributions name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(plugins())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = plugins().get(cmd_name)
        return None if point is None else point.load()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if reader_left(error):
                raise
            if ctx.params["verbose"]:
                click.echo(traceback.format_exc().rstrip(), err=True)
            raise Failure(sentence(error)) from error


def sentence(error: Exception) -> str:
    """Return an error in one line; one that is not ours gets its name, and where to see more."""
    if any(kind.__module__.partition(".")[0] in OURS for kind in type(error).__mro__):
        return str(error)
    return f"{type(error).__name__}: {error} (`edgecl --verbose` shows where)"


@click.group(cls=Umbrella, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgecl-deploy")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def edgecl(verbose: bool) -> None:
    """Learn on a frozen vision backbone, task after task, and ship small packs to devices."""


def main() -> NoReturn:
    """Run the script `edgecl`; `console.run_script` defines its exit statuses."""
    run_script(edgecl, "edgecl")
