"""The parts of one run's page."""

from itertools import accumulate

from edgecl.learning.records import Counts, TaskRecord
from edgecl.learning.summary import Summary
from edgecl.learning.unknown_figures import BINS, UnknownFigures
from edgecl.report._classes import classes, pictures
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

SKIPPED = 200  # lines
PILOT = "https://arxiv.org/abs/2309.07117"
CHAUDHRY = "https://arxiv.org/abs/1801.10112"
GEM = "https://arxiv.org/abs/1706.08840"
ICARL = "https://arxiv.org/abs/1611.07725"
ZSCL = "https://arxiv.org/abs/2303.06628"
CGIL = "https://arxiv.org/abs/2407.15793"


def masthead(run: RunFacts) -> Html:
    """Return what was run, under which protocol."""
    summary, backbone = run.summary, run.backbone.get("name")
    name, sentence = protocol_words(summary.protocol)
    facts = [
        tag("strong", summary.stream),
        f", {name}, {_tasks(len(summary.tasks))}, seed {summary.seed}",
    ]
    if backbone:
        facts += [", on ", tag("strong", backbone)]
    if run.plan is not None:
        facts += [f", training images augmented ({run.plan})"]
    left_out = summary.not_evaluated
    if left_out:
        sentence += (
            f" {_tasks(len(left_out))} learned later without test images of all tasks "
            f"({', '.join(left_out)}) and not in the accuracies."
        )
    if untested := summary.untested:
        sentence += (
            f" {_tasks(len(untested))} without a test image ({', '.join(untested)}): no accuracy "
            "is known of these."
        )
    return tag(
        "header",
        tag("p", "edgecl run", class_="over"),
        tag("h1", method_title(summary.method)),
        tag("p", *facts, ". ", sentence, method_paper(summary.method), class_="facts"),
        _headline(summary),
    )


def _headline(summary: Summary) -> Html:
    packs = summary.pack_bytes
    figures = [
        (percent(summary.a_last), "accuracy after the last task, all test images pooled"),
        (percent(summary.a_avg), "average of that accuracy over the stages"),
        (points(summary.forgetting), "points forgotten"),
        (points(summary.bwt), "points of backward transfer"),
        (percent(summary.task_id_accuracy), "task identified, by predicted class"),
    ]
    if summary.a_auc is not None:
        figures.append((percent(summary.a_auc), "area under the accuracy over the images (A_AUC)"))
    if summary.matched_confusion:
        figures.append((percent(summary.matched_task_accuracy), "task matched"))
    figures.append((size(sum(packs) / len(packs)), "per task, at float16"))
    figures.append((duration(sum(summary.seconds)), "of learning"))
    entries = [
        tag("div", tag("dt", words), tag("dd", figure), class_=None if index else "main")
        for index, (figure, words) in enumerate(figures)
    ]
    return tag("dl", *entries, class_="figures")


def accuracy(run: RunFacts) -> Html:
    """Return the accuracy matrix and the curves over the tasks."""
    matrix = run.summary.matrix
    count = len(matrix)
    cells = [[*row, *[None] * (count - len(row))] for row in matrix]
    lowest = min((value for row in matrix for value in row if value is not None), default=0.0)
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
        "The grid holds the accuracy of each stage on every task; read down a column to see one "
        "fade. "
        "The curve is the accuracy over everything learned so far.",
        tag(
            "div",
            tag("div", grid, numbers),
            tag("div", *_curves(run.summary)),
            class_="pair",
        ),
        _definitions(run.summary),
    )


def _curves(summary: Summary) -> list[Html]:
    pooled, mean = summary.pooled, summary.task_mean
    same = all(
        a is None or b is None or abs(a - b) < 5e-4 for a, b in zip(pooled, mean, strict=True)
    )
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


