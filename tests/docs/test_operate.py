"""Every command that docs/operate.md shows exists, with these arguments and options."""

import copy
import re
import shlex
from pathlib import Path

import click
import pytest

from edgecl_deploy.cli import device
from edgecl_deploy.update.outcome import Outcome
from edgecl_export.channel.cli import channel
from edgecl_export.cli import export

TEXT = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
GROUPS = {"edgecl-device": device, "edgecl channel": channel, "edgecl export": export}


def shown() -> list[tuple[str, list[str]]]:
    found = []
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL):
        for line in block.splitlines():
            for program in GROUPS:
                if program in line:
                    found.append((program, shlex.split(line.split(program, 1)[1])))
    return found


def anywhere(command: click.Command) -> click.Command:
    """A copy of a command whose paths need not be on this machine; all else must be right."""
    command = copy.copy(command)
    command.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type = click.Path()
        if parameter.name == "store":
            parameter.callback = None
    return command


@pytest.mark.parametrize(("program", "words"), shown(), ids=lambda each: str(each)[:60])
def test_the_command_exists(program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command: click.Command = GROUPS[program]  # type: ignore[assignment]
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    anywhere(command).make_context("x", list(words)).close()


def test_the_text_shows_all_groups():
    assert {program for program, _ in shown()} == set(GROUPS)


def test_every_exit_status_is_explained():
    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    for outcome in Outcome:
        assert re.search(rf"\b{outcome.value}\b", rows), outcome
        assert outcome is Outcome.UPDATED or outcome.word in rows, outcome
