"""The headline figures of every release: `record` takes them from results/, `plot` draws them.

A line of history.jsonl is computed from the results of one commit, the last that changed them, so
it can be computed again from git.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from methods_report import Cells, later_bytes, mean, one

ROOT = Path(__file__).parents[1]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
PLOT = ROOT / "docs" / "benchmark_history.svg"
RESULTS = ("methods", "vlm", "update_cost")
METHODS = {"methods": ("layup", "ranpac", "simplecil"), "vlm": ("cgil", "zero-shot")}
WIDEST = "openemoji10"  # the stream with the most classes, for the bytes of a task
Record = dict[str, Any]
GREY = "#808080"  # legible on white and on black; the background is left open
COLOURS = ("#4c8bf5", "#e8710a", "#12a37f", "#c0509e", GREY)
APART = 12  # points between two labels


def git(*command: str) -> str:
    """Run git in the repository; return what it prints, or end with its error."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"git {' '.join(command)} must succeed, but: {done.stderr.strip()}. A record "
                 "needs the whole history: git fetch --unshallow.")  # fmt: skip
    return done.stdout.strip()


def paths() -> list[str]:
    """Return the files that a record is taken from."""
    return [f"benchmarks/results/{name}.json" for name in RESULTS]


def last_commit() -> str:
    """Return the last commit that changed the results, or end if they are changed since."""
    if changed := git("status", "--porcelain", "--", *paths()):
        sys.exit(f"A record is taken from committed results, but there is: {changed}. Commit it.")
    return git("log", "-1", "--format=%H", "--", *paths())


def record(version: str, date: str, commit: str) -> Record:
    """Compute the record of a release.

    Args:
        date: of the release, YYYY-MM-DD.
        commit: whose results it has.
    """
    results = {
        name: json.loads(git("show", f"{commit}:{path}"))
        for name, path in zip(RESULTS, paths(), strict=True)
    }
    update = results["update_cost"]
    cells = [cell for name in METHODS for cell in results[name]["cells"].values()]
    machines = {cell[key] for cell in cells for key in ("machine", "device_machine") if key in cell}
    return {
        "version": version,
        "date": date,
        "commit": commit,
        "machine": sorted(machines | {update["machine"]}),
        **{name: streams(results[name]["cells"], METHODS[name]) for name in METHODS},
        "update": {
            name: round(update["median"][name], 4) for name in ("wire", "idle", "apply_s")
        },
    }  # fmt: skip


def streams(cells: dict[str, Any], methods: tuple[str, ...]) -> dict[str, dict[str, Record]]:
    """Return the figures of some methods by stream: means over the seeds."""
    found: dict[str, dict[str, Record]] = {}
    for stream in sorted({key.split("/")[0] for key in cells}):
        for method in methods:
            runs = [cell for key, cell in sorted(cells.items())
                    if key.startswith(f"{stream}/{method}/") and "a_last" in cell]  # fmt: skip
            found.setdefault(stream, {})[method] = summary(runs)
    return found


def summary(runs: Cells) -> Record:
    """Return the figures of one method on one stream."""
    return {
        "a_last": rounded(one(runs, "a_last"), 4),
        "bytes_first": rounded(mean(cell["pack_bytes"][0] for cell in runs)),
        "bytes_later": rounded(mean(later_bytes(cell) for cell in runs)),
        "device_ratio": rounded(one(runs, "device_ratio"), 4),
        "seeds": len(runs),
    }


def rounded(value: float | None, digits: int | None = None) -> float | None:
    """Round a figure if there is one."""
    return None if value is None else round(value, digits)


def read() -> list[Record]:
    """Return the records, the oldest first."""
    lines = HISTORY.read_text(encoding="utf-8").splitlines() if HISTORY.exists() else []
    return [json.loads(line) for line in lines]


