"""The table and the plots of `methods.py`, from its JSON alone."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import DAGGER, conditions, label, legend, letters, median_seconds

LONG = "-long"  # ends the names of the rows of longer trainings on augmented images
LEAST_STEPS = 100  # of these, per task
MOST_NAMES = 12  # in a panel
PLACES = ((6, 0), (-6, 0), (6, 9), (6, -9), (-6, 9), (-6, -9), (6, 18), (6, -18), (-6, -18))
Cells = list[dict[str, Any]]
Points = Mapping[str, tuple[float, float]]  # by row: what it costs, and A_last
FIGURES = {
    "A_last": "a_last",
    "average": "a_avg",
    "forgetting": "forgetting",
    "task id": "task_id_accuracy",
}
PLOTS = {
    "bytes": ("bytes of a task's update", "log", lambda cells: mean(later_bytes(c) for c in cells)),
    "device": (
        "time of an image on the device, in plain passes", "linear",
        lambda cells: one(cells, "device_ratio"),
    ),
}  # fmt: skip


def write_report(results: dict[str, Any], file: Path) -> None:
    """Write the Markdown and the plots beside the JSON `file`."""
    by_stream: dict[str, dict[str, Cells]] = defaultdict(lambda: defaultdict(list))
    for key, cell in sorted(results["cells"].items()):
        stream, entry, seed = key.split("/")
        if "a_last" in cell:
            by_stream[stream][entry].append(cell | {"seed": seed})
    file.with_suffix(".md").write_text(table(results, by_stream))
    for name in PLOTS:
        plot(by_stream, name, file.with_name(f"methods_{name}.svg"))


def mean(values: Any) -> float | None:
    """Return the mean of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def one(cells: Cells, name: str) -> float | None:
    """Return a figure that only one of the runs has."""
    return mean(cell.get(name) for cell in cells)


def later_bytes(cell: dict[str, Any]) -> float:
    """Return the median bytes of the updates behind the first."""
    return statistics.median(cell["pack_bytes"][1:])


