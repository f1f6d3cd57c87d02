"""What a benchmark ran on, and of which code."""

import platform
import subprocess
from pathlib import Path

import torch


def cpu() -> str:
    """Name the processor and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine() or "unknown processor"


def commit() -> str | None:
    """Return the commit of this code; None outside of a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def machine() -> str:
    """Name the processor, the instructions it has, the threads in use and the versions."""
    return (
        f"{cpu()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
