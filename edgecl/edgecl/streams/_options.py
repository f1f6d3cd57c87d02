"""Options of streams: those that several have, and how a stream declares its own."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecl.streams._errors import StreamError
from edgecl.streams._option_files import (
    TaskImages,
    Templates,
    read_class_order,
    read_images,
    read_templates,
)
from edgecl.streams._types import StreamProtocol

TEST_FRACTION = 0.2


def option(
    about: str,
    *,
    least: int | None = None,
    path: bool = False,
    file: Callable[[Path], Any] | None = None,
) -> Any:
    """Declare an option of a stream: a field that is None where the stream chooses itself.

    Args:
        about: a sentence for the help of the command line.
        least: the smallest value.
        path: a file or folder; it is made absolute, so that a spec does not depend on the working
            directory.
        file: reads the value from a file; a spec holds what was read, not the path.
    """
    metadata = {"about": about, "least": least, "path": path, "file": file}
    return field(default=None, metadata=metadata)


@dataclass(frozen=True)
class StreamOptions:
    """Options of every stream. A stream with options of its own declares a subclass."""

    name: str  # a registered name, with `torchvision:DATASET` in full
    seed: int | None = 1993  # class order, shots, limits, hold-out; None: natural class order
    shots: int | None = option("Training images per class and task.", least=1)
    session_shots: int | None = option(
        "Training images per class of every task but the first (few-shot sessions).", least=1
    )
    session_images: TaskImages | None = option(  # noqa: RUF009 it returns a field
        "Training images of few-shot sessions by their names: cifar100, cub200, mini-imagenet (the "
        "published lists), or a JSON file.",
        file=read_images,
    )
    limit_train: int | None = option("Training images in all, as many of each class.", least=1)
    limit_test: int | None = option("Test images in all, as many of each class.", least=1)
    tasks: int | None = option("Keep only the first tasks.", least=1)
    task_templates: Templates | None = option(  # noqa: RUF009 it returns a field
        "JSON file of the templates in which a CLIP reads each task's classes, by task.",
        file=read_templates,
    )

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise StreamError(f"seed must be in [0, 2**32), got {self.seed}. Try 1993.")
        for declared in dataclasses.fields(self):
            value, least = getattr(self, declared.name), declared.metadata.get("least")
            if value is not None and least is not None and value < least:
                raise StreamError(
                    f"{declared.name} must be at least {least}, got {value}. "
                    "Raise it or leave it out."
                )

    def spec(self, **resolved: Any) -> dict[str, Any]:
        """Return the arguments of `load_stream` as JSON: the name, the seed and what is set.

        Args:
            resolved: options that the stream chose itself.
        """
        values = {**dataclasses.asdict(self), **resolved}
        always = ("name", "seed")
        spec = {key: value for key, value in values.items() if key in always or value is not None}
        return {key: _json(value) for key, value in spec.items()}


def _json(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class ClassOptions(StreamOptions):
    """Options of a stream that is divided by class."""

    classes: int | None = option("Use only the first classes of the natural order.", least=1)
    increment: int | None = option("Classes per task; the last may have fewer.", least=1)
    base: int | None = option("Classes of the first task; 0: as many as of the others.", least=0)
    class_order: tuple[str, ...] | None = option(
        "File with the names of all classes in their order, one in each line or a JSON list.",
        file=read_class_order,
    )
    blurry: int | None = option(
        "Percent of the images of blurry classes that come in any task (i-Blurry); 0: in one.",
        least=0,
    )
    disjoint: int | None = option(
        "Percent of the classes that are of one task alone, with --blurry; 50 by default.",
        least=0,
    )
    stochastic: bool | None = option(
        "Tasks of random numbers of classes and images, with --blurry (Si-Blurry)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("blurry", self.blurry), ("disjoint", self.disjoint)):
            if value is not None and value > 100:
                raise StreamError(f"{name} must be a percentage, got {value}. Give 0 to 100.")


@dataclass(frozen=True)
class HeldOutOptions(StreamOptions):
    """Options of a stream that holds out test images where the data set has no test part."""

    test_fraction: float | None = option("Held out of each class where there is no test part.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise StreamError(
                f"test_fraction must be in [0, 1), got {self.test_fraction}. Try 0.2."
            )

    @property
    def fraction(self) -> float:
        """Return the fraction that is set, else the default."""
        return TEST_FRACTION if self.test_fraction is None else self.test_fraction


@dataclass(frozen=True)
class ProtocolOptions(StreamOptions):
    """Options of a stream that has several forms."""

    protocol: StreamProtocol | None = option(  # noqa: RUF009 it returns a field
        "What changes from task to task."
    )
    hold_out: tuple[str, ...] | None = option(
        "A task that is never trained, only tested; of domains (dil)."
    )


def refuse(options: StreamOptions, unfit: tuple[str, ...], reason: str) -> None:
    """Refuse options that this form of the stream does not take.

    Raises:
        StreamError: one is set; the message has the reason.
    """
    for name in unfit:
        if (value := getattr(options, name)) is not None:
            raise StreamError(f"{reason}; got {name} = {value!r}. Leave {name} out.")
