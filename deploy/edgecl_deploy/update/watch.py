"""Polls a channel in a loop, until the process is asked to stop.

Laws: devices that were switched on together do not poll together; a server in trouble is polled
less and less often; whatever the outcome of a poll, the loop goes on until it is asked to stop.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.stopping import StopRequest
from edgecl_deploy.store.layout import INHIBIT
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome, Result
from edgecl_deploy.update.poll import PollResult

INTERVAL = 6 * 3600.0  # seconds between two polls, on average
LEAST = 60.0  # seconds of the first back-off, and between two reads of `inhibit`
MOST = 4 * 3600.0  # seconds of the longest back-off
_TROUBLE = {
    Outcome.OFFLINE,
    Outcome.STALE,
    Outcome.UNTRUSTED,
    Outcome.NO_SPACE,
    Outcome.FAILED,
}


class Schedule:
    """Draws the times of the polls.

    Args:
        interval: Seconds between two polls on average; each wait is drawn from half of it to
            one and a half times it.
        draw: Returns a number of 0 to 1.
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

    def after(self, outcome: Outcome, retry_after: float | None = None) -> float:
        """Draw the seconds until the next poll.

        Args:
            outcome: That of the last one.
            retry_after: Seconds that the server asked to wait.
        """
        self._troubles = self._troubles + 1 if outcome in _TROUBLE else 0
        if self._troubles:
            doubled = self._least * 2.0 ** min(self._troubles - 1, 30)
            wait = min(doubled, MOST) * (0.5 + 0.5 * self._draw())
        elif outcome in {Outcome.BUSY, Outcome.STOPPED}:  # stopped: another command waited
            wait = self._least * (0.5 + 0.5 * self._draw())
        else:
            wait = self._interval * (0.5 + self._draw())
        return max(wait, retry_after or 0.0)


@dataclass(frozen=True)
class Watch:
    """A loop of polls over one store.

    Attributes:
        store: The store.
        poll: Makes one poll.
        schedule: Its times.
        stop: Ends the loop.
        tell: Gets every result, and the seconds until the next poll.
    """

    store: Store
    poll: Callable[[], PollResult]
    schedule: Schedule
    stop: StopRequest
    tell: Callable[[Result, float], None]

    def run(self) -> None:
        """Poll until a stop is requested."""
        state = self.store.state
        on_trial = state is not None and state.phase.on_trial  # by a process that was killed
        wait = 0.0 if on_trial else self.schedule.first()
        while not self.stop.wait(wait):
            polled = self._poll()
            wait = self.schedule.after(polled.result.outcome, polled.retry_after)
            self.tell(polled.result, wait)
            if polled.result.outcome is Outcome.INHIBITED:
                wait = self._until_allowed(wait)

    def _poll(self) -> PollResult:
        try:
            return self.poll()
        except DeployError as error:  # config.json, for example, is being repaired
            return PollResult(Result(Outcome.FAILED, str(error)))
        except OSError as error:
            return PollResult(Result(Outcome.FAILED, one_line(error)))

    def _until_allowed(self, wait: float) -> float:
        """Wait until `inhibit` is empty; return the seconds until the next poll."""
        while wait > 0 and not self.stop.requested:
            if not any((self.store.path / INHIBIT).iterdir()):
                return 0.0
            self.stop.wait(min(wait, LEAST))
            wait -= LEAST
        return max(wait, 0.0)
