"""The tables of `vlm.py`, from its JSON alone."""

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from cells import DAGGER, conditions, label, legend, letters, median_seconds

Cells = list[dict[str, Any]]
FIGURES = {
    "Transfer": lambda cell: cell["mtil"]["transfer"],
    "Avg": lambda cell: cell["mtil"]["avg"],
    "Last": lambda cell: cell["mtil"]["last"],
    "CI-Transfer": lambda cell: cell["ci_transfer"]["ci_transfer"],
    "A_last": lambda cell: cell["a_last"],
    "average": lambda cell: cell["a_avg"],
    "forgetting": lambda cell: cell["forgetting"],
}


def write_report(results: dict[str, Any], file: Path) -> None:
    """Write the Markdown beside the JSON `file`."""
    by_stream: dict[str, dict[str, Cells]] = defaultdict(lambda: defaultdict(list))
    for key, cell in sorted(results["cells"].items()):
        stream, entry, _ = key.split("/")
        if "a_last" in cell:
            by_stream[stream][entry].append(cell)
    lines = [
        "# Vision-language methods side by side",
        "",
        "`python benchmarks/vlm.py`, `edgecl-clip-s`. Transfer, Avg and Last: the label set of the "
        "image's task is given (MTIL; an oracle). CI-Transfer: tasks not yet learned, over the "
        "classes of all tasks, by names alone (PROOF and PromptFusion add what only learned "
        "classes have, so their scores are of mixed scales there). A_last, average, forgetting: "
        "over all classes learned so far, no oracle. One image at a time; in percent, mean ± "
        "standard deviation over the seeds. KB per task: manifest and tensors in float16, without "
        "what tells images of no class, median of the tasks behind the first. Memory: what stays "
        "on the workstation behind the last task, statistics and training images. Device: the "
        "runtime, one image at a time, median, "
        "and the median of its ratios to zero-shot's, measured in turns. Seconds per task: "
        "learning alone; none of runs whose times would mislead. On: the machine and the precision "
        f"of each run. {DAGGER} Configurations: the last table.",
        "",
    ]
    for stream, entries in by_stream.items():
        lines += [*stream_table(stream, results["settings"][stream], entries), ""]
    lines += choices(results["rates"], by_stream)
    file.with_suffix(".md").write_text("\n".join(lines))


def choices(tuned: dict[str, Any], by_stream: dict[str, dict[str, Cells]]) -> list[str]:
    """Return the table of what was tried and what was chosen; nothing if nothing was."""
    if not tuned:
        return []
    others = {
        entry
        for entries in by_stream.values()
        for entry, cells in entries.items()
        for cell in cells
        if entry in tuned and not follows(cell["config"], tuned[entry].get("config", {}))
    }
    lines = [
        "## Configurations",
        "",
        "Chosen by the mean A_last over two streams without any test image: five tasks of twenty "
        "unseen concepts of `openemoji10`, trained on five of its training styles and judged on "
        "the sixth; and the first four tasks of `mtil-mini`, a quarter of whose training images "
        "is held back. Three learning rates, then the neighbours of the best. Methods that train "
        "on images have their published epochs and batches, six and sixteen at most. What is not "
        "named is the method's default."
        + (f" Runs above that do not have it yet: {', '.join(sorted(others))}." if others else ""),
        "",
        "| method | configuration | A_last: concepts | themes | mean |",
        "|---|---|---:|---:|---:|",
    ]
    for entry, held in sorted(tuned.items()):
        for one in held["tried"]:
            named = {**one["config"], **one["config"]["schedule"]}
            text = ", ".join(f"{key} {value}" for key, value in named.items() if key != "schedule")
            mark = "**" if one["config"] == held.get("config") else ""
            scores = [f"{100 * score:.1f}" for score in (*one["each"], one["a_last"])]
            lines.append(f"| {entry} | {mark}{text}{mark} | {' | '.join(scores)} |")
    return [*lines, ""]


def follows(config: dict[str, Any], chosen: dict[str, Any]) -> bool:
    """Say whether a whole configuration has all that was chosen."""
    return all(
        follows(config[name], value) if isinstance(value, dict) else config[name] == value
        for name, value in chosen.items()
    )


def percent(values: list[float]) -> str:
    """Return the mean and, from two on, the standard deviation."""
    hundred = [100 * value for value in values]
    spread = f" ± {statistics.stdev(hundred):.1f}" if len(hundred) > 1 else ""
    return f"{statistics.mean(hundred):.1f}{spread}"


def stream_table(stream: str, setting: dict[str, Any], entries: dict[str, Cells]) -> list[str]:
    """Return the lines of one stream, the best method first."""
    known = conditions([cell for cells in entries.values() for cell in cells])
    lines = [
        f"## {stream}",
        "",
        f"Protocol {setting['protocol']}, {setting['tasks']} tasks, {setting['classes']} classes, "
        f"{sum(setting['train_images'])} training and {sum(setting['test_images'])} test images, "
        f"{setting['pixels']} px. Made on: {legend(known)}.",
        "",
        f"| method | seeds | {' | '.join(FIGURES)} | trained | passes | KB later | memory: MB "
        "| images | s per task | device ms | ratio | on |",
        f"|---|---:|{'---:|' * len(FIGURES)}---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]

    def order(item: tuple[str, Cells]) -> float:
        return -statistics.mean(cell["a_last"] for cell in item[1])

    for entry, cells in sorted(entries.items(), key=order):
        later = statistics.mean(statistics.median(cell["pack_bytes"][1:]) for cell in cells)
        device = next((cell for cell in cells if "device_ms" in cell), None)
        row = [
            label(entry, cells), str(len(cells)),
            *(percent([figure(cell) for cell in cells]) for figure in FIGURES.values()),
            f"{cells[0]['trained']:,}", cells[0]["passes"], f"{later / 1000:,.1f}",
            f"{cells[0]['state_bytes'] / 1e6:.1f}", str(cells[0]["exemplars"]),
            median_seconds(cells),
            f"{device['device_ms']:.1f}" if device else "",
            f"{device['device_ratio']:.2f}" if device else "",
            letters(cells, known),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return lines
