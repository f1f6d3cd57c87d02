"""The parts of one run's page."""

from itertools import accumulate
from typing import Any

from edgecl.learning.metrics import by_name
from edgecl.report._html import Html, details, join, section, table, tag
from edgecl.report._pictures import Bar, Series, bars, heat_map, lines
from edgecl.report._read import RunFacts
from edgecl.report._words import (
    duration,
    flat,
    method_paper,
    method_title,
    percent,
    points,
    protocol_words,
    size,
)

PILOT = "https://arxiv.org/abs/2309.07117"
CHAUDHRY = "https://arxiv.org/abs/1801.10112"
GEM = "https://arxiv.org/abs/1706.08840"
ICARL = "https://arxiv.org/abs/1611.07725"
ZSCL = "https://arxiv.org/abs/2303.06628"
CGIL = "https://arxiv.org/abs/2407.15793"


def masthead(run: RunFacts) -> Html:
    """Return what was run, under which protocol."""
    metrics = run.metrics
    name, sentence = protocol_words(metrics["protocol"])
    backbone = run.header.get("backbone") or {}
    facts = [
        tag("strong", metrics["stream"]),
        f", {name}, {_tasks(len(metrics['tasks']))}, seed {metrics['seed']}",
    ]
    if backbone.get("name"):
        facts += [", on ", tag("strong", backbone["name"])]
    left_out = metrics.get("not_evaluated") or []
    if left_out:
        sentence += (
            f" {_tasks(len(left_out))} learned later without test images of all tasks "
            f"({', '.join(left_out)}) and not in the accuracies."
        )
    return tag(
        "header",
        tag("p", "edgecl run", class_="over"),
        tag("h1", method_title(metrics["method"])),
        tag("p", *facts, ". ", sentence, method_paper(metrics["method"]), class_="facts"),
        _headline(metrics),
    )


def _headline(metrics: dict[str, Any]) -> Html:
    packs = metrics["pack_bytes"]
    figures = [
        (percent(metrics["a_last"]), "accuracy after the last task, all test images pooled"),
        (percent(metrics["a_avg"]), "average of that accuracy over the stages"),
        (points(metrics["forgetting"]), "points forgotten"),
        (points(metrics["bwt"]), "points of backward transfer"),
        (percent(metrics["task_id_accuracy"]), "task identified, by predicted class"),
    ]
    if metrics.get("matched_confusion"):
        figures.append((percent(metrics["matched_task_accuracy"]), "task matched"))
    if packs:
        figures.append((size(sum(packs) / len(packs)), "per task, at float16"))
    if metrics["seconds"]:
        figures.append((duration(sum(metrics["seconds"])), "of learning"))
    entries = [
        tag("div", tag("dt", words), tag("dd", figure), class_=None if index else "main")
        for index, (figure, words) in enumerate(figures)
    ]
    return tag("dl", *entries, class_="figures")


def accuracy(run: RunFacts) -> Html:
    """Return the accuracy matrix and the curves over the tasks."""
    matrix = run.metrics["matrix"]
    count = len(matrix)
    cells = [[*row, *[None] * (count - len(row))] for row in matrix]
    lowest = min(value for row in matrix for value in row)
    low = min(max(0.0, int(lowest * 10) / 10), 0.8)
    grid = heat_map(
        "Accuracy on each task after each task learned, in per cent",
        cells,
        row_axis="after task",
        column_axis="on the test images of task",
        low=low,
    )
    head = ["after task", *(str(index + 1) for index in range(count))]
    rows = [
        [str(stage + 1), *(percent(value) if value is not None else "" for value in row)]
        for stage, row in enumerate(cells)
    ]
    numbers = details("The matrix as a table", table("Accuracy on task (columns)", head, rows))
    return section(
        "Accuracy",
        "The grid holds what each stage knows of every task; read down a column to see one fade. "
        "The curve is the accuracy over everything learned so far.",
        tag(
            "div",
            tag("div", grid, numbers),
            tag("div", *_curves(run.metrics)),
            class_="pair",
        ),
        _definitions(run.metrics),
    )


def _curves(metrics: dict[str, Any]) -> list[Html]:
    pooled, mean = metrics["pooled"], metrics["task_mean"]
    same = all(abs(a - b) < 5e-4 for a, b in zip(pooled, mean, strict=True))
    series = [Series("pooled", pooled)]
    if not same:
        series.append(Series("mean of tasks", mean))
    picture = lines("Accuracy over all tasks learned so far, after each task", series)
    rows = [
        [str(stage + 1), percent(pooled[stage]), percent(mean[stage])]
        for stage in range(len(pooled))
    ]
    head = ["tasks learned", "pooled", "mean of tasks"]
    words = "Pooled and mean of tasks agree: the test sets are of (nearly) equal size."
    return [
        picture,
        *([tag("p", words, class_="note")] if same and len(pooled) > 1 else []),
        details("The curves as a table", table("Accuracy after each task", head, rows)),
    ]


