"""What a benchmark ran on."""

import platform
from pathlib import Path

import torch


def cpu() -> str:
    """Name the processor and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine() or "unknown processor"


def machine() -> str:
    """Name the processor, the threads in use and the versions that matter."""
    return (
        f"{cpu()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
