"""Asks a loop to stop: SIGTERM and SIGINT end it where it may end."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class StopRequest(Protocol):
    """Whether the loop is asked to stop."""

    @property
    def requested(self) -> bool:
        """Whether it is."""

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested or the time is over; return whether it is requested."""


class SignalledStop:
    """A `StopRequest` that a signal handler may make: it takes no lock."""

    def __init__(self) -> None:
        self.requested = False
        self._reader, self._writer = os.pipe()

    def request(self, *_: object) -> None:
        """Request a stop; the next signal ends the process."""
        self.requested = True
        os.write(self._writer, b"\0")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested or the time is over; return whether it is requested."""
        select.select([self._reader], [], [], max(seconds, 0.0))
        return self.requested

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def stop_on_signals() -> Iterator[SignalledStop]:
    """Let SIGTERM and SIGINT request a stop instead of ending the process; for the main thread."""
    stop = SignalledStop()
    before = {
        number: signal.signal(number, stop.request) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
