"""Typed readers of JSON values: each returns it or states what it must be.

A reader is a function of a value and of where it was found, for the message; `listed`, `named` and
`optional` make readers of readers.
"""

import math
from collections.abc import Callable
from typing import NoReturn, TypeAlias, TypeVar

from edgecl.errors import EdgeclError

T = TypeVar("T")
Reader: TypeAlias = Callable[[object, str], T]


class RecordError(EdgeclError):
    """A record must hold something else; whoever reads a file adds its path and what to do."""


def refuse(where: str, must: str, found: object) -> NoReturn:
    """Refuse a value.

    Raises:
        RecordError: always.
    """
    shown = repr(found)
    raise RecordError(
        f"{where} must be {must}, got {shown if len(shown) < 80 else f'{shown[:77]}...'}"
    )


def text(value: object, where: str) -> str:
    """Read a text, which may be empty."""
    if not isinstance(value, str):
        refuse(where, "a text", value)
    return value


def count(value: object, where: str) -> int:
    """Read a whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        refuse(where, "a whole number of at least 0", value)
    return value


def integer(value: object, where: str) -> int:
    """Read a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(where, "a whole number", value)
    return value


def number(value: object, where: str) -> float:
    """Read a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        refuse(where, "a finite number", value)
    return float(value)


def seconds(value: object, where: str) -> float:
    """Read a time."""
    found = number(value, where)
    if found < 0:
        refuse(where, "a time of at least 0 seconds", value)
    return found


def share(value: object, where: str) -> float:
    """Read an accuracy or another share."""
    found = number(value, where)
    if not 0 <= found <= 1:
        refuse(where, "a share in 0..1", value)
    return found


def listed(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """Return the reader of a list."""

    def read_list(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            refuse(where, "a list", value)
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read_list


def named(read: Reader[T]) -> Reader[dict[str, T]]:
    """Return the reader of an object whose values are all of one kind."""

    def read_object(value: object, where: str) -> dict[str, T]:
        if not isinstance(value, dict):
            refuse(where, "a JSON object", value)
        return {name: read(item, f"{where}.{name}") for name, item in value.items()}

    return read_object


def optional(read: Reader[T]) -> Reader[T | None]:
    """Return the reader of a value that may be null."""

    def read_optional(value: object, where: str) -> T | None:
        return None if value is None else read(value, where)

    return read_optional


class Fields:
    """The fields of one JSON object, each taken once; `done` refuses what nobody took.

    A value that is no object, or lacks a field, is a RecordError.
    """

    def __init__(self, value: object, where: str):
        if not isinstance(value, dict):
            refuse(where, "a JSON object", value)
        self._where = where
        self._left = dict(value)

    def take(self, name: str, read: Reader[T]) -> T:
        """Take a field out and read it."""
        if name not in self._left:
            refuse(self._where, f"an object with the field {name!r}", sorted(self._left))
        return read(self._left.pop(name), f"{self._where}.{name}")

    def give(self, name: str, read: Reader[T], default: T) -> T:
        """Take a field out and read it; the default where an older file has none."""
        return self.take(name, read) if name in self._left else default

    def form(self, must: str) -> None:
        """Take the field `format`, which must be this one."""
        found = self.take("format", text)
        if found != must:
            refuse(f"{self._where}.format", must, found)

    def done(self) -> None:
        """Refuse a field that was not taken."""
        if self._left:
            refuse(self._where, "an object without further fields", sorted(self._left))
