"""Our figures beside published ones: runs recipes, and compares what they give.

For each published figure of a recipe the method is run with `edgecl train METHOD --recipe NAME`,
so the protocol is the recipe's; what differs from it is in the table. Runs that are there are not
run again, and one that was interrupted goes on. `make published` runs the cheap ones, on a GPU in
minutes. Writes published.md and .json into the folder of the runs.

    python benchmarks/published.py RUNS RECIPE... [--methods simplecil ranpac]
        [--stream FOLDER] [--options ROOT AND OTHERS OF EDGECL TRAIN]
"""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import cpu

from edgecl.cli import train
from edgecl.recipes import Figure, find_recipe

NEAR = 0.5  # points of accuracy: a closed form, whose result hardly depends on the processor
TRAINED = 1.5  # where something is trained
CLOSED = {"simplecil"}
COLUMNS = {"last": "a_last", "average": "a_avg", "task_mean": "a_last_task_mean"}


@dataclass(frozen=True)
class Row:
    """One published figure and ours, in percent.

    Attributes:
        differs: what the run has otherwise than the recipe.
    """

    recipe: str
    method: str
    settings: str
    figure: str
    published: float
    ours: float
    differs: tuple[str, ...]

    @property
    def near(self) -> bool:
        """Return whether they are as close as two runs of one protocol."""
        free = self.method in CLOSED or "first_session=none" in self.settings
        return abs(self.ours - self.published) <= (NEAR if free else TRAINED)


def settings_of(figure: Figure) -> list[str]:
    """Return what `--set` takes."""
    return [
        f"{path}={value if isinstance(value, str) else json.dumps(value)}"
        for path, value in figure.set.items()
    ]


def compare(
    recipe: str, figure: Figure, found: Mapping[str, Any], differs: Sequence[str]
) -> list[Row]:
    """Put a run's metrics beside what was published."""
    pairs = [
        (name, value, found[key])
        for name, key in COLUMNS.items()
        if (value := getattr(figure, name)) is not None
    ]
    if figure.mtil is not None:
        own = found["mtil"]
        pairs += [(f"MTIL {name}", value, own[name]) for name, value in figure.mtil.items()]
    settings = settings_of(figure)
    own_words = tuple(line for line in differs if not line.startswith("--set first_session="))
    return [
        Row(recipe, figure.method, " ".join(settings), name, value, 100 * ours, own_words)
        for name, value, ours in pairs
    ]


def run(recipe: str, figure: Figure, folder: Path, options: Sequence[str]) -> list[Row]:
    """Run a recipe with one method, unless that was done, and compare."""
    settings = settings_of(figure)
    name = "-".join([recipe, figure.method, *(each.replace("=", "-") for each in settings)])
    out = folder / name
    if not (out / "metrics.json").is_file():
        asked = [word for each in settings for word in ("--set", each)]
        words = ["--resume", str(out)]
        if not (out / "run.json").is_file():
            words = [
                figure.method, "--recipe", recipe, "--out", str(out), *asked, *options,
            ]  # fmt: skip
        train.main(args=words, standalone_mode=False)
    header = json.loads((out / "run.json").read_text())
    found = json.loads((out / "metrics.json").read_text())
    return compare(recipe, figure, found, header["recipe"]["differs"])


def page(rows: Sequence[Row], machine: str) -> str:
    """Write the table."""
    lines = [
        "# Published figures and ours",
        "",
        f"`python benchmarks/published.py`; {machine}. Percent; `edgecl recipes NAME` has the "
        "protocol and its sources.",
        "",
        "| recipe | method | figure | published | ours | difference | near | differs |",
        "|---|---|---|---:|---:|---:|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.recipe} | {' '.join(filter(None, (row.method, row.settings)))} | "
            f"{row.figure.replace('_', ' ')} | {row.published:.1f} | {row.ours:.1f} | "
            f"{row.ours - row.published:+.1f} | {'yes' if row.near else 'no'} | "
            f"{'; '.join(row.differs)} |"
        )
    return "\n".join(lines) + "\n"


def device() -> str:
    """Return what the runs are computed on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu()


def main(words: Sequence[str] | None = None) -> None:
    """Run, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--stream", help="of recipes whose images are in a folder")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    arguments = parser.parse_args(words)
    options = [*(["--stream", arguments.stream] if arguments.stream else []), *arguments.options]
    rows: list[Row] = []
    for name in arguments.recipes:
        for figure in find_recipe(name).figures:
            if arguments.methods and figure.method not in arguments.methods:
                continue
            rows += run(name, figure, arguments.runs, options)
            record = {
                "machine": f"{device()}, torch {torch.__version__}, Python "
                f"{platform.python_version()}",
                "rows": [vars(row) for row in rows],
            }
            (arguments.runs / "published.json").write_text(json.dumps(record, indent=1) + "\n")
            (arguments.runs / "published.md").write_text(page(rows, record["machine"]))
    print(page(rows, device()))


if __name__ == "__main__":
    main()
