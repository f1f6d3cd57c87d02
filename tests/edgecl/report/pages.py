"""Run folders without tensors, and pages as a browser reads them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgecl import report
from edgecl.learning import runs
from edgecl.learning.class_metrics import ClassFigures, ClassTally
from edgecl.learning.pictures import thumbnail
from edgecl.learning.records import Evaluation, TaskRecord
from edgecl.learning.runs import json_bytes
from edgecl.learning.summary import Setting, summarise

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
HOSTILE = "<script>alert('x')</script> & \"co\""


class Page(HTMLParser):
    """Collects what a browser would do with a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def stage(
    accuracy: tuple[float, ...], matched: dict[str, int], square: Matrix | None
) -> Evaluation:
    """Return the evaluation after a task; of ten images of a task one is taken for each other."""
    tasks = len(accuracy)
    return Evaluation(
        accuracy=accuracy,
        images=tuple(10 * (task + 1) for task in range(tasks)),
        confusion=tuple(tuple(9 if i == j else 1 for j in range(tasks)) for i in range(tasks)),
        match=matched,
        oracle=None if square is None else square[tasks - 1],
        open=None if square is None else square[tasks - 1],
    )


def make_run(
    path: Path,
    method: str = "l2p",
    tasks: int = 3,
    loss: float = 0.1,
    histogram: dict[str, int] | None = None,
    *,
    square: Matrix | None = None,
    late: int = 0,
    setting: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a run folder without tensors.

    Args:
        square: accuracies of every stage on every task.
        late: tasks that were not evaluated.
        setting: replaces fields of the setting.
        changes: of the figures.
    """
    header = {
        "format": runs.FORMAT,
        "method": method,
        "config": {"top_k": 5, "schedule": {"lr": 0.01, "clip": None}, "note": HOSTILE},
        "backbone": {"name": "vit-s14", "digest": "3f" * 32},
        "stream": {"name": "emoji-demo"},
        "seed": 1993,
    }
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(header))
    records = [
        TaskRecord(
            task=task,
            name=f"task-{task}",
            classes=(f"cat {task}", HOSTILE),
            known=(HOSTILE,) if task else (),
            class_images=(30, task),
            skipped=(f"{HOSTILE}.png: truncated",) if task == 1 else (),
            seconds=2.5 + task,
        )
        for task in range(tasks + late)
    ]
    for record in records:
        folder = path / "tasks" / f"{record.task:03d}"
        folder.mkdir(parents=True)
        (folder / "task.json").write_text(json.dumps(record.to_json()))
    matrix = [tuple(0.95 - loss * (t - task) for task in range(t + 1)) for t in range(tasks)]
    found = summarise(
        replace(Setting(method, "emoji-demo", "cil", 1993), **setting or {}),
        records,
        [stage(row, histogram or {}, square) for row in matrix],
        [7680] * tasks,
    )
    (path / "metrics.json").write_bytes(json_bytes(replace(found, **changes).to_json()))
    return path


def figures(
    mistakes: int = 0, names: Sequence[str] = ("cat 0", HOSTILE, "cat 1", "cat 2")
) -> ClassFigures:
    """Return figures of classes: so many images of the second were taken for the first."""
    tally = ClassTally(names)
    for name in names[:-1]:  # the last has no image
        tally.add("right.png", name, name, 0.9)
    for index in range(mistakes):
        pixels = np.full((8, 8, 3), index % 256, np.uint8)
        tally.add(f"/far/away/test/hard/{index}.png", names[1], names[0], 1.5, lambda it=pixels: it)
    return tally.figures()


def with_classes(
    run: Path, found: ClassFigures, examples: dict[str, str] | None = None, *, late: Any = None
) -> None:
    """Store the figures of classes as a run does."""
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["classes"] = found.without_pictures().to_json()
    (run / "metrics.json").write_text(json.dumps(metrics))
    folders = sorted((run / "tasks").iterdir())
    stages = len(metrics["tasks"])
    for index, folder in enumerate(folders):
        own = stage((0.5,) * (index + 1), {}, None).to_json()
        own["classes"] = found.to_json() if index == stages - 1 else None
        written_now = own if index < stages else late
        (folder / "evaluation.json").write_text(json.dumps(written_now))
        given = (
            {HOSTILE: thumbnail(np.zeros((8, 8, 3), np.uint8))} if examples is None else examples
        )
        (folder / "examples.json").write_text(json.dumps(given))


def written(run: Path) -> Page:
    return Page(report.write_report(run).read_text(encoding="utf-8"))
