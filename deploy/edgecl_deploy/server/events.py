"""What happened, for those who watch a server: the lines of its log and its stream of events."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_KEPT = 100  # events that a new listener can still get


class Events:
    """The last events, each with a number.

    Args:
        tell: Is told of each when it happens.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._last: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    def add(self, event: str, **fields: Any) -> None:
        """Add an event.

        Args:
            event: What happened, in one word.
            fields: What is to say about it, without the name of a class or a path.
        """
        entry = {"event": event, "time": round(time.time(), 3), **fields}
        with self._lock:
            self._count += 1
            self._last.append((self._count, entry))
        self._tell(entry)

    def after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the events that are later than one, as far as they are kept."""
        with self._lock:
            return [each for each in self._last if each[0] > number]


def sent(number: int, entry: dict[str, Any]) -> str:
    """Return an event as a browser's EventSource reads it."""
    return f"id: {number}\nevent: {entry['event']}\ndata: {json.dumps(entry)}\n\n"
