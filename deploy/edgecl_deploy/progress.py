"""Progress of long work: bars with rates and remaining time for people, silence for machines.

A device has no use for bars; `rich`, which draws them, comes with the other two distributions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports that so many more steps are done."""

    def __call__(self, steps: int = 1) -> None: ...


class Reporter:
    """Shows nothing; the base of what shows progress."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Open a bar of `total` steps and yield the function that advances it."""

        def advance(steps: int = 1) -> None:
            pass

        yield advance

    def say(self, text: str) -> None:
        """Print one line that stays on the screen."""


class RichReporter(Reporter):
    """Draws bars on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
        )
        with rich.Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, rate="")

            def advance(steps: int = 1) -> None:
                progress.advance(task, steps)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

            yield advance

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)
