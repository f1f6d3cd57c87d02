"""The options of all streams as options of a command."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import rich_click as click

from edgecl.streams._registry import streams

Command = Callable[..., Any]
OWN = {"name", "seed", "protocol"}  # which a command declares itself


def stream_options(command: Command) -> Command:
    """Add the options of all registered streams; one that is left out is None."""
    for option in reversed(declared_options()):
        command = option(command)
    return command


def declared_options() -> list[Callable[[Command], Command]]:
    """Return an option of the command for each name; those that all streams take come first."""
    takers: dict[str, list[str]] = {}
    for stream, entry in streams().items():
        for name in entry.takes():
            takers.setdefault(name, []).append(stream)
    by_streams = sorted(takers.items(), key=lambda item: -len(item[1]))
    return [_option(name, names) for name, names in by_streams if name not in OWN]


def _option(name: str, names: list[str]) -> Callable[[Command], Command]:
    """Return the option that the first of these streams declares."""
    known = streams()
    kind = known[names[0]].options
    declared = next(field for field in dataclasses.fields(kind) if field.name == name)
    hint = typing.get_type_hints(kind)[name]
    if type(None) in typing.get_args(hint):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    about = f"{declared.metadata.get('about', '')}{_of(names, list(known))}"
    settings: dict[str, Any] = {"type": hint}
    if hint is bool:
        settings = {"is_flag": True, "default": None}
    elif declared.metadata.get("file"):
        settings = {"type": click.Path(dir_okay=False), "metavar": "FILE"}
    elif typing.get_origin(hint) is tuple:
        about = f"{about} May be given several times."
        settings = {"type": str, "multiple": True, "callback": lambda _, __, value: value or None}
    elif declared.metadata.get("path"):
        settings = {"type": click.Path()}
    elif typing.get_origin(hint) is typing.Literal:
        settings = {"type": click.Choice(typing.get_args(hint))}
    return click.option(f"--{name.replace('_', '-')}", help=about, **settings)


def _of(names: list[str], known: list[str]) -> str:
    """Return which streams take an option, in the shorter way; nothing where all do."""
    others = [name for name in known if name not in names]
    if not others:
        return ""
    fewer = len(others) < len(names)
    return f" {'Not of' if fewer else 'Of'} {', '.join(others if fewer else names)}."