def percent(cells: Cells, name: str) -> str:
    """Return the mean over the seeds and, from two on, the standard deviation."""
    values = [100 * cell[name] for cell in cells if cell[name] is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def kilobytes(value: float | None) -> str:
    """Show bytes as KB."""
    return "" if value is None else f"{value / 1000:,.1f}"


def table(results: dict[str, Any], by_stream: dict[str, dict[str, Cells]]) -> str:
    """Lay out the figures, one table per stream."""
    lines = [
        "# The methods side by side",
        "",
        "`python benchmarks/methods.py`. Over all classes seen, no task label, one image at a time "
        "(cil); figures in percent, mean ± standard deviation over the seeds (class order and "
        f"training). `vit-s14`, no augmentation, batches of {results['batch']}, published "
        "optimisers; the learning rate is the published one times "
        f"{', '.join(map(str, results['factors']))}, chosen on a style of emoji-demo's training "
        "images that no test uses, and the same on all streams (last table). "
        f"METHOD{LONG}: with the augmentation of the method's public code, fresh views in every "
        f"epoch, and at least {LEAST_STEPS} steps per task; its rate is chosen in the same way, of "
        "the factors up to that of METHOD, because more steps never ask for a larger rate (where "
        "that is 1 there is no choice). KB per task: manifest and tensors in float16, without what "
        "tells images of no class, the first task and the median of the later ones. Device: the "
        "runtime, one image at a time, median, and its ratio to SimpleCIL's (one plain pass) "
        "measured in turns in the same process. Seconds per task: learning alone, median of tasks "
        "and seeds. Other runs shared the processor all the time: of the device's times the ratio "
        "says more than the milliseconds, and even a ratio may be wrong by a half. No time: "
        "other work shared the machine of these runs, or their packs were not timed. On: the "
        f"machine and the precision of each run. {DAGGER}",
        "",
    ]
    for stream, entries in by_stream.items():
        lines += [*stream_table(stream, results["settings"][stream], entries), ""]
    lines += ["## Learning rates", "", "| method | published times | validation A_last |"]
    lines.append("|---|---:|---|")
    for entry, rate in sorted(results["rates"].items()):
        tried = ", ".join(f"{f}: {100 * a:.1f}" for f, a in rate["a_last"].items())
        lines.append(f"| {entry} | {rate['factor']} | {tried} |")
    return "\n".join(lines) + "\n"


def stream_table(stream: str, setting: dict[str, Any], entries: dict[str, Cells]) -> list[str]:
    """Return the lines of one stream, the best method first."""
    every = [cell for cells in entries.values() for cell in cells]
    known = conditions(every)
    devices = {cell["device_machine"] for cell in every if "device_ms" in cell}
    lines = [
        f"## {stream}",
        "",
        f"{setting['tasks']} tasks, {setting['classes']} classes, "
        f"{sum(setting['train_images'])} training and {sum(setting['test_images'])} test images "
        f"(as of the last run), {setting['pixels']} px, {setting['epochs']} epochs. Made on: "
        f"{legend(known)}." + (f" Device: {'; '.join(sorted(devices))}." if devices else ""),
        "",
        f"| method | seeds | {' | '.join(FIGURES)} | passes | KB first | KB later "
        "| s per task | device ms | ratio | on |",
        f"|---|---:|{'---:|' * len(FIGURES)}---:|---:|---:|---:|---:|---:|---|",
    ]

    def order(entry: str) -> tuple[float, str]:
        """Place a long training next to the short one, whose figure counts where there is one."""
        short = entry.removesuffix(LONG)
        return -(one(entries.get(short, entries[entry]), "a_last") or 0), entry

    for entry, cells in sorted(entries.items(), key=lambda item: order(item[0])):
        first = mean(cell["pack_bytes"][0] for cell in cells)
        later = mean(later_bytes(cell) for cell in cells)
        ms, ratio = one(cells, "device_ms"), one(cells, "device_ratio")
        row = [
            label(entry, cells), str(len(cells)),
            *(percent(cells, name) for name in FIGURES.values()),
            cells[0]["passes"], kilobytes(first), kilobytes(later), median_seconds(cells),
            "" if ms is None else f"{ms:.1f}", "" if ratio is None else f"{ratio:.2f}",
            letters(cells, known),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return lines


def frontier(points: Points) -> list[str]:
    """Return the rows that no other one matches at a lower cost, the cheapest first."""
    best, found = -1.0, []
    for entry, (_, right) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if right > best:
            best, found = right, [*found, entry]
    return found


def plot(by_stream: dict[str, dict[str, Cells]], name: str, file: Path) -> None:
    """Draw A_last against a cost, a panel per stream; nothing without matplotlib or figures."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "methods"  # the same figures give the same bytes
    from matplotlib import pyplot as plt

    label, scale, cost = PLOTS[name]
    panels = {
        stream: {entry: (cost(cells), 100 * (one(cells, "a_last") or 0))
                 for entry, cells in entries.items() if cost(cells) is not None}
        for stream, entries in by_stream.items()
    }  # fmt: skip
    panels = {stream: points for stream, points in panels.items() if points}
    if not panels:
        return
    figure, axes = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(13, 5.2 * ((len(panels) + 1) // 2)), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (stream, points) in zip(axes.flat, panels.items(), strict=False):
        axis.set(title=stream, xlabel=label, ylabel="A_last, percent", xscale=scale)
        axis.grid(alpha=0.25)
        best = frontier(points)
        axis.plot(*zip(*points.values(), strict=True), "o", color="0.6", markersize=4)
        axis.plot(
            *zip(*(points[entry] for entry in best), strict=True), "o-", color="C0", ds="steps-post"
        )
    figure.tight_layout()
    for axis, points in zip(axes.flat, panels.values(), strict=False):
        write_names(axis, points)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def write_names(axis: Any, points: Points) -> None:
    """Name the frontier of a panel, then the most accurate others that there is room for."""
    best, taken = frontier(points), []
    others = sorted(set(points) - set(best), key=lambda entry: (-points[entry][1], entry))
    axis.autoscale_view()
    for entry in [*best, *others]:
        for over_marks in (False, True) if entry in best else (False,):
            box = write_name(axis, entry, points, taken, bold=entry in best, over_marks=over_marks)
            if box is not None:
                taken.append(box)
                break
        if len(taken) == MOST_NAMES:
            return


def write_name(
    axis: Any, entry: str, points: Points, taken: list[Any], *, bold: bool, over_marks: bool
) -> Any:
    """Write a row's name next to its mark, where no other name is; return its box, None if nowhere.

    Args:
        over_marks: it may cover the marks of others.
    """
    others = axis.transData.transform([points[other] for other in points if other != entry])
    frame = axis.get_window_extent()
    for right, up in PLACES:
        text = axis.annotate(
            entry, points[entry], (right, up), textcoords="offset points", fontsize=8,
            fontweight="bold" if bold else "normal", ha="left" if right > 0 else "right",
            va="center",
        )  # fmt: skip
        box = text.get_window_extent()
        free = not any(box.overlaps(each) for each in taken)
        free &= over_marks or not any(box.contains(*mark) for mark in others)
        if free and frame.contains(*box.min) and frame.contains(*box.max):
            return box.padded(2)
        text.remove()
    return None
