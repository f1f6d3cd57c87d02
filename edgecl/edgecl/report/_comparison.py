"""The page that compares runs; runs that differ in their seed alone are one row."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgecl.learning import metrics
from edgecl.learning.summary import CiTransfer, Mtil, Summary
from edgecl.learning.task_figures import TaskGiven
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


def of_xtail(figure: Callable[[Mtil], float | None]) -> Callable[[Summary], float | int | None]:
    """Return a figure of X-TAIL as one of a summary, which may have none."""
    return lambda summary: None if summary.xtail is None else figure(summary.xtail)


def of_given(
    figure: Callable[[TaskGiven], float | None],
) -> Callable[[Summary], float | int | None]:
    """Return a figure with the task given as one of a summary, which may have none."""
    return lambda summary: None if summary.task_given is None else figure(summary.task_given)


def _ci_transfer(summary: Summary) -> float | None:
    found: CiTransfer | None = summary.ci_transfer
    return None if found is None else found.ci_transfer


def _held_out(summary: Summary) -> float | None:
    """Return the mean over the tasks that were never trained, if there are."""
    last = [task.last for task in summary.held_out]
    return metrics.average(last) if last else None


COLUMNS = (
    Column("last accuracy", lambda summary: summary.a_last, percent, True),
    Column("average", lambda summary: summary.a_avg, percent, True),
    Column("forgetting", lambda summary: summary.forgetting, points, False),
    Column("backward transfer", lambda summary: summary.bwt, points, True),
    Column("last accuracy (task given)", of_given(lambda given: given.a_last), percent, True),
    Column("forward transfer (task given)", of_given(lambda given: given.fwt), points, True),
    Column("held out", _held_out, percent, True),
    Column("task identified", lambda summary: summary.task_id_accuracy, percent, True),
    Column("task matched", lambda summary: summary.matched_task_accuracy, percent, True),
    Column("Transfer (label set given)", of_mtil(lambda mtil: mtil.transfer), percent, True),
    Column("Avg (label set given)", of_mtil(lambda mtil: mtil.avg), percent, True),
    Column("Last (label set given)", of_mtil(lambda mtil: mtil.last), percent, True),
    Column("Transfer (X-TAIL)", of_xtail(lambda xtail: xtail.transfer), percent, True),
    Column("Avg (X-TAIL)", of_xtail(lambda xtail: xtail.avg), percent, True),
    Column("Last (X-TAIL)", of_xtail(lambda xtail: xtail.last), percent, True),
    Column("CI-Transfer", _ci_transfer, percent, True),
    Column("size per task", lambda s: sum(s.pack_bytes) / len(s.pack_bytes), size, False),
    Column("all tasks", lambda summary: sum(summary.pack_bytes), size, False),
    Column("images remembered", lambda summary: summary.exemplars[-1] or None, str, False),
    Column("learning", lambda summary: sum(summary.seconds), duration, False),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, or a single run.

    Attributes:
        name: of its row and its line.
        runs: in the order in which they were named.
    """

    name: str
    runs: tuple[RunFacts, ...]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds, in order."""
        return sorted(run.summary.seed for run in self.runs)

    def values(self, column: Column) -> list[float | int] | None:
        """Return one figure of every run; None where a run has none."""
        found = [column.figure(run.summary) for run in self.runs]
        known = [value for value in found if value is not None]
        return known if len(known) == len(found) else None

    def pooled(self) -> list[float | None]:
        """Return the accuracy of every stage, the mean of the runs; None where one has none."""
        stages = zip(*(run.summary.pooled for run in self.runs), strict=True)
        return [None if None in values else statistics.fmean(values) for values in stages]


def body(runs: Sequence[RunFacts], out: Path) -> Html:
    """Return the whole page; links to the runs' own reports are relative to `out`."""
    names = _names(runs)
    groups = _groups(runs, names)
    several = len(groups) < len(runs)
    every = _figures(runs, names, out)
    parts = [_summary(groups), details("Each run", every)] if several else [every]
    lead = (
        "Best values are bold. Accuracies are over all test images seen, pooled; forgetting "
        "and backward transfer are in points; sizes are at float16, without manifests."
    )
    if several:
        lead += (
            " Runs that differ in their seed alone are one row: the mean, ± the sample standard "
            "deviation (n - 1) over its seeds."
        )
    kind = "method, the mean of its seeds" if several else "run"
    return join(
        _masthead(runs, groups),
        section("Figures", lead, *parts),
        section(
            "Accuracy after each task",
            "Over everything learned so far, all test images pooled.",
            lines(
                f"Pooled accuracy after each task, one line per {kind}",
                [Series(group.name, tuple(group.pooled())) for group in groups],
                width=760.0,
            ),
            details("The curves as a table", _stages(groups)),
        ),
        footer(),
    )


