"""Progress of long work: bars with rates and ETA for people, silence for machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    """Reports that so many more steps are done."""

    def __call__(self, steps: int = 1) -> None: ...


class Reporter:
    """Says nothing; the base of what shows progress."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Open a bar of `total` steps and yield the function that advances it."""

        def advance(steps: int = 1) -> None:
            pass

        yield advance

    def say(self, text: str) -> None:
        """Tell one line that matters beyond the moment."""


class RichReporter(Reporter):
    """Bars on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, rate="")

            def advance(steps: int = 1) -> None:
                progress.advance(task, steps)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

            yield advance

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)
