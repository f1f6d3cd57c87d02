"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use: those of a container's CPU set, for example."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