def _definitions(summary: Summary) -> Html:
    return tag(
        "p",
        "Pooled: over the union of all test images seen (",
        tag("a", "PILOT", href=PILOT),
        "); mean of tasks: every task counts the same, ",
        f"{percent(summary.a_last_task_mean)} at the end and ",
        f"{percent(summary.a_avg_task_mean)} on average. The average is over stages (",
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
    summary = run.summary
    figures = summary.by_name()
    if not figures:
        return Html()
    rows = [[name, oracle, percent(value)] for name, value, oracle in figures]
    return section(
        "By name",
        "Accuracies on tasks that were not learned yet, by the names of their classes. Their "
        "candidates are not those of the accuracies above: do not compare the two. The framed "
        "cells are the stages that learned the task.",
        table("Figures and their oracle", ["figure", "oracle", "mean"], rows, text_columns=2),
        tag("div", *_grids_by_name(summary), class_="pair"),
        *_tasks_by_name(summary),
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


def task_given(run: RunFacts) -> Html:
    """Return the figures where the task of an image is given, if the run has them."""
    given = run.summary.task_given
    if given is None:
        return Html()
    rows = [
        ["accuracy after the last task, pooled", percent(given.a_last)],
        ["the same, mean of tasks", percent(given.a_last_task_mean)],
        ["average over the stages, pooled", percent(given.a_avg)],
        ["forward transfer, points", points(given.fwt)],
    ]
    count = len(given.matrix)
    head = ["after task", *(str(index + 1) for index in range(count))]
    cells = [
        [str(stage + 1), *map(percent, row), *[""] * (count - len(row))]
        for stage, row in enumerate(given.matrix)
    ]
    return section(
        "Task given",
        "Task-incremental: the candidates are the classes of the image's task, which a device does "
        "not know. Do not compare with the accuracies above.",
        table("Figures with the task given", ["figure", ""], rows),
        details("The matrix as a table", table("Accuracy on task (columns)", head, cells)),
        tag(
            "p",
            "Forward transfer: accuracy on a task before it is learned, over that of a random "
            "answer among its classes, mean over the tasks but the first (",
            tag("a", "GEM", href=GEM),
            ", equation 4). A task whose classes cannot all be answered before it is learned is "
            "left out.",
            class_="note",
        ),
    )


def held_out(run: RunFacts) -> Html:
    """Return the accuracy on tasks that were never trained, if there are."""
    tasks = run.summary.held_out
    if not tasks:
        return Html()
    head = ["task", "test images", *(f"after {t + 1}" for t in range(len(run.summary.tasks)))]
    rows = [[task.name, str(task.images), *map(percent, task.stages)] for task in tasks]
    return section(
        "Held out",
        "Tasks that were never trained, only tested, over all classes learned by then. No other "
        "figure of this page counts them.",
        lines(
            "Accuracy on the tasks that were never trained, after each task",
            [Series(task.name, task.stages) for task in tasks],
        ),
        table("Accuracy on held-out tasks", head, rows),
    )


def unknown(run: RunFacts) -> Html:
    """Return how well images of no class are told, if the run has measured it."""
    found = run.summary.unknown
    if found is None:
        return Html()
    stages = found.stages
    shown = (("AUROC", "auroc"), ("unknown rejected", "rejected"), ("coverage", "coverage"))
    curves = lines(
        "AUROC, share of unknown images that are rejected, and coverage, after each task",
        [Series(words, [getattr(one, name) for one in stages]) for words, name in shown],
    )
    told = max(stages, key=lambda one: min(one.known_images, one.unknown_images))
    head = [
        *("after task", "known images", "unknown images", "AUROC", "FPR95", "OSCR", "coverage"),
        *("unknown rejected", "known rejected", "classes in a set"),
        *("AUROC of the cosine", "of the head's score", "of its softmax"),
    ]
    rows = [
        [
            *(str(at + 1), str(one.known_images), str(one.unknown_images)),
            *map(percent, (one.auroc, one.fpr95, one.oscr, one.coverage)),
            *map(percent, (one.rejected, one.rejected_known)),
            "" if one.mean_set is None else f"{one.mean_set:.2f}",
            *map(percent, (one.auroc_cosine, one.auroc_max_score, one.auroc_msp)),
        ]
        for at, one in enumerate(stages)
    ]
    return section(
        "Unknown images",
        f"Test images of tasks to come are of no class yet. An image is rejected where no class "
        f"has a p-value above {told.alpha:g}; coverage is the share of known images whose class "
        f"has one, and should be about {percent(1 - told.alpha)} or more.",
        tag("div", tag("div", curves), tag("div", *_p_values(told)), class_="pair"),
        details("The figures of every stage", table("Unknown images by stage", head, rows)),
    )


def _p_values(one: UnknownFigures) -> list[Html]:
    """Return where the p-values of known and of unknown images are."""
    found = []
    for words, counts in (("known", one.known_p), ("unknown", one.unknown_p)):
        total = max(sum(counts), 1)
        data = [Bar(f"{at / BINS:g}", each / total) for at, each in enumerate(counts)]
        title = f"Share of {words} images by their largest p-value"
        found += [tag("h3", title), bars(title, data, "p from", percent)]
    return found


def _grids_by_name(summary: Summary) -> list[Html]:
    """Return the accuracies of every stage on every task, under either oracle."""
    grids = []
    for figures, words in (
        (summary.mtil, "Among the classes of the image's task"),
        (summary.ci_transfer, "Among the classes of all tasks"),
    ):
        if figures is not None:
            picture = heat_map(
                f"Accuracy on every task, learned or not, {words.lower()}, in per cent",
                figures.matrix,
                row_axis="after task",
                column_axis="on the test images of task",
                diagonal=True,
            )
            grids.append(tag("div", tag("h3", words), picture))
    return grids


def _tasks_by_name(summary: Summary) -> list[Html]:
    """Return MTIL's figures of each task, if there are."""
    if summary.mtil is None:
        return []
    each = summary.mtil.tasks
    rows = [
        [name, *map(percent, values)]
        for name, *values in zip(summary.tasks, each.transfer, each.avg, each.last, strict=True)
    ]
    head = ["task", "Transfer", "Avg", "Last"]
    return [details("Each task", table("Label set of the task given", head, rows))]


def matching(run: RunFacts) -> Html:
    """Return which task was inferred and which entries of a pool were matched, if known."""
    summary = run.summary
    parts = []
    if summary.matched_confusion:
        parts.append(confused_tasks(summary.matched_confusion, "matched"))
    parts.append(confused_tasks(summary.task_confusion, "inferred"))
    if any(int(entry) for entry in summary.match_histogram):
        parts.append(_pool(summary.match_histogram))
    return section(
        "Matching",
        "At the last stage, one image at a time. The inferred task is the one that owns the "
        "predicted class, the matched one gave its injection; framed cells are right.",
        tag("div", *parts, class_="pair"),
    )


def _pool(histogram: dict[str, int]) -> Html:
    """Return how often each entry of a pool was matched, those that were not at all included."""
    total = sum(histogram.values())
    counts = {str(entry): histogram.get(str(entry), 0) for entry in range(_size(histogram))}
    picture = bars(
        "Share of matches by entry of the pool",
        [Bar(entry, count / total) for entry, count in counts.items()],
        "entry of the pool",
        percent,
    )
    rows = [[entry, str(count), percent(count / total)] for entry, count in counts.items()]
    numbers = table("Matches by entry of the pool", ["entry", "matches", "share"], rows)
    return tag(
        "div",
        tag("h3", "Use of the pool"),
        picture,
        details("The counts as a table", numbers),
    )


def _size(histogram: dict[str, int]) -> int:
    """Return the number of entries up to the last one that was matched."""
    return max(map(int, histogram)) + 1


def confused_tasks(confusion: Counts, what: str) -> Html:
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
    packs, seconds = run.summary.pack_bytes, run.summary.seconds
    before = [0, *accumulate(packs)]
    sent = [Bar(str(index + 1), packed, before[index]) for index, packed in enumerate(packs)]
    learned = [Bar(str(index + 1), value) for index, value in enumerate(seconds)]
    sizes = bars("Size of each task's learned tensors on top of those before", sent, "task", size)
    times = bars("Seconds of learning per task", learned, "task", duration)
    return section(
        "Cost",
        "What a device receives for each task, without the manifest and the scores that tell "
        "images of no class, at float16, and how long the task took to learn.",
        tag(
            "div",
            tag("div", tag("h3", "Bytes sent so far, this task's darker"), sizes),
            tag("div", tag("h3", "Time to learn"), times),
            class_="pair",
        ),
        tag("p", _memory(run.summary), class_="note"),
    )


def _memory(summary: Summary) -> str:
    """Return a sentence about what the workstation stores for later tasks."""
    stored, images = summary.state_bytes[-1], summary.exemplars[-1]
    if not stored:
        return "The workstation stores nothing but what ships and one training image per task."
    remembered = f"{images} training images" if images else "no training image"
    return (
        f"After the last task the workstation stores {size(stored)} for later ones, {remembered} "
        "among it, besides what ships and one training image per task for self-tests."
    )


def tasks(run: RunFacts) -> Html:
    """Return the table of the tasks, their classes and the images that were skipped."""
    rows = [_task_row(run, index, record) for index, record in enumerate(run.records)]
    head = [
        *("task", "name", "classes", "training images", "test images", "when learned"),
        *("at the end", "size", "cumulated", "time", "skipped"),
    ]
    words = []
    for index, record in enumerate(run.records):
        known = set(record.known)
        names = [tag("li", name, " (known)" if name in known else "") for name in record.classes]
        words += [tag("h3", f"{index + 1}. {record.name}"), tag("ul", *names, class_="words")]
    skipped = [
        tag("li", f"task {index + 1}: {line}")
        for index, record in enumerate(run.records)
        for line in record.skipped
    ]
    left = len(skipped) - SKIPPED
    more = [tag("li", f"{left} more: task.json of each task names them")] if left > 0 else []
    lost = (
        details(f"Skipped images ({len(skipped)})", tag("ul", *skipped[:SKIPPED], *more))
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


def files(run: RunFacts) -> Html:
    """Return what became of every file of the folders that were learned, if there are any."""
    if not run.summary.files:
        return Html()
    rows: list[list[str]] = []
    notes = []
    for each in run.summary.files:
        rows += [
            [each.root, what, "", str(count)]
            for what, count in (("training", each.training), ("test", each.test))
        ]
        for word, reasons in (("skipped", each.skipped), ("ignored", each.ignored)):
            rows += [
                [each.root, f"{word}: {one.why}", ", ".join(one.first), str(one.count)]
                for one in reasons
            ]
        notes += [tag("li", note) for note in each.notes]
    head = ["folder", "what became of them", "first names", "files"]
    return section(
        "Files",
        "; ".join(f"{each.root}: {each.layout}, {each.total} files" for each in run.summary.files)
        + ". Every file under a folder is counted once.",
        details("Files by what became of them", table("Files", head, rows, text_columns=3)),
        tag("ul", *notes) if notes else Html(),
    )


def _task_row(run: RunFacts, index: int, record: TaskRecord) -> list[str]:
    summary, figures = run.summary, ["–"] * 5  # of a task that was not evaluated
    later = index - len(summary.tasks)
    measured = run.later[later] if 0 <= later < len(run.later) else None
    if measured is not None and measured.images[index]:  # on its own test images
        figures[:2] = str(measured.images[index]), percent(measured.accuracy[index])
    if index < len(summary.tasks):
        packs = summary.pack_bytes
        figures = [
            str(summary.test_images[index]),
            percent(summary.matrix[index][index]),
            percent(summary.matrix[-1][index]),
            size(packs[index]),
            size(sum(packs[: index + 1])),
        ]
    return [
        str(index + 1),
        record.name,
        str(len(record.classes)),
        str(record.train_images),
        *figures,
        duration(record.seconds),
        str(len(record.skipped)),
    ]


def configuration(run: RunFacts) -> Html:
    """Return everything that run.json holds."""
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
    parts = (
        *(masthead, accuracy, transfer, task_given, held_out, unknown, classes, pictures, matching),
        *(costs, tasks, files, configuration),
    )
    return join(*(part(run) for part in parts), footer())


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
