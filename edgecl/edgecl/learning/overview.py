"""What people who have twenty runs want to see of each, without its tensors."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.learning.runs import HEADER, LOCK, Run
from edgecl_deploy.manifest.lock import held_by

DEEPEST = 3  # folders below the one that is searched


@dataclass(frozen=True)
class RunFacts:
    """A run in one line.

    Attributes:
        tasks: finished.
        stream_tasks: of its stream.
        a_last: accuracy after the last task that was evaluated; None if none was.
        undoable: tasks that can be taken back.
        size: bytes of all files.
        kept_bytes: of them, what is kept for `edgecl undo` and `edgecl forget`.
        changed: when a task was finished last, or the run was begun, in UTC.
        locked_by: who changes it right now.
        damage: why it cannot be read; the other figures are then those that can.
    """

    path: str
    method: str = "?"
    stream: str = "?"
    tasks: int = 0
    stream_tasks: int = 0
    classes: int = 0
    a_last: float | None = None
    undoable: int = 0
    size: int = 0
    kept_bytes: int = 0
    changed: str = ""
    locked_by: str | None = None
    damage: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder, itself included, in the order of their paths.

    Raises:
        EdgeclError: if it is no folder.
    """
    if not folder.is_dir():
        raise EdgeclError(f"Runs are in a folder, got {folder}. Check the path.")
    for parent, names, files in os.walk(folder):
        names.sort()
        if HEADER in files:
            names.clear()
            yield Path(parent)
        elif len(Path(parent).relative_to(folder).parts) >= DEEPEST:
            names.clear()


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for parent, _, names in os.walk(folder):
        yield from ((parent, name) for name in names)


def _size(file: str) -> int:
    """Return the bytes of a file; none of one that was replaced meanwhile."""
    try:
        return os.lstat(file).st_size
    except FileNotFoundError:
        return 0


def run_facts(path: Path) -> RunFacts:
    """Return a run in one line; one that cannot be read says why."""
    size = sum(map(_size, (os.path.join(*found) for found in _files(path))))
    locked = held_by(path / LOCK) if (path / LOCK).exists() else None
    try:
        run = Run.open(path)
        records = run.records()
        newest = path / "tasks" / f"{len(records) - 1:03d}" if records else path / HEADER
        changed = datetime.fromtimestamp(newest.stat().st_mtime, timezone.utc)
        return RunFacts(
            path=str(path),
            method=run.header["method"],
            stream=(run.header["stream"] or {}).get("name", "folders"),
            tasks=len(records),
            stream_tasks=run.header.get("stream_tasks", 0),
            classes=len({name for record in records for name in record.classes}),
            a_last=last_accuracy(path),
            undoable=run.undoable(),
            size=size,
            kept_bytes=run.kept_bytes(),
            changed=changed.isoformat(timespec="seconds"),
            locked_by=locked,
        )
    except (EdgeclError, KeyError, OSError) as error:
        return RunFacts(str(path), size=size, locked_by=locked, damage=str(error))


def last_accuracy(path: Path) -> float | None:
    """Return A_last of metrics.json; None without a readable one."""
    try:
        value = json.loads((path / "metrics.json").read_text(encoding="utf-8"))["a_last"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None


def task_rows(path: Path) -> list[dict[str, Any]]:
    """Return what `edgecl runs show` prints of each task."""
    run = Run.open(path)
    return [
        {
            "task": record.task,
            "name": record.name,
            "classes": list(record.classes),
            "images": record.train_images,
            "skipped": len(record.skipped),
            "seconds": record.seconds,
            "state_bytes": run.state_bytes(record.task),
        }
        for record in run.records()
    ]
