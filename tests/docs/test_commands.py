"""Every command that a page of `docs/` shows exists, with these arguments and options."""

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgecl_deploy.commands import edgecl

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "gallery" not in path.parts)
PROGRAMS = re.compile(r"(?:sudo -u \S+ )?(edgecl-device|edgecl) (.*)")


def shown(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the words of each command in the shell blocks of a page."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if found := PROGRAMS.match(line.split("#", 1)[0]):
                yield found[1], shlex.split(found[2])


CASES = [
    pytest.param(*each, id=f"{page.stem}: {' '.join(each[1])[:50]}")
    for page in PAGES
    for each in shown(page)
]


def anywhere(command: click.Command) -> click.Command:
    """Return a copy of a command whose paths need not be on this machine."""
    command = copy.copy(command)
    command.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type = click.Path()
        if parameter.name == "store":
            parameter.callback = None
    return command


def subcommand(group: click.Group, name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None, f"{group.name} has no command {name}"
    return found


@pytest.mark.parametrize(("program", "words"), CASES)
def test_the_command_exists(program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command: click.Command = edgecl if program == "edgecl" else subcommand(edgecl, "device")
    while isinstance(command, click.Group):
        command, words = subcommand(command, words[0]), words[1:]
    anywhere(command).make_context("x", list(words)).close()


def test_pages_with_commands_are_read():
    pages = {case.id.split(":")[0] for case in CASES}
    assert pages >= {"operate", "getting-started", "images", "by-name", "backbones"}
