"""The table of docs/which-method.md: what each method needs and does, and what was recorded."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgecl.catalogue import KINDS, Entry, catalogue, size

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
STREAMS = {
    "methods": ("digits", "emoji-demo", "fashion-mnist", "openemoji10"),
    "vlm": ("mtil-mini-1", "openemoji10"),
}


@dataclass(frozen=True)
class Figures:
    """Means over the seeds of one stream."""

    accuracy: float  # percent, over all classes after the last task
    bytes: float  # median pack of the later tasks


def figures(table: str) -> dict[str, dict[str, Figures]]:
    """Return the figures of a table of results, by stream and method."""
    cells = json.loads((RESULTS / f"{table}.json").read_text(encoding="utf-8"))["cells"]
    runs = defaultdict(lambda: defaultdict(list))
    for key, cell in cells.items():
        stream, method, _ = key.split("/")
        if "a_last" in cell:
            runs[stream][method].append(cell)
    return {
        stream: {
            method: Figures(
                100 * statistics.mean(cell["a_last"] for cell in found),
                statistics.mean(statistics.median(cell["pack_bytes"][1:]) for cell in found),
            )
            for method, found in runs[stream].items()
        }
        for stream in STREAMS[table]
    }


def is_best(name: str, among: dict[str, Figures]) -> bool:
    """Return whether no other method is as accurate with smaller packs, or better with equal."""
    own = among[name]
    return not any(
        other.accuracy >= own.accuracy and other.bytes <= own.bytes and other != own
        for other in among.values()
    )


def row(entry: Entry, anchor: str, results: dict[str, dict[str, Figures]]) -> tuple[float, str]:
    """Return the row of a method, and what rows are ordered by."""
    ships = size(sum(entry.ships[kind].bytes for kind in KINDS if kind != "once"))
    named = f"[`{entry.name}`](methods.md#{anchor})"
    cells = [named, entry.passes, ships, entry.forgets, entry.enrols or ""]
    total = 0.0
    for found in results.values():
        if entry.name not in found:
            cells.append("")
            continue
        accuracy = found[entry.name].accuracy
        total += accuracy
        shown = f"{accuracy:.1f}"
        cells.append(f"**{shown}**" if is_best(entry.name, found) else shown)
    return -total, f"| {' | '.join(cells)} |"


def tables(anchor: Callable[[Entry], str]) -> str:
    """Return both tables, of methods without and with class names.

    Args:
        anchor: returns that of a method's section in docs/methods.md.
    """
    known = {each.name for each in catalogue()}
    parts = []
    for table, reads_names in (("methods", False), ("vlm", True)):
        results = {
            stream: {name: each for name, each in found.items() if name in known}
            for stream, found in figures(table).items()
        }
        head = ["method", "passes", "a task", "forgets", "enrols", *results]
        entries = [each for each in catalogue() if each.reads_names == reads_names]
        rows = sorted(row(each, anchor(each), results) for each in entries)
        title = "With class names, on a CLIP" if reads_names else "On images alone"
        aligned = "|---|---|---:|---|---|" + "---:|" * len(results)
        parts += [f"### {title}", "", f"| {' | '.join(head)} |", aligned]
        parts += [*(line for _, line in rows), ""]
    return "\n".join(parts)