def _definitions(metrics: dict[str, Any]) -> Html:
    return tag(
        "p",
        "Pooled: over the union of all test images seen (",
        tag("a", "PILOT", href=PILOT),
        "); mean of tasks: every task counts the same, ",
        f"{percent(metrics['a_last_task_mean'])} at the end and ",
        f"{percent(metrics['a_avg_task_mean'])} on average. The average is over stages (",
        tag("a", "iCaRL", href=ICARL),
        "). Forgetting: best minus last accuracy of a task, the last stage inside the maximum, so "
        "it is never negative; the ",
        tag("a", "older definition", href=CHAUDHRY),
        " leaves the last stage out. Backward transfer: last accuracy minus the one right after "
        "learning (",
        tag("a", "GEM", href=GEM),
        ").",
        class_="note",
    )


def transfer(run: RunFacts) -> Html:
    """Return the figures of classes that are known by name, each with its oracle, if there are."""
    metrics = run.metrics
    named = by_name(metrics)
    if not named:
        return Html()
    rows = [[name, oracle, percent(value)] for name, value, oracle in named]
    grids = []
    for key, words in (
        ("mtil", "Among the classes of the image's task"),
        ("ci_transfer", "Among the classes of all tasks"),
    ):
        if figures := metrics.get(key):
            picture = heat_map(
                f"Accuracy on every task, learned or not, {words.lower()}, in per cent",
                figures["matrix"],
                row_axis="after task",
                column_axis="on the test images of task",
                diagonal=True,
            )
            grids.append(tag("div", tag("h3", words), picture))
    parts: list[str] = [tag("div", *grids, class_="pair")]
    if mtil := metrics.get("mtil"):
        tasks = zip(metrics["tasks"], *mtil["tasks"].values(), strict=True)
        each = [[name, *map(percent, values)] for name, *values in tasks]
        head = ["task", "Transfer", "Avg", "Last"]
        parts.append(details("Each task", table("Label set of the task given", head, each)))
    return section(
        "By name",
        "What the method knows of tasks that it has not learned, by the names of their classes. "
        "Their candidates are not those of the accuracies above: do not compare the two. The "
        "framed cells are the stages that learned the task.",
        table("Figures and their oracle", ["figure", "oracle", "mean"], rows, text_columns=2),
        *parts,
        tag(
            "p",
            "Transfer: accuracy on a task before it is learned, mean over those stages, then over "
            "the tasks but the first; Avg: mean over all stages; Last: after the last one (",
            tag("a", "ZSCL", href=ZSCL),
            "). CI-Transfer: accuracy on the tasks not yet learned over the classes of all tasks, "
            "mean over those tasks, then over the stages but the last (",
            tag("a", "CGIL", href=CGIL),
            ").",
            class_="note",
        ),
    )


def matching(run: RunFacts) -> Html:
    """Return which task was inferred and which entries of a pool were matched, if known."""
    metrics = run.metrics
    parts = []
    for key, what in (("matched_confusion", "matched"), ("task_confusion", "inferred")):
        if counts := metrics.get(key):
            parts.append(confused_tasks(counts, what))
    histogram = metrics["match_histogram"]
    if any(int(index) for index in histogram):
        total = sum(histogram.values())
        last = max(map(int, histogram))
        histogram = {str(index): histogram.get(str(index), 0) for index in range(last + 1)}
        entries = [Bar(index, histogram[index] / total) for index in histogram]
        picture = bars(
            "Share of matches by entry of the pool", entries, "entry of the pool", percent
        )
        rows = [
            [index, str(histogram[index]), percent(histogram[index] / total)] for index in histogram
        ]
        counts = table("Matches by entry of the pool", ["entry", "matches", "share"], rows)
        parts.append(
            tag(
                "div",
                tag("h3", "Use of the pool"),
                picture,
                details("The counts as a table", counts),
            )
        )
    if not parts:
        return Html()
    return section(
        "Matching",
        "At the last stage, one image at a time. The inferred task is the one that owns the "
        "predicted class, the matched one gave its injection; framed cells are right.",
        tag("div", *parts, class_="pair"),
    )


def confused_tasks(confusion: list[list[int]], what: str) -> Html:
    """Return which task was found for the test images of each, as a picture and a table."""
    shares: list[list[float | None]] = [
        [count / max(sum(row), 1) for count in row] for row in confusion
    ]
    picture = heat_map(
        f"Share of each task's test images by the task that was {what}, in per cent",
        shares,
        row_axis="true task",
        column_axis=f"{what} task",
        diagonal=True,
    )
    head = ["true task", *(str(index + 1) for index in range(len(confusion)))]
    rows = [[str(index + 1), *map(str, row)] for index, row in enumerate(confusion)]
    counts = table(f"Test images by {what} task (columns)", head, rows)
    heading = tag("h3", f"{what.capitalize()} task")
    return tag("div", heading, picture, details("The counts as a table", counts))


