"""Digests of what a run holds."""

import hashlib

from edgecl.learning.runs import Run


def bytes_of(run: Run) -> dict[str, str]:
    """Return the digest of every file of a run but its locks."""
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.path.rglob("*")
        if (path.is_file() and path.parent != run.path) or not path.name.startswith(".")
        if path.is_file()
    }


def tensors_of(run: Run) -> list[str]:
    return [hashlib.sha256((run.path / f"tasks/{task:03d}/learned.safetensors").read_bytes())
            .hexdigest() for task in range(len(run))]  # fmt: skip
