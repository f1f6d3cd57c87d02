"""The page that puts runs beside each other."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgecl.report._html import Html, details, join, section, table, tag
from edgecl.report._pictures import Series, lines
from edgecl.report._read import RunFacts
from edgecl.report._sections import footer
from edgecl.report._words import duration, method_title, percent, points, protocol_words, size

# What is compared: column, figure of a run, how it is written, and whether more is better.
COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], Any], Callable[[Any], str], bool], ...] = (
    ("last accuracy", lambda metrics: metrics["a_last"], percent, True),
    ("average", lambda metrics: metrics["a_avg"], percent, True),
    ("forgetting", lambda metrics: metrics["forgetting"], points, False),
    ("backward transfer", lambda metrics: metrics["bwt"], points, True),
    ("task identified", lambda metrics: metrics["task_id_accuracy"], percent, True),
    ("task matched", lambda metrics: metrics.get("matched_task_accuracy"), percent, True),
    (
        "Transfer (label set given)",
        lambda metrics: _figure(metrics, "mtil", "transfer"),
        percent,
        True,
    ),
    ("Avg (label set given)", lambda metrics: _figure(metrics, "mtil", "avg"), percent, True),
    ("Last (label set given)", lambda metrics: _figure(metrics, "mtil", "last"), percent, True),
    ("CI-Transfer", lambda metrics: _figure(metrics, "ci_transfer", "ci_transfer"), percent, True),
    ("size per task", lambda metrics: _mean(metrics["pack_bytes"]), size, False),
    ("all tasks", lambda metrics: sum(metrics["pack_bytes"]) or None, size, False),
    ("images remembered", lambda metrics: _remembered(metrics) or None, str, False),
    ("learning", lambda metrics: sum(metrics["seconds"]) or None, duration, False),
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
                [
                    Series(name, run.metrics["pooled"])
                    for name, run in zip(names, runs, strict=True)
                ],
                width=760.0,
            ),
            details("The curves as a table", _stages(runs, names)),
        ),
        footer(),
    )


def _masthead(runs: Sequence[RunFacts]) -> Html:
    settings = [
        (
            run.metrics["stream"],
            run.metrics["protocol"],
            run.metrics["seed"],
            (run.header.get("backbone") or {}).get("digest"),
            tuple(run.metrics["tasks"]),
        )
        for run in runs
    ]
    first = runs[0]
    if len(set(settings)) == 1:
        name, sentence = protocol_words(first.metrics["protocol"])
        backbone = (first.header.get("backbone") or {}).get("name")
        on = [", on ", tag("strong", backbone)] if backbone else []
        words = [
            tag("strong", first.metrics["stream"]),
            f", {name}, {len(first.metrics['tasks'])} tasks, seed {first.metrics['seed']}",
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
    for title, figure, show, more in COLUMNS:
        values = [figure(run.metrics) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        head.append(title)
        best = (max if more else min)(known) if len(set(known)) > 1 else None
        columns.append([
            "–"
            if value is None
            else tag("span", show(value), class_="best" if value == best else None)
            for value in values
        ])
    rows = [
        [_link(run, name, out), *(column[index] for column in columns)]
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    return table("The runs", head, rows)


def _stages(runs: Sequence[RunFacts], names: Sequence[str]) -> Html:
    count = max(len(run.metrics["pooled"]) for run in runs)
    rows = []
    for stage in range(count):
        curves = [run.metrics["pooled"] for run in runs]
        cells = [percent(curve[stage]) if stage < len(curve) else "–" for curve in curves]
        rows.append([str(stage + 1), *cells])
    return table("Pooled accuracy after each task", ["tasks learned", *names], rows)


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Name runs by method, and by folder as well where a method stands twice."""
    titles = [method_title(run.metrics["method"]) for run in runs]
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


def _remembered(metrics: dict[str, Any]) -> int:
    """Return the training images that a rehearsal memory holds behind the last task."""
    counts: list[int] = metrics.get("exemplars") or [0]
    return counts[-1]


def _figure(metrics: dict[str, Any], group: str, name: str) -> float | None:
    """Return a figure of methods that read class names; None for others."""
    return (metrics.get(group) or {}).get(name)


def _mean(values: Sequence[float | int]) -> float | None:
    return sum(values) / len(values) if values else None
