"""Configs are frozen dataclasses; this is the edge where text and JSON become one."""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from edgecl.errors import EdgeclError, MethodError

ConfigT = TypeVar("ConfigT")


class ConfigError(EdgeclError):
    """A configuration names an unknown field or a value of the wrong type."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {match[0]!r}?" if match else "Pick one of these."


def from_mapping(config_type: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build a config from its defaults and the given fields.

    Args:
        where: what the messages call this config.

    Raises:
        ConfigError: for an unknown field or a value of the wrong type.
    """
    hints = typing.get_type_hints(config_type)
    fields = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if not fields:
            raise ConfigError(f"{where} has no fields, got {name!r}. Leave it out.")
        if name not in fields:
            raise ConfigError(
                f"{where} has the fields {', '.join(sorted(fields))}, got {name!r}. "
                f"{nearest(name, fields)}"
            )
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            default = _default(config_type, name)
            merged = {**(dataclasses.asdict(default) if default else {}), **value}
            given[name] = from_mapping(hints[name], merged, f"{where}.{name}")
        else:
            given[name] = _checked(value, hints[name], f"{where}.{name}")
    return config_type(**given)


def _default(config_type: type, name: str) -> Any:
    field = next(field for field in dataclasses.fields(config_type) if field.name == name)
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _checked(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        allowed: tuple[Any, ...] = typing.get_args(hint)
        if value in allowed:
            return value
        raise ConfigError(f"{where} must be one of {allowed}, got {value!r}. Pick one of these.")
    if origin in (tuple, dict):
        return _checked_inside(value, hint, where)
    kinds = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    inner = [kind for kind in kinds if typing.get_origin(kind) is not None]
    if inner and value is not None:  # as in Literal["a", "b"] | None
        return _checked(value, inner[0], where)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, got {value}. Give one.")
    if any(type(value) is kind for kind in kinds):
        return value
    names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
    raise ConfigError(f"{where} must be of type {names}, got {value!r}. Write it as JSON would.")


def _checked_inside(value: Any, hint: Any, where: str) -> Any:
    """Check a list of any length, as tuple[str, ...], or an object, as dict[str, int].

    Raises:
        ConfigError: it is something else.
    """
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}. Write it as JSON would.")
        (kind, _) = typing.get_args(hint)
        return tuple(_checked(item, kind, f"{where}[{at}]") for at, item in enumerate(value))
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object, got {value!r}. Write it as JSON would.")
    (_, kind) = typing.get_args(hint)
    return {key: _checked(item, kind, f"{where}.{key}") for key, item in value.items()}


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def at_least(least: int | float, method: str, **fields: int | float) -> None:
    """Check fields of a method's configuration.

    Raises:
        MethodError: if one is smaller.
    """
    for name, value in fields.items():
        if not value >= least:  # nor is NaN
            raise MethodError(f"{method}.{name} must be at least {least}, got {value}. Raise it.")


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Turn `a=1`, `schedule.lr=0.1` into a nested mapping; values are JSON, or else text.

    Raises:
        ConfigError: for a setting without `=` or a name, or one inside a value.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parents, leaf = path.split(".")
        if not equals or not all([*parents, leaf]):
            raise ConfigError(
                f"--set takes NAME=VALUE, got {setting!r}. Write for example schedule.epochs=5."
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        inner = parsed
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"--set takes a field of a component, got {setting!r} where {parent!r} is a "
                    "value already. Set one of the two."
                )
        inner[leaf] = value
    return parsed
