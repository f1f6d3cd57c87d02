"""The audit log of a store: one JSON object per line, appended and synced.

Laws: a line is written whole or not at all, and is never changed; a log that cannot be written
changes nothing else.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgecl_deploy.store.disk import Disk

LOG, OLDER = "log.jsonl", "log.1.jsonl"
LARGEST = 1024 * 1024  # bytes; then it becomes the older one


class Log:
    """The log of one store.

    Args:
        disk: How it writes.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.path, self.older = folder / LOG, folder / OLDER
        self._disk = disk

    def write(self, event: str, time: float, **details: Any) -> None:
        """Append a line.

        Args:
            event: What happened.
            time: Seconds since 1970.
            details: More fields of the line.
        """
        line = json.dumps({"time": round(time, 3), "event": event, **details}, sort_keys=True)
        with suppress(OSError):
            if self.path.exists() and os.path.getsize(self.path) + len(line) > LARGEST:
                self._disk.rename(self.path, self.older)
                self._disk.sync(self.path.parent)  # else the new file may replace the old one
            self._disk.append(self.path, line.encode() + b"\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events, oldest first; a line that is torn or foreign is skipped."""
        for path in (self.older, self.path):
            with suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    with suppress(ValueError):
                        event = json.loads(line)
                        if isinstance(event, dict) and "event" in event:
                            yield event

    def last(self, event: str) -> dict[str, Any] | None:
        """Return the newest line of a kind, whatever the clock was; None if there is none."""
        found = None
        for each in self.read():
            if each["event"] == event:
                found = each
        return found
