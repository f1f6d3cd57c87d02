"""What the cells of a sweep give: means over seeds."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.sweep.plan import Cell


@dataclass(frozen=True)
class Group:
    """A method on a stream, over the seeds that are done.

    Attributes:
        seeds: that are done.
        last: mean accuracy after the last task.
        average: mean over seeds of the average over tasks.
        spread: sample standard deviation of `average`, None of fewer than two seeds.
    """

    name: str
    seeds: tuple[int, ...]
    last: float
    average: float
    spread: float | None

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"seeds": list(self.seeds)}


def summed(cells: Sequence[Cell], folder: Path) -> list[Group]:
    """Sum up the runs that have figures, in the order of the plan."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for cell in cells:
        try:
            metrics = json.loads((folder / cell.name / "metrics.json").read_text("utf-8"))
            row = (cell.seed, float(metrics["a_last"]), float(metrics["a_avg"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.setdefault(cell.group, []).append(row)
    groups = []
    for name, rows in found.items():
        seeds, last, average = zip(*rows, strict=True)
        spread = statistics.stdev(average) if len(average) > 1 else None
        groups.append(Group(name, seeds, statistics.mean(last), statistics.mean(average), spread))
    return groups
