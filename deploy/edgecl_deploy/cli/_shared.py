"""What every command shares: its errors, its options, its output."""

import json
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from edgecl_deploy.console import reader_left
from edgecl_deploy.errors import BusyError, DeployError, OptionError, one_line
from edgecl_deploy.update.outcome import Outcome

if TYPE_CHECKING:
    from edgecl_deploy.store.store import Store

F = TypeVar("F", bound=Callable[..., Any])
ATTENTION = 3  # exit status: the command worked, and found something that needs attention
_VERBOSE = "edgecl_deploy.verbose"


class _Busy(click.ClickException):
    exit_code = Outcome.BUSY.value


class Group(click.Group):
    """A group that turns our errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (DeployError, OSError) as error:
            if reader_left(error):
                raise
            if ctx.meta.get(_VERBOSE):
                click.echo(traceback.format_exc().rstrip(), err=True)
            if isinstance(error, OptionError):
                raise click.UsageError(str(error)) from error
            kind = _Busy if isinstance(error, BusyError) else click.ClickException
            line = str(error) if isinstance(error, DeployError) else one_line(error)
            raise kind(line) from error


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = value


def reporting(command: F, as_json: str = "Print one JSON document.") -> F:
    """Add the options of every command that reports.

    Args:
        command: The command.
        as_json: The help of `--json`.
    """
    for option in (
        click.option("--json", "as_json", is_flag=True, help=as_json),
        click.option(
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbose,
            help="Show the traceback of an error.",
        ),
    ):
        command = option(command)
    return command


def of_store(command: F) -> F:
    """Add the argument and the options of every command about a store."""
    return reporting(click.argument("store", callback=_opened)(command))


def _opened(_: click.Context, __: click.Parameter, path: str) -> "Store":
    from edgecl_deploy.store.owner import act_as_owner
    from edgecl_deploy.store.store import Store

    act_as_owner(path)
    return Store.open(path)


def report(values: dict[str, Any], as_json: bool) -> None:
    """Print values by name.

    Args:
        values: What to print.
        as_json: As one JSON document, or as a line each.
    """
    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_short(each)}" for name, each in value.items())
        click.echo(f"{key:14} {_short(value)}")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def misused(message: str) -> NoReturn:
    """End with the status of a wrong command line.

    Args:
        message: What is wrong, and what to do.

    Raises:
        UsageError: Always.
    """
    raise click.UsageError(message)


def failure(message: str) -> NoReturn:
    """End with the status of a failure.

    Args:
        message: What failed.

    Raises:
        ClickException: Always.
    """
    raise click.ClickException(message)
