"""What happened, for those who watch a server: the lines of its log and its stream of events."""

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_KEPT = 100  # events that a new listener can still get


class Events:
    """The last events, each with a number.

    Args:
        tell: Is told of each when it happens.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._start = secrets.token_hex(4)  # numbers begin anew in every process
        self._last: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    def add(self, event: str, *, log: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Add an event; a log that takes no more lines ends nothing.

        Args:
            event: What happened, in one word.
            log: What only the log gets, such as a text with paths.
            fields: What is to say about it, without the name of a class or a path.
        """
        entry = {"event": event, "time": round(time.time(), 3), **fields}
        with self._lock:
            self._count += 1
            self._last.append((self._count, entry))
        with suppress(OSError, ValueError):
            self._tell({**entry, **(log or {})})

    def after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the events that are later than one, as far as they are kept."""
        with self._lock:
            return [each for each in self._last if each[0] > number]

    def resumed(self, last: str) -> int:
        """Return the number after which a listener goes on.

        Args:
            last: The id of the last event that it has; an id of another process has all to come.
        """
        start, _, number = last.partition("-")
        if not last:
            return self.count
        known = start == self._start and number.isascii() and number.isdigit()
        return min(int(number[:15]), self.count) if known else 0

    def sent(self, number: int, entry: dict[str, Any]) -> str:
        """Return an event as a browser's EventSource reads it."""
        data = json.dumps(entry)
        return f"id: {self._start}-{number}\nevent: {entry['event']}\ndata: {data}\n\n"
