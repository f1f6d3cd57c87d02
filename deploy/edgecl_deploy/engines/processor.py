"""What this machine computes with."""

import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores this process may use.

    By themselves engines count all of the machine and pin their threads to them, which ignores
    a container's CPU set and slows two-pass programs where cores are virtual
    (benchmarks/results/program_overhead_own_threads.json).
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the system's name for the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model"} and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
