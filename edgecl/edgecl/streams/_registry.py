"""The registry of streams: every module of this package registers what it builds."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgecl.config import ConfigError, from_mapping, nearest
from edgecl.streams._errors import StreamError
from edgecl.streams._options import StreamOptions
from edgecl.streams._types import Stream

OptionsT = TypeVar("OptionsT", bound=StreamOptions)
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})  # of labels, in place of a folder
Builder = Callable[[OptionsT], Stream]


@dataclass(frozen=True)
class Entry:
    """One stream: the function that builds it, and its options."""

    build: Builder[Any]
    options: type[StreamOptions]

    def takes(self) -> list[str]:
        """Return the names of the options."""
        return [field.name for field in dataclasses.fields(self.options) if field.name != "name"]


_REGISTRY: dict[str, Entry] = {}


def register_stream(
    name: str, options: type[OptionsT]
) -> Callable[[Builder[OptionsT]], Builder[OptionsT]]:
    """Register a function that builds a stream, and the options that it takes."""

    def register(build: Builder[OptionsT]) -> Builder[OptionsT]:
        assert name not in _REGISTRY, f"stream {name} is registered twice"
        _REGISTRY[name] = Entry(build, options)
        return build

    return register


def streams() -> dict[str, Entry]:
    """Return all streams by name, sorted."""
    package = importlib.import_module(__name__.rpartition(".")[0])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_REGISTRY.items()))


def stream_names() -> tuple[str, ...]:
    """Return all registered names, sorted."""
    return tuple(streams())


def takes_option(name: str, option: str) -> bool:
    """Return whether the stream of this name, or a folder, takes an option; False if unknown."""
    entry = streams().get(_key(name))
    return entry is not None and option in entry.takes()


def _key(name: str) -> str:
    """Return the registered name of a stream's or a folder's name."""
    key = name.partition(":")[0]
    path = Path(name)
    is_place = path.is_dir() or (path.suffix.lower() in TABLES and path.is_file())
    return "folder" if key not in streams() and is_place else key


def load_stream(name: str, **options: Any) -> Stream:
    """Build a stream.

    Args:
        name: a name of `stream_names()`, `torchvision:DATASET`, or the path of an image folder or
            of a table of images.
        **options: fields of the options that the stream declares, by name.

    Raises:
        StreamError: the name is unknown, the stream does not take an option, or a value is wrong.
    """
    known, key = streams(), _key(name)
    if key not in known:
        raise StreamError(
            f"A stream must be one of {', '.join(known)} or an existing folder; got "
            f"{name!r}. {nearest(key, known)}"
        )
    if key not in {name, name.partition(":")[0]}:  # a path
        options, name = {"root": name, **options}, key
    entry = known[key]
    for option in options:
        if option not in entry.takes():
            raise StreamError(
                f"Stream {key!r} takes the options {', '.join(entry.takes())}; got {option!r}. "
                f"{nearest(option, entry.takes())} Or leave it out."
            )
    for field in dataclasses.fields(entry.options):
        value = options.get(field.name)
        if field.metadata.get("path") and isinstance(value, str | Path):
            options[field.name] = str(Path(value).expanduser().resolve())
        if field.metadata.get("file") and isinstance(value, str | Path):
            options[field.name] = field.metadata["file"](Path(value).expanduser())
    try:
        asked = from_mapping(entry.options, {"name": name, **options}, key)
    except ConfigError as error:
        raise StreamError(str(error)) from error
    return entry.build(asked)
