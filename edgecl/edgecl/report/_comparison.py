"""The page that compares runs."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgecl.learning.summary import CiTransfer, Mtil, Summary
from edgecl.report._html import Html, details, join, section, table, tag
from edgecl.report._pictures import Series, lines
from edgecl.report._read import RunFacts
from edgecl.report._sections import footer
from edgecl.report._words import duration, method_title, percent, points, protocol_words, size


@dataclass(frozen=True)
class Column:
    """One figure that is compared.

    Attributes:
        figure: returns it; None where a run has none.
        show: writes it.
        more_is_better: the largest is the best, else the smallest.
    """

    title: str
    figure: Callable[[Summary], float | int | None]
    show: Callable[[float | int], str]
    more_is_better: bool


def of_mtil(figure: Callable[[Mtil], float | None]) -> Callable[[Summary], float | int | None]:
    """Return a figure of MTIL as one of a summary, which may have none."""
    return lambda summary: None if summary.mtil is None else figure(summary.mtil)


def _ci_transfer(summary: Summary) -> float | None:
    found: CiTransfer | None = summary.ci_transfer
    return None if found is None else found.ci_transfer


COLUMNS = (
    Column("last accuracy", lambda summary: summary.a_last, percent, True),
    Column("average", lambda summary: summary.a_avg, percent, True),
    Column("forgetting", lambda summary: summary.forgetting, points, False),
    Column("backward transfer", lambda summary: summary.bwt, points, True),
    Column("task identified", lambda summary: summary.task_id_accuracy, percent, True),
    Column("task matched", lambda summary: summary.matched_task_accuracy, percent, True),
    Column("Transfer (label set given)", of_mtil(lambda mtil: mtil.transfer), percent, True),
    Column("Avg (label set given)", of_mtil(lambda mtil: mtil.avg), percent, True),
    Column("Last (label set given)", of_mtil(lambda mtil: mtil.last), percent, True),
    Column("CI-Transfer", _ci_transfer, percent, True),
    Column("size per task", lambda s: sum(s.pack_bytes) / len(s.pack_bytes), size, False),
    Column("all tasks", lambda summary: sum(summary.pack_bytes), size, False),
    Column("images remembered", lambda summary: summary.exemplars[-1] or None, str, False),
    Column("learning", lambda summary: sum(summary.seconds), duration, False),
)


def body(runs: Sequence[RunFacts], out: Path) -> Html:
    """Return the whole page; links to the runs' own reports are relative to `out`."""
    names = _names(runs)
    return join(
        _masthead(runs),
        section(
            "Figures",
            "Best values are bold. Accuracies are over all test images seen, pooled; forgetting "
            "and backward transfer are in points; sizes are at float16, without manifests.",
            _figures(runs, names, out),
        ),
        section(
            "Accuracy after each task",
            "Over everything learned so far, all test images pooled.",
            lines(
                "Pooled accuracy after each task, one line per run",
                [Series(name, run.summary.pooled) for name, run in zip(names, runs, strict=True)],
                width=760.0,
            ),
            details("The curves as a table", _stages(runs, names)),
        ),
        footer(),
    )


def _masthead(runs: Sequence[RunFacts]) -> Html:
    settings = {
        (
            run.summary.stream,
            run.summary.protocol,
            run.summary.seed,
            run.backbone.get("digest"),
            run.summary.tasks,
        )
        for run in runs
    }
    if len(settings) == 1:
        summary, backbone = runs[0].summary, runs[0].backbone.get("name")
        name, sentence = protocol_words(summary.protocol)
        on = [", on ", tag("strong", backbone)] if backbone else []
        words = [
            tag("strong", summary.stream),
            f", {name}, {len(summary.tasks)} tasks, seed {summary.seed}",
            *on,
            f". {sentence}",
        ]
    else:
        words = [
            tag("strong", "Not all of these runs share stream, protocol, seed, tasks and backbone"),
            ": compare them with care.",
        ]
    return tag(
        "header",
        tag("p", "edgecl runs", class_="over"),
        tag("h1", "Runs side by side"),
        tag("p", *words, class_="facts"),
    )


def _figures(runs: Sequence[RunFacts], names: Sequence[str], out: Path) -> Html:
    head, columns = ["run"], []
    for column in COLUMNS:
        values = [column.figure(run.summary) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        head.append(column.title)
        extreme = max if column.more_is_better else min
        best = extreme(known) if len(set(known)) > 1 else None
        columns.append([
            "–"
            if value is None
            else tag("span", column.show(value), class_="best" if value == best else None)
            for value in values
        ])
    rows = [
        [_link(run, name, out), *(cells[index] for cells in columns)]
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    return table("The runs", head, rows)


def _stages(runs: Sequence[RunFacts], names: Sequence[str]) -> Html:
    curves = [run.summary.pooled for run in runs]
    rows = []
    for stage in range(max(map(len, curves))):
        cells = [percent(curve[stage]) if stage < len(curve) else "–" for curve in curves]
        rows.append([str(stage + 1), *cells])
    return table("Pooled accuracy after each task", ["tasks learned", *names], rows)


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Name runs by method, and by folder as well where several have the same method."""
    titles = [method_title(run.summary.method) for run in runs]
    often = Counter(titles)
    return [
        title if often[title] == 1 else f"{run.path.resolve().name} ({title})"
        for title, run in zip(titles, runs, strict=True)
    ]


def _link(run: RunFacts, name: str, out: Path) -> str:
    report = run.path / "report.html"
    if not report.exists():
        return name
    relative = Path(os.path.relpath(report, out.parent)).as_posix()
    return tag("a", name, href=quote(relative))
