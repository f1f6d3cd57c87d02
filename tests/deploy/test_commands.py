"""The command `edgecl`: its commands come from entry points, and its ends are exit statuses."""

import sys
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from edgecl_deploy import commands
from edgecl_deploy.errors import StoreError


class OurError(StoreError):
    """As an application would derive it, in a module of its own."""


@click.command()
@click.argument("how")
@click.pass_context
def end(ctx: click.Context, how: str) -> None:
    """End in many ways."""
    errors = {
        "ours": StoreError("a store must be whole", "none", "Make one."),
        "derived": OurError("a store must be whole", "none", "Make one."),
        "foreign": ZeroDivisionError("by zero"),
        "usage": click.UsageError("Name one."),
        "stop": KeyboardInterrupt(),
    }
    if how in errors:
        raise errors[how]
    ctx.exit(int(how))


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs `edgecl end HOW`: exit status and standard error."""
    places = {"end": f"{__name__}:end", "broken": "no_such_package:command"}
    points = {name: EntryPoint(name, at, "edgecl.commands") for name, at in places.items()}
    monkeypatch.setattr(commands, "plugins", lambda: points)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgecl", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        return ended.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("status", [0, 3, 16])
def test_the_status_of_a_command_is_that_of_the_program(run, status):
    """`edgecl device status` ends with 3, as `edgecl-device status` does."""
    assert run("end", str(status)) == (status, "")


@pytest.mark.parametrize("how", ["ours", "derived"])
def test_an_error_of_ours_is_its_own_line(run, how):
    assert run("end", how) == (1, "edgecl: a store must be whole; found none. Make one.\n")


def test_another_error_has_its_name(run):
    assert run("end", "foreign") == (
        1,
        "edgecl: ZeroDivisionError: by zero (`edgecl --verbose` shows where)\n",
    )


def test_verbose_shows_where(run):
    status, error = run("--verbose", "end", "ours")
    assert status == 1
    assert error.startswith("Traceback")
    assert error.endswith("Make one.\n")


def test_wrong_usage_and_an_interruption(run):
    assert run("end", "usage")[0] == 2
    assert run("nosuch")[0] == 2
    status, error = run("end", "stop")
    assert (status, error.strip()) == (130, "edgecl: stopped")


def test_a_command_is_imported_when_it_is_used(run):
    assert run("end", "0")[0] == 0  # though another one cannot be imported
    status, error = run("broken", "--help")
    assert status == 1
    assert "no_such_package" in error


def test_help_lists_what_is_installed():
    help_text = CliRunner().invoke(commands.edgecl, ["--help"]).output
    assert all(name in help_text for name in ("channel", "device", "export", "train"))
