"""What the pages need from a run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.learning.metrics import FORMAT
from edgecl.learning.runs import Run


class ReportError(EdgeclError):
    """A run cannot be reported on as it is."""


@dataclass(frozen=True)
class RunFacts:
    """A run as its report shows it.

    Attributes:
        path: the run folder.
        header: run.json.
        records: task.json of every finished task.
        metrics: metrics.json; it may hold fewer tasks than there are records.
    """

    path: Path
    header: dict[str, Any]
    records: list[dict[str, Any]]
    metrics: dict[str, Any]


def read_run(path: Path) -> RunFacts:
    """Read a run folder.

    Raises:
        ReportError: if metrics.json is missing, unreadable or of another format.
    """
    run = Run.open(path)
    file = path / "metrics.json"
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(
            f"A report needs a readable {file}, got {error}. Finish the run with "
            f"`edgecl train --resume {path}`, which writes it."
        ) from error
    if not isinstance(metrics, dict) or metrics.get("format") != FORMAT:
        found = metrics.get("format") if isinstance(metrics, dict) else type(metrics).__name__
        raise ReportError(
            f"This release reports on metrics of the format {FORMAT}, got {found!r} in {file}. "
            "Use the release of edgecl that wrote it."
        )
    records = [run.record(task) for task in range(len(run))]
    return RunFacts(path, run.header, records, metrics)
