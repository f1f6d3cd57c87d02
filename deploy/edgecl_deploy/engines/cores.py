"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use.

    By themselves engines count all of the machine and pin their threads to them, which ignores
    a container's CPU set and slows two-pass programs where cores are virtual
    (benchmarks/results/program_overhead_own_threads.json).
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
