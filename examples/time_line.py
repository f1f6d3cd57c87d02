"""The time line that demos print and keep."""

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console


@dataclass
class Line:
    """What happened, and when, in seconds since the begin."""

    began: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def say(self, who: str, what: str) -> None:
        """Add an event."""
        at = round(time.monotonic() - self.began, 1)
        self.events.append({"seconds": at, "who": who, "what": what})
        self.console.print(f"{at:7.1f} s  {who:<12} {what}", soft_wrap=True)
