"""Stream names and options: what can be asked for, and who builds it."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from edgecl.streams._errors import StreamError
from edgecl.streams._types import STREAM_PROTOCOLS, Stream, StreamProtocol


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """Everything that can be asked of a stream; None leaves it to the stream's own default.

    Which options a stream uses is in docs/streams.md; one that it does not use is refused.
    """

    name: str  # a registered name, `torchvision:DATASET`, or a folder
    seed: int | None = 1993  # class order, shots, limits, hold-out; None = natural class order
    classes: int | None = None  # use only the first `classes` classes of the natural order
    increment: int | None = None  # classes per task; the last task may be smaller
    base: int | None = None  # classes of the first task; 0 or None = `increment` ("B0")
    shots: int | None = None  # training images per class and task
    limit_train: int | None = None  # training images in all, the same number of each class
    limit_test: int | None = None  # test images in all, likewise
    tasks: int | None = None  # keep only the first `tasks` tasks
    root: str | None = None  # where the files are
    test_fraction: float | None = None  # held out of each class where there is no test part
    protocol: str | None = None  # cil, dil or dcil
    download: bool | None = None  # let torchvision download
    concepts: str | None = None  # openemoji10: unseen, seen or all
    train_styles: tuple[str, ...] | None = None  # openemoji10
    test_styles: tuple[str, ...] | None = None  # openemoji10
    order: int | None = None  # mtil-mini: 1 or 2

    def __post_init__(self) -> None:
        for option in ("classes", "increment", "shots", "limit_train", "limit_test", "tasks"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise StreamError(
                    f"{option} must be at least 1, got {value}. Raise it or leave it out."
                )
        if self.base is not None and self.base < 0:
            raise StreamError(f"base must be at least 0, got {self.base}. Use 0 for equal tasks.")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise StreamError(f"seed must be in [0, 2**32), got {self.seed}. Try 1993.")
        if self.protocol is not None and self.protocol not in STREAM_PROTOCOLS:
            raise StreamError(
                f"protocol must be one of {', '.join(STREAM_PROTOCOLS)}; got {self.protocol!r}. "
                "Use cil for class-incremental learning."
            )
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise StreamError(
                f"test_fraction must be in [0, 1), got {self.test_fraction}. Try 0.2."
            )

    def protocol_or(self, default: StreamProtocol) -> StreamProtocol:
        """Return the protocol that was asked for, else the stream's default."""
        return default if self.protocol is None else cast("StreamProtocol", self.protocol)

    def spec(self, **resolved: Any) -> dict[str, Any]:
        """Return the JSON-able arguments of load_stream, `resolved` written over the options."""
        values = {**dataclasses.asdict(self), **resolved}
        always = ("name", "seed")
        spec = {key: value for key, value in values.items() if key in always or value is not None}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in spec.items()}


Loader = Callable[[StreamOptions], Stream]
COMMON = frozenset({
    "name", "seed", "classes", "increment", "base", "shots", "limit_train", "limit_test", "tasks",
})  # fmt: skip
_LOADERS: dict[str, tuple[Loader, frozenset[str]]] = {}


def register_stream(name: str, *, uses: tuple[str, ...] = ()) -> Callable[[Loader], Loader]:
    """Register a loader; `uses` names the options that it takes besides the common ones."""

    def register(loader: Loader) -> Loader:
        assert name not in _LOADERS, f"stream {name} is registered twice"
        _LOADERS[name] = (loader, COMMON | frozenset(uses))
        return loader

    return register


def stream_names() -> tuple[str, ...]:
    """Return all registered names, sorted."""
    return tuple(sorted(_LOADERS))


def takes_option(name: str, option: str) -> bool:
    """Tell whether the stream of this name, or a folder, takes an option; False if unknown."""
    key = name.partition(":")[0]
    if key not in _LOADERS and Path(name).is_dir():
        key = "folder"
    return key in _LOADERS and option in _LOADERS[key][1]


def load_stream(name: str, **options: Any) -> Stream:
    """Build a stream.

    Args:
        name: a name of `stream_names()`, `torchvision:DATASET`, or the path of an image folder.
        **options: fields of StreamOptions, by name.

    Raises:
        StreamError: if the name or an option is unknown, unfit, or not used by that stream.
    """
    fields = [field.name for field in dataclasses.fields(StreamOptions)]
    for option in options:
        if option not in fields:
            raise StreamError(
                f"A stream option must be one of {', '.join(fields)}; got {option!r}. "
                f"{nearest(option, fields)}"
            )
    key = name.partition(":")[0]
    if key not in _LOADERS and Path(name).is_dir() and "root" not in options:
        key, name, options = "folder", "folder", {**options, "root": name}
    if key not in _LOADERS:
        raise StreamError(
            f"A stream must be one of {', '.join(stream_names())} or an existing folder; got "
            f"{name!r}. {nearest(key, list(stream_names()))}"
        )
    if options.get("root") is not None:  # a spec must not depend on the working directory
        options = {**options, "root": str(Path(options["root"]).expanduser().resolve())}
    lists = {k: tuple(v) for k, v in options.items() if isinstance(v, list)}  # a spec from JSON
    asked = StreamOptions(name=name, **{**options, **lists})
    loader, used = _LOADERS[key]
    unused = [k for k in fields if k not in used and getattr(asked, k) is not None]
    if unused:
        raise StreamError(
            f"Stream {key!r} takes the options {', '.join(sorted(used))}; got also "
            f"{', '.join(unused)}. Leave out what it does not take."
        )
    return loader(asked)


def refuse(options: StreamOptions, unfit: tuple[str, ...], reason: str) -> None:
    """Raise if an option is given that this form of the stream does not take.

    Raises:
        StreamError: naming the option and the reason.
    """
    for option in unfit:
        if (value := getattr(options, option)) is not None:
            raise StreamError(f"{reason}; got {option} = {value!r}. Leave {option} out.")


def nearest(word: str, known: list[str]) -> str:
    """Return the sentence that names the known word most like this one."""
    near = difflib.get_close_matches(re.sub("-", "_", word), known, 1, 0.4)
    near = near or difflib.get_close_matches(word, known, 1, 0.4)
    return f"Did you mean {near[0]!r}?" if near else "Choose one of these."