def costs(run: RunFacts) -> Html:
    """Return sizes and seconds per task."""
    metrics = run.metrics
    parts = []
    packs = metrics["pack_bytes"]
    if packs:
        before = [0, *accumulate(packs)]
        entries = [Bar(str(index + 1), packed, before[index]) for index, packed in enumerate(packs)]
        title = "Size of each task's learned tensors on top of those before"
        words = "Bytes sent so far, this task's darker"
        parts.append(tag("div", tag("h3", words), bars(title, entries, "task", size)))
    if metrics["seconds"]:
        entries = [Bar(str(index + 1), value) for index, value in enumerate(metrics["seconds"])]
        title = "Seconds of learning per task"
        parts.append(tag("div", tag("h3", "Time to learn"), bars(title, entries, "task", duration)))
    if not parts:
        return Html()
    return section(
        "Cost",
        "What a device receives for each task, without the manifest and at float16, and how long "
        "the task took to learn.",
        tag("div", *parts, class_="pair"),
        tag("p", _memory(metrics), class_="note"),
    )


def _memory(metrics: dict[str, Any]) -> str:
    """Say what the workstation keeps for later tasks."""
    kept, images = metrics.get("state_bytes") or [0], metrics.get("exemplars") or [0]
    if not kept[-1]:
        return "The workstation keeps nothing but what ships and one training image per task."
    remembered = f"{images[-1]} training images" if images[-1] else "no training image"
    return (
        f"Behind the last task the workstation keeps {size(kept[-1])} for later ones, {remembered} "
        "among it, besides what ships and one training image per task for self-tests."
    )


def tasks(run: RunFacts) -> Html:
    """Return the table of the tasks, their classes and the images that were skipped."""
    rows = [_task_row(run.metrics, index, record) for index, record in enumerate(run.records)]
    head = [
        *("task", "name", "classes", "training images", "test images", "when learned"),
        *("at the end", "size", "cumulated", "time", "skipped"),
    ]
    words = []
    for index, record in enumerate(run.records):
        known = set(record.get("known", []))
        names = [tag("li", name, " (known)" if name in known else "") for name in record["classes"]]
        words += [tag("h3", f"{index + 1}. {record['name']}"), tag("ul", *names, class_="words")]
    skipped = [
        tag("li", f"task {index + 1}: {_skip(entry)}")
        for index, record in enumerate(run.records)
        for entry in record.get("skipped", [])
    ]
    lost = (
        details(f"Skipped images ({len(skipped)})", tag("ul", *skipped))
        if skipped
        else tag("p", "No image was skipped.", class_="note")
    )
    return section(
        "Tasks",
        "Accuracies are those on the task's own test images.",
        table("The tasks, in the order learned", head, rows, text_columns=2),
        details("Classes of each task", *words),
        lost,
    )


def _task_row(metrics: dict[str, Any], index: int, record: dict[str, Any]) -> list[str]:
    evaluated = index < len(metrics["matrix"])
    packs, last = metrics["pack_bytes"], metrics["matrix"][-1]
    sized = index < len(packs)
    return [
        str(index + 1),
        str(record["name"]),
        str(len(record["classes"])),
        str(record["train_images"]),
        str(metrics["test_images"][index]) if evaluated else "–",
        percent(metrics["matrix"][index][index] if evaluated else None),
        percent(last[index] if evaluated else None),
        size(packs[index]) if sized else "–",
        size(sum(packs[: index + 1])) if sized else "–",
        duration(record["seconds"]),
        str(len(record.get("skipped", []))),
    ]


def _skip(entry: Any) -> str:
    """Write a skipped image: a line of text, or a path with its reason."""
    if isinstance(entry, dict):
        return ", ".join(str(value) for value in entry.values())
    return ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)


def configuration(run: RunFacts) -> Html:
    """Return everything that run.json says."""
    rows = [list(pair) for pair in flat(run.header)]
    whole = table("Configuration of the run", ["name", "value"], rows, text_columns=2)
    return section(
        "Configuration",
        "With the same images and versions, these values make the same run.",
        tag("div", details("All values", tag("div", whole, class_="prose"))),
    )


def footer() -> Html:
    """Return the last line."""
    words = "Made by edgecl from the run folder; nothing in this page is loaded from elsewhere."
    return tag("footer", words)


def body(run: RunFacts) -> Html:
    """Return the whole page of a run."""
    parts = (masthead, accuracy, transfer, matching, costs, tasks, configuration)
    return join(*(part(run) for part in parts), footer())


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