def add(new: Record) -> None:
    """Write a record, in place of one of the same version."""
    records = [each for each in read() if each["version"] != new["version"]] + [new]
    HISTORY.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


def line(
    kind: str, method: str, figure: str, scale: float = 1, only: str | None = None
) -> Callable[[Record], float]:
    """Return a function: a record -> a figure's mean over the streams, NaN where it is missing.

    Args:
        only: the one stream that counts.
    """

    def of(release: Record) -> float:
        found = mean(
            cells[method][figure]
            for stream, cells in release[kind].items()
            if method in cells and only in {None, stream}
        )
        return math.nan if found is None else scale * found

    return of


def panels() -> dict[str, dict[str, Callable[[Record], float]]]:
    """Return the lines of every panel: their names, and what a record says of each."""
    each = [(kind, method) for kind, methods in METHODS.items() for method in methods]
    return {
        "A_last, percent: mean of its streams": {
            method: line(kind, method, "a_last", 100) for kind, method in each
        },
        f"KB of a later task, {WIDEST}": {
            method: line(kind, method, "bytes_later", 0.001, WIDEST) for kind, method in each
        },
        "device time over a plain pass": {
            method: line(kind, method, "device_ratio") for kind, method in each
        },
        "KB on the wire": {
            "update of a task": lambda release: release["update"]["wire"] / 1000,
            "idle poll": lambda release: release["update"]["idle"] / 1000,
        },
    }


def plot() -> None:
    """Draw the history."""
    import matplotlib as mpl

    mpl.use("svg")
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    mpl.rcParams |= {"svg.hashsalt": "history", "svg.fonttype": "none", "font.size": 9}
    mpl.rcParams |= dict.fromkeys(inked, GREY)
    from matplotlib import pyplot as plt

    records = read()
    shown = panels()
    figure, axes = plt.subplots(2, 2, figsize=(9, 6))
    figure.subplots_adjust(0.06, 0.06, 0.98, 0.94, wspace=0.16, hspace=0.26)
    for axis, (title, lines) in zip(axes.flat, shown.items(), strict=True):
        axis.set_title(title, fontsize=10)
        draw(axis, {name: [value(each) for each in records] for name, value in lines.items()},
             [each["version"] for each in records], logarithmic=title.startswith("KB"))  # fmt: skip
    digest = hashlib.sha256(HISTORY.read_bytes()).hexdigest()
    source = {"Date": None, "Creator": None, "Source": digest}
    figure.savefig(PLOT, transparent=True, metadata=source)
    plt.close(figure)


def draw(axis: Any, lines: dict[str, list[float]], versions: list[str], logarithmic: bool) -> None:
    """Draw one panel; every line has its name and its newest value at its end."""
    for (name, heights), colour in zip(lines.items(), COLOURS, strict=False):
        axis.plot(versions, heights, "o-", color=colour, markersize=5, label=name)
    if logarithmic:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axis.margins(y=0.2)
    axis.set_xlim(-0.3, 1.5 * len(versions))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    lowest = -math.inf
    ended = [each for each in axis.get_lines() if not math.isnan(each.get_ydata()[-1])]
    for each in sorted(ended, key=lambda each: each.get_ydata()[-1]):
        end = (len(versions) - 1, each.get_ydata()[-1])
        height = axis.transData.transform(end)[1] * 72 / axis.figure.dpi
        lowest = max(height, lowest + APART)
        axis.annotate(
            f"{each.get_label()} {end[1]:,.3g}", end, (8, lowest - height - 3),
            textcoords="offset points", color=each.get_color(),
        )  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("plot", help=f"draw {PLOT.relative_to(ROOT)}")
    recording = parts.add_parser("record", help="add the release, or replace its record")
    recording.add_argument("version")
    recording.add_argument("date", help="YYYY-MM-DD")
    options = parser.parse_args()
    if options.part == "record":
        add(record(options.version, options.date, last_commit()))
    plot()


if __name__ == "__main__":
    main()
