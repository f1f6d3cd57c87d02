"""The poll loop: when to ask the channel, and how to end.

Laws: a fleet that was switched on together does not ask together; a server in trouble is asked
less and less often; whatever a poll comes to, the loop goes on until it is asked to end.
"""

import os
import random
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome, Result
from edgecl_deploy.update.poll import Polled

INTERVAL = 6 * 3600.0  # seconds between two polls, on average
LEAST = 60.0  # seconds of the first back-off, and between two looks at `inhibit`
MOST = 4 * 3600.0  # seconds of the longest back-off
_TROUBLE = {
    Outcome.OFFLINE,
    Outcome.STALE,
    Outcome.UNTRUSTED,
    Outcome.NO_SPACE,
    Outcome.FAILED,
}


class Schedule:
    """When the next poll is due.

    Args:
        interval: Seconds between two polls on average; each wait is drawn from half of it to
            one and a half times it.
        draw: Gives a number of 0 to 1.
    """

    def __init__(
        self,
        interval: float = INTERVAL,
        draw: Callable[[], float] = random.random,  # noqa: S311
    ) -> None:
        self._interval = interval
        self._least = min(LEAST, interval)
        self._draw = draw
        self._troubles = 0

    def first(self) -> float:
        """Draw the seconds before the first poll: devices start together after a power cut."""
        return self._draw() * self._least

    def after(self, outcome: Outcome, patience: float | None = None) -> float:
        """Draw the seconds until the next poll.

        Args:
            outcome: How the last one ended.
            patience: Seconds that the server asked for.
        """
        self._troubles = self._troubles + 1 if outcome in _TROUBLE else 0
        if self._troubles:
            doubled = self._least * 2.0 ** min(self._troubles - 1, 30)
            wait = min(doubled, MOST) * (0.5 + 0.5 * self._draw())
        elif outcome is Outcome.BUSY:
            wait = self._least * (0.5 + 0.5 * self._draw())
        else:
            wait = self._interval * (0.5 + self._draw())
        return max(wait, patience or 0.0)


class Ending(Protocol):
    """Whether the loop was asked to end."""

    @property
    def asked(self) -> bool:
        """Whether it was."""

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until it is asked; say whether it was."""


class Signalled:
    """An `Ending` that a signal handler may set: it takes no lock."""

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = os.pipe()

    def ask(self, *_: object) -> None:
        """Ask the loop to end; a second time it will not be asked, but ended."""
        self.asked = True
        os.write(self._writer, b"\0")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until it is asked.

        Returns:
            Whether it was asked.
        """
        select.select([self._reader], [], [], max(seconds, 0.0))
        return self.asked

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def signals() -> Iterator[Signalled]:
    """Let SIGTERM and SIGINT ask, instead of ending the process; for the main thread."""
    ending = Signalled()
    before = {
        number: signal.signal(number, ending.ask) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ending.close()


@dataclass(frozen=True)
class Watch:
    """A loop of polls over one store.

    Attributes:
        store: The store.
        poll: Makes one poll.
        schedule: When.
        ending: Until when.
        tell: Gets every result, and the seconds until the next poll.
    """

    store: Store
    poll: Callable[[], Polled]
    schedule: Schedule
    ending: Ending
    tell: Callable[[Result, float], None]

    def run(self) -> None:
        """Poll until it is asked to end."""
        state = self.store.state
        on_trial = state is not None and state.phase.on_trial  # by a process that was killed
        wait = 0.0 if on_trial else self.schedule.first()
        while not self.ending.wait(wait):
            polled = self._poll()
            wait = self.schedule.after(polled.result.outcome, polled.patience)
            self.tell(polled.result, wait)
            if polled.result.outcome is Outcome.INHIBITED:
                wait = self._until_allowed(wait)

    def _poll(self) -> Polled:
        try:
            return self.poll()
        except DeployError as error:  # config.json, for example, is being repaired
            return Polled(Result(Outcome.FAILED, str(error)))
        except OSError as error:
            return Polled(Result(Outcome.FAILED, one_line(error)))

    def _until_allowed(self, wait: float) -> float:
        """Rest until `inhibit` is empty: what is ready is then taken without delay."""
        while wait > 0 and not self.ending.asked:
            if not any((self.store.path / INHIBIT).iterdir()):
                return 0.0
            self.ending.wait(min(wait, LEAST))
            wait -= LEAST
        return max(wait, 0.0)
