"""What it gives and costs to learn on int8 weights: the accuracy of methods on both backbones.

Each cell learns one stream with one method and one seed, at 112 px, in the method's default
settings, once on float32 weights and once on int8 ones. Cells that results/rounded_backbone.json
holds are not run again; the page is written after each.

    python benchmarks/rounded_backbone.py [--seeds 1993 1994 1995] [--streams emoji-demo digits]
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from machine import cpu

from edgecl.backbones import Backbone, load_backbone
from edgecl.session import learn_stream, new_learner
from edgecl.streams import load_stream

RESULTS = Path(__file__).parent / "results"
METHODS = ("simplecil", "ranpac", "layup", "aper-adapter", "l2p", "coda-prompt")
WEIGHTS = {"float32": None, "int8": "int8"}
SHAPES = {"digits": {"limit_train": 500}}


def accuracy(method: str, stream: str, seed: int, backbone: Backbone) -> list[float]:
    """Learn a stream; return the last and the average accuracy over all classes so far."""
    tasks = load_stream(stream, seed=seed, **SHAPES.get(stream, {}))
    with tempfile.TemporaryDirectory() as folder:
        learner = new_learner(Path(folder) / "run", method, backbone, tasks, seed=seed)
        summary = learn_stream(learner, tasks)
    assert summary is not None
    return [summary.a_last, summary.a_avg]


def page(found: dict[str, dict[str, dict[str, list[float]]]], machine: str) -> str:
    """Write the table: means over seeds, and the differences."""
    lines = [
        "# Learning on int8 weights",
        "",
        "`python benchmarks/rounded_backbone.py`, `vit-s14` at 112 px, the default settings;",
        f"{machine}.",
        "Average accuracy over the stages of a stream, in percent: mean over seeds.",
        "",
        "| stream | method | seeds | float32 weights | int8 weights | difference by seed |",
        "|---|---|---:|---:|---:|---|",
    ]
    for cell, by_seed in found.items():
        stream, method = cell.split("/")
        pairs = [each for each in by_seed.values() if len(each) == len(WEIGHTS)]
        if not pairs:
            continue
        floats, rounded = ([100 * each[name][1] for each in pairs] for name in WEIGHTS)
        apart = [after - before for before, after in zip(floats, rounded, strict=True)]
        lines.append(
            f"| {stream} | {method} | {len(pairs)} | {statistics.mean(floats):.1f} | "
            f"{statistics.mean(rounded):.1f} | {', '.join(f'{each:+.1f}' for each in apart)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1993, 1994, 1995])
    parser.add_argument("--streams", nargs="+", default=["emoji-demo", "digits"])
    arguments = parser.parse_args()
    path = RESULTS / "rounded_backbone.json"
    record = json.loads(path.read_text()) if path.exists() else {"machine": cpu(), "cells": {}}
    cells = record["cells"]
    backbones = {
        name: load_backbone("vit-s14", image_size=112, weights=weights)
        for name, weights in WEIGHTS.items()
    }
    for seed in arguments.seeds:
        for stream in arguments.streams:
            for method in METHODS:
                found = cells.setdefault(f"{stream}/{method}", {}).setdefault(str(seed), {})
                for name, backbone in backbones.items():
                    if name in found:
                        continue
                    found[name] = accuracy(method, stream, seed, backbone)
                    print(seed, stream, method, name, found[name], flush=True)
                    path.write_text(json.dumps(record, indent=1) + "\n")
                    text = page(cells, f"{record['machine']}, torch {torch.__version__}")
                    path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
