"""Asks a loop to stop: SIGTERM and SIGINT end it where it may end."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

GRACE = 1.7  # seconds after a signal until a process that does not answer is ended
STATUS = 17  # exit status of a process that was ended so, as `Outcome.STOPPED`


def never() -> bool:
    """Return False: no stop is requested."""
    return False


class StopRequest(Protocol):
    """Whether the loop is asked to stop."""

    @property
    def requested(self) -> bool:
        """Whether it is."""

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested or the time is over; return whether it is requested."""


class SignalledStop:
    """A `StopRequest` that signals make; a process that does not hear it in time is ended.

    Python runs a handler between two of its own instructions, so a call into a library (the
    resolver of names, for example) can keep it waiting. The interpreter's C part writes the signal
    into a pipe at once, and a thread reads it there. To end a process is safe at any instruction:
    that is what the store is made for.
    """

    def __init__(self) -> None:
        self.requested = False
        self._ended = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakes, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="edgecl-stop", daemon=True)
        self._thread.start()

    @property
    def wakeup(self) -> int:
        """Where the interpreter writes signals; they are heard in a thread."""
        return self._writer

    def request(self, *_: object) -> None:
        """Request a stop; the next signal ends the process."""
        self.requested = True
        os.write(self._wake, b"\0")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def _listen(self) -> None:
        while numbers := os.read(self._reader, 64):
            if self._ended.is_set():
                return
            if {signal.SIGTERM, signal.SIGINT} & set(numbers):
                self.requested = True
                if not self._ended.wait(GRACE):
                    os.write(2, b"edgecl-device: stopped: it did not answer in time\n")
                    os._exit(STATUS)
                return

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested or the time is over; return whether it is requested."""
        select.select([self._wakes], [], [], max(seconds, 0.0))
        return self.requested

    def close(self) -> None:
        """End its thread and close its pipes."""
        self._ended.set()
        os.write(self._writer, b"\0")
        self._thread.join()
        for handle in (self._reader, self._writer, self._wakes, self._wake):
            os.close(handle)


@contextmanager
def stop_on_signals() -> Iterator[SignalledStop]:
    """Let SIGTERM and SIGINT request a stop instead of ending the process; for the main thread."""
    stop = SignalledStop()
    wakeup = signal.set_wakeup_fd(stop.wakeup, warn_on_full_buffer=False)
    before = {
        number: signal.signal(number, stop.request) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        stop.close()
