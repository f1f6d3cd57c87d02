"""Reads the fields of a manifest: each has one type and a range.

A field that no reader takes is *unknown*: it is kept when the object is rewritten, and not checked.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from edgecl_deploy.errors import LimitError, ManifestError, PathError, shown
from edgecl_deploy.manifest import limits, names
from edgecl_deploy.manifest.canonical import REEXPORT

T = TypeVar("T")

HEX = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
PROGRAM_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONGEST_NAME = 128  # characters of a file or program name


def first_repeated(names: Sequence[str]) -> str | None:
    """Return the first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class Fields:
    """Takes the fields of one JSON object, each once; those that are left are unknown.

    A field that is absent or has another type or range is a ManifestError, a malformed file name
    or digest is a PathError, too many entries are a LimitError.

    Args:
        value: The JSON value, which must be an object.
        where: Its path, for messages (`bundle.json: programs.l2p`).
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ManifestError(f"{where} must be a JSON object", shown(value), REEXPORT)
        self.where = where
        self._left: dict[str, Any] = dict(value)

    def fail(self, key: str, must: str, value: object) -> ManifestError:
        """Make the error of one field.

        Args:
            must: What must hold for it.
            value: What was found.
        """
        return ManifestError(f"{self.where}.{key} must be {must}", shown(value), REEXPORT)

    def take(self, key: str) -> Any:
        """Take a field of any type.

        Raises:
            ManifestError: There is no such field.
        """
        if key not in self._left:
            raise ManifestError(f"{self.where} must have the field {key!r}", "none", REEXPORT)
        return self._left.pop(key)

    def has(self, key: str) -> bool:
        """Return whether the field is present; for fields that a file may leave out."""
        return key in self._left

    def peek(self, key: str) -> Any:
        """Return a field without taking it, None if it is absent."""
        return self._left.get(key)

    def unknown(self) -> dict[str, Any]:
        """Return the fields that were not taken: ignored, but kept when the object is rewritten."""
        return dict(self._left)

    def integer(self, key: str, low: int, high: int) -> int:
        """Take a whole number of `low` to `high`, both included."""
        value = self.take(key)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"a whole number of {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """Take a number of `low` to `high`, both included."""
        value = self.take(key)
        if type(value) not in {int, float} or not low <= value <= high:
            raise self.fail(key, f"a number of {low:g} to {high:g}", value)
        return float(value)

    def flag(self, key: str) -> bool:
        """Take true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false", value)
        return value

    def text(self, key: str, longest: int = limits.MAX_CLASS_NAME) -> str:
        """Take a printable, non-empty text."""
        return self._text(key, self.take(key), longest)

    def _text(self, key: str, value: object, longest: int) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
            raise self.fail(key, f"a printable text of 1 to {longest} characters", value)
        return value

    def name(self, key: str) -> str:
        """Take the name of a class or a task, in the form in which names are stored."""
        return self._name(key, self.take(key))

    def _name(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.fail(key, names.RULE, value)
        wrong = names.stored_fault(value)
        if wrong is not None:
            raise ManifestError(
                f"{self.where}.{key} must be {names.RULE}", f"{shown(value)}: {wrong}", REEXPORT
            )
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Take one of a few words."""
        value = self.take(key)
        if not isinstance(value, str) or value not in choices:
            raise self.fail(key, f"one of {', '.join(choices)}", value)
        return value

    def matching(self, key: str, pattern: re.Pattern[str], must: str) -> str:
        """Take a text that a pattern describes in full.

        Args:
            must: The pattern in words.
        """
        value = self.take(key)
        if not isinstance(value, str) or len(value) > _LONGEST_NAME or not pattern.fullmatch(value):
            raise self.fail(key, must, value)
        return value

    def sha256(self, key: str) -> str:
        """Take a digest; it becomes a file name, so nothing else is accepted."""
        return self._sha256(key, self.take(key))

    def _sha256(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not HEX.fullmatch(value):
            raise PathError(
                f"{self.where}.{key} must be a SHA-256 of 64 lower-case hexadecimal digits",
                shown(value),
                REEXPORT,
            )
        return value

    def file_name(self, key: str) -> str:
        """Take a plain file name: letters, digits, `_`, `-`, single dots; no folder.

        Raises:
            PathError: It is something else.
        """
        value = self.take(key)
        if (
            not isinstance(value, str)
            or len(value) > _LONGEST_NAME
            or not FILE_NAME.fullmatch(value)
        ):
            raise PathError(
                f"{self.where}.{key} must be a plain file name without a folder",
                shown(value),
                "Do not use this file: its author, or someone on the way, tried to reach outside "
                "of the directory.",
            )
        return value

    def items(self, key: str, most: int) -> list[Any]:
        """Take a list of at most `most` items."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.fail(key, "a list", value)
        self._check_count(key, len(value), most)
        return value

    def _check_count(self, key: str, count: int, most: int) -> None:
        if count > most:
            raise LimitError(
                f"{self.where}.{key} must have at most {most} entries", f"{count}", REEXPORT
            )

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """Take a list of printable texts."""
        return tuple(
            self._text(f"{key}[{i}]", value, limits.MAX_CLASS_NAME)
            for i, value in enumerate(self.items(key, most))
        )

    def names(self, key: str, most: int) -> tuple[str, ...]:
        """Take a list of names of classes."""
        return tuple(
            self._name(f"{key}[{i}]", value) for i, value in enumerate(self.items(key, most))
        )

    def digests(self, key: str, most: int, *, repeat: bool = False) -> tuple[str, ...]:
        """Take a list of digests, none of them twice unless they may `repeat`."""
        found = tuple(
            self._sha256(f"{key}[{i}]", value) for i, value in enumerate(self.items(key, most))
        )
        twice = None if repeat else first_repeated(found)
        if twice is not None:
            raise self.fail(key, "a list without repetition", twice)
        return found

    def numbers(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        """Take three numbers, one per colour."""
        values = self.items(key, 3)
        each = [Fields({key: value}, self.where).number(key, low, high) for value in values]
        if len(each) != 3:
            raise self.fail(key, "three numbers, red, green and blue", values)
        return (each[0], each[1], each[2])

    def axes(self, key: str) -> tuple[str, ...]:
        """Take a list of axis names, none of them twice."""
        values = self.items(key, limits.MAX_RANK)
        for value in values:
            if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
                raise self.fail(key, "a list of axis names such as c, d or t", value)
        if len(set(values)) != len(values):
            raise self.fail(key, "axis names without repetition", " ".join(values))
        return tuple(values)

    def sizes(self, key: str, axes: tuple[str, ...]) -> dict[str, int]:
        """Take the fixed sizes of some of the axes."""
        fields = Fields(self.take(key), f"{self.where}.{key}")
        for axis in fields._left.keys() - set(axes):
            raise self.fail(key, f"sizes of the axes {' '.join(axes)}", axis)
        return {axis: fields.integer(axis, 1, limits.MAX_AXIS) for axis in sorted(fields._left)}

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """Take a field that may be null, though not absent.

        Args:
            read: How to read it if it is not null.
        """
        if key in self._left and self._left[key] is None:
            self._left.pop(key)
            return None
        return read(key)

    def child(self, key: str) -> "Fields":
        """Take an object."""
        return Fields(self.take(key), f"{self.where}.{key}")

    def children(
        self, key: str, most: int, pattern: re.Pattern[str], must: str
    ) -> dict[str, "Fields"]:
        """Take an object whose keys are names and whose values are objects.

        Args:
            pattern: What every name must match.
            must: The pattern in words.
        """
        value = self.take(key)
        fields = Fields(value, f"{self.where}.{key}")
        self._check_count(key, len(fields._left), most)
        for name in fields._left:
            if len(name) > _LONGEST_NAME or not pattern.fullmatch(name):
                raise self.fail(key, f"an object whose names are {must}", name)
        return {name: fields.child(name) for name in list(fields._left)}

    def blob_sizes(self, key: str, most: int) -> dict[str, int]:
        """Take an object of sizes in bytes by blob digest."""
        fields = self.child(key)
        self._check_count(key, len(fields._left), most)
        for name in fields._left:
            self._sha256(key, name)
        return {name: fields.integer(name, 1, limits.MAX_BLOB) for name in list(fields._left)}