def _groups(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Group]:
    """Put runs of the same method, settings, images and backbone together if their seeds differ."""
    found: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        found.setdefault(_setting(run), []).append(index)
    titles = Counter(method_title(runs[rows[0]].summary.method) for rows in found.values())
    groups = []
    for rows in found.values():
        mine = [runs[row] for row in rows]
        title = method_title(mine[0].summary.method)
        if len({run.summary.seed for run in mine}) < len(mine):  # the same run twice is no sample
            groups += [Group(names[row], (runs[row],)) for row in rows]
        elif len(rows) == 1:
            groups.append(Group(names[rows[0]], tuple(mine)))
        else:
            folders = f"{mine[0].path.resolve().name}, ... ({title})"
            groups.append(Group(title if titles[title] == 1 else folders, tuple(mine)))
    return groups


def _setting(run: RunFacts) -> str:
    """Return what runs of one group have in common.

    A seed of the class order is none of it; that there is one is.
    """
    summary = run.summary
    spec = run.header.get("stream") or {}
    stream = {key: value for key, value in spec.items() if key != "seed" or value is None}
    return json.dumps(
        [
            *(summary.method, summary.stream, summary.protocol, stream),
            *(len(summary.tasks), [task.name for task in summary.held_out]),
            *(run.backbone.get("digest"), run.header.get("config")),
            *(run.header.get("augment"), run.header.get("views", 0)),
        ],
        sort_keys=True,
        default=str,
    )


def _summary(groups: Sequence[Group]) -> Html:
    """Return the mean and the spread of every figure over the seeds of each group."""
    head, columns = ["method", "seeds"], []
    for column in COLUMNS:
        values = [group.values(column) for group in groups]
        means = [None if each is None else statistics.fmean(each) for each in values]
        known = [mean for mean in means if mean is not None]
        if not known:
            continue
        head.append(column.title)
        best = (max if column.more_is_better else min)(known) if len(set(known)) > 1 else None
        columns.append([
            "–" if each is None or mean is None else _spread(column, each, mean, mean == best)
            for each, mean in zip(values, means, strict=True)
        ])
    rows = [
        [group.name, str(len(group.runs)), *(cells[index] for cells in columns)]
        for index, group in enumerate(groups)
    ]
    return table("The methods, over their seeds", head, rows)


def _spread(column: Column, values: Sequence[float | int], mean: float, best: bool) -> Html:
    shown = column.show(round(mean) if column.show is str else mean)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        shown += f" ± {column.show(round(deviation) if column.show is str else deviation)}"
    return tag("span", shown, class_="best" if best else None)


def _masthead(runs: Sequence[RunFacts], groups: Sequence[Group]) -> Html:
    settings = {
        (
            group.runs[0].summary.stream,
            group.runs[0].summary.protocol,
            tuple(group.seeds),
            group.runs[0].backbone.get("digest"),
            group.runs[0].summary.tasks,
        )
        for group in groups
    }
    if len(settings) == 1:
        summary, backbone = runs[0].summary, runs[0].backbone.get("name")
        name, sentence = protocol_words(summary.protocol)
        on = [", on ", tag("strong", backbone)] if backbone else []
        seeds = groups[0].seeds
        of_seeds = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
        words = [
            tag("strong", summary.stream),
            f", {name}, {len(summary.tasks)} tasks, {of_seeds}",
            *on,
            f". {sentence}",
        ]
    else:
        words = [
            tag(
                "strong", "Not all of these runs share stream, protocol, seeds, tasks and backbone"
            ),
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


def _stages(groups: Sequence[Group]) -> Html:
    curves = [group.pooled() for group in groups]
    rows = []
    for stage in range(max(map(len, curves))):
        cells = [percent(curve[stage]) if stage < len(curve) else "–" for curve in curves]
        rows.append([str(stage + 1), *cells])
    names = [group.name for group in groups]
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
