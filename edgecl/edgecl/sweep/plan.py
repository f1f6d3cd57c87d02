"""The file of a sweep: methods, streams and seeds, each with each."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError

MOST_BYTES = 1 << 20
MOST_CELLS = 10_000
OURS = {"out", "seed", "resume", "set", "json", "quiet", "device", "method"}  # set by the sweep
OF_CALL = {"image_memory", "max_pixels", "no_wait", "workers"}  # which no run keeps
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class SweepError(EdgeclError):
    """A sweep's file that is not one."""


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        name: of its folder.
        group: the name without the seed.
        words: what follows `edgecl train`, without where it writes.
        of_call: likewise, what a run does not keep and every call is given.
    """

    name: str
    group: str
    seed: int
    words: tuple[str, ...]
    of_call: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A method or a stream: its name, options of the command, and settings of the method."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_plan(path: str | Path) -> list[Cell]:
    """Read a sweep's file.

    `methods`, `streams` and `seeds` are lists. A method or a stream is its name, or an object of
    `method` or `stream`, `name` (of its own in this sweep), `options` (of `edgecl train`; a
    `recipe` may be in the place of the stream) and `set`. `options` and `set` of the file apply to
    all. Relative paths are relative to the working directory.

    Returns:
        A cell for each method on each stream with each seed, the seeds outermost.

    Raises:
        SweepError: if it is none.
    """
    try:
        data = Path(path).read_bytes()[: MOST_BYTES + 1]
        if len(data) > MOST_BYTES:
            raise SweepError(f"it has more than {MOST_BYTES} bytes")
        found = json.loads(data)
        cells = list(_cells(found))
    except (OSError, ValueError, SweepError) as error:
        raise SweepError(
            f"A sweep's file must be a JSON object of methods, streams and seeds, got {path}: "
            f"{error}. Mend it; docs/runs.md has an example."
        ) from error
    names = [cell.name for cell in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SweepError(
            f"Every training of a sweep must have a name of its own, got {twice[0]} twice in "
            f'{path}. Give one of the two methods or streams another "name" and its "options".'
        )
    return cells


def _cells(found: Any) -> Iterator[Cell]:
    fields = _fields(found, "the file", {"methods", "streams", "seeds", "options", "set"})
    options = _options(fields.get("options", {}), "options")
    settings = _object(fields.get("set", {}), "set")
    methods = [_part(each, "methods", "method") for each in _filled(fields, "methods")]
    streams = [_part(each, "streams", "stream") for each in _filled(fields, "streams")]
    seeds = _filled(fields, "seeds")
    if len(methods) * len(streams) * len(seeds) > MOST_CELLS:
        raise SweepError(f"it has more than {MOST_CELLS} trainings")
    for seed in seeds:
        if type(seed) is not int:
            raise SweepError(f"seeds must be whole numbers, got {seed!r}")
        for stream in streams:
            for method in methods:
                own = {**options, **stream.options, **method.options}
                method_name = str(own.pop("method"))
                set_all = {**settings, **stream.settings, **method.settings}
                group = _UNSAFE.sub("-", f"{stream.name}-{method.name}").strip("-.")
                of_call = {name: own.pop(name) for name in sorted(OF_CALL & set(own))}
                words = [method_name, *_words(own), "--seed", str(seed)]
                for path, value in set_all.items():
                    words += ["--set", f"{path}={_text(value)}"]
                name = f"{group}-seed{seed}"
                yield Cell(name, group, seed, tuple(words), tuple(_words(of_call)))


def _part(value: Any, where: str, option: str) -> _Part:
    """Read a method or a stream.

    Raises:
        SweepError: it is neither a name nor such an object.
    """
    if isinstance(value, str):
        value = {option: value}
    fields = _fields(value, where, {"name", option, "options", "set"})
    options = _options(fields.get("options", {}), where)
    if option in fields:
        options[option] = fields[option]
    named = options.get(option, options.get("recipe"))  # a recipe may have the stream
    if not isinstance(named, str) or not named:
        raise SweepError(f"each of {where} must be a name, or an object with a {option}")
    name = fields.get("name", Path(named).name)
    if not isinstance(name, str) or not name:
        raise SweepError(f"name in {where} must be a text, got {name!r}")
    return _Part(name, options, _object(fields.get("set", {}), where))


def _fields(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    found = _object(value, where)
    if foreign := sorted(set(found) - known):
        raise SweepError(f"{where} must have no field but {', '.join(sorted(known))}, got "
                         f"{foreign[0]!r}")  # fmt: skip
    return found


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SweepError(f"{where} must be an object, got {value!r}")
    return value


def _options(value: Any, where: str) -> dict[str, Any]:
    found = {name.replace("-", "_"): each for name, each in _object(value, where).items()}
    if ours := sorted(OURS & set(found)):
        raise SweepError(f"{where} must leave out what the sweep sets itself, got {ours[0]!r}")
    return found


def _filled(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or not value:
        raise SweepError(f"{name} must be a list with something in it, got {value!r}")
    return value


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options as they are typed: true is a flag, a list is an option several times."""
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            if each is True:
                yield flag
            elif each is not False and each is not None:
                yield from (flag, _text(each))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
