"""What the pages need from a run folder."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.learning.augment.augmentation import Plan
from edgecl.learning.class_metrics import ClassFigures
from edgecl.learning.fields import RecordError
from edgecl.learning.records import Evaluation, TaskRecord
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
        classes: the figures of each class at the last stage, with pictures of the mistakes.
        examples: small pictures of training images, by class.
        later: of each task that the summary does not hold, its evaluation on its own test images.
    """

    path: Path
    header: dict[str, Any]
    records: tuple[TaskRecord, ...]
    summary: Summary
    classes: ClassFigures | None = None
    examples: dict[str, str] = field(default_factory=dict)
    later: tuple[Evaluation | None, ...] = ()

    @property
    def backbone(self) -> dict[str, Any]:
        """Return what the header holds of the backbone."""
        return self.header.get("backbone") or {}

    @property
    def plan(self) -> Plan | None:
        """Return how training images were augmented; None where they were not."""
        return Plan.from_header(self.header)


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
            return _facts(run, Summary.from_json(value))
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


def _facts(run: Run, summary: Summary) -> RunFacts:
    """Add the records, and the pictures where there are figures of classes."""
    records, stages = tuple(run.records()), len(summary.tasks)
    facts = RunFacts(run.path, run.header, records, summary)
    if summary.classes is None:
        return facts
    last = run.evaluation(stages - 1)
    found = None if last is None else last.classes
    examples: dict[str, str] = {}
    for task in range(len(records)):
        for name, picture in run.examples(task).items():
            examples.setdefault(name, picture)
    return replace(
        facts,
        classes=summary.classes if found is None else found,
        examples=examples,
        later=tuple(run.evaluation(task) for task in range(stages, len(records))),
    )
