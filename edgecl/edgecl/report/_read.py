"""What the pages need from a run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.learning.fields import RecordError
from edgecl.learning.records import TaskRecord
from edgecl.learning.runs import Run
from edgecl.learning.summary import FORMAT, Summary


class ReportError(EdgeclError):
    """A run cannot be reported on as it is."""


@dataclass(frozen=True)
class RunFacts:
    """A run as its report shows it.

    Attributes:
        path: the run folder.
        header: run.json.
        records: of every finished task.
        summary: metrics.json; it may hold fewer tasks than there are records.
    """

    path: Path
    header: dict[str, Any]
    records: tuple[TaskRecord, ...]
    summary: Summary

    @property
    def backbone(self) -> dict[str, Any]:
        """Return what the header holds of the backbone."""
        return self.header.get("backbone") or {}


def read_run(path: Path) -> RunFacts:
    """Read a run folder.

    Raises:
        ReportError: if metrics.json is missing, unreadable or of another format.
    """
    run = Run.open(path)
    file = path / "metrics.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("format") == FORMAT:
            return RunFacts(path, run.header, tuple(run.records()), Summary.from_json(value))
    except (OSError, ValueError, RecordError) as error:
        raise ReportError(
            f"A report needs a readable {file}, got {error}. Finish the run with "
            f"`edgecl train --resume {path}`, which writes it."
        ) from error
    raise ReportError(
        f"This release reports on metrics of the format {FORMAT}, got {value.get('format')!r} in "
        f"{file}. Use the release of edgecl that wrote it, or `edgecl train --resume {path}`, "
        "which writes it again."
    )
