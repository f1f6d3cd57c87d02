"""Accuracy of the methods on a small fixed protocol, to hold against other implementations.

Fashion-MNIST in 5 tasks of 2 classes, 2,000 training and 2,000 test images, `vit-s14` at 56 pixels
on the CPU, about 20 minutes on one core. The class order is that of seed 1993 whatever the seed of
the run, which sets initial values and the order of the training images only. Each case has the
sizes and the schedule of the implementation that it is held against, except that what trains 20
epochs in every task trains 5, on both sides. Evaluation is in float32.

    python benchmarks/fidelity.py                      # all cases, seed 1993
    python benchmarks/fidelity.py --methods l2p --seeds 1993 1994 1995

Each run replaces the same method and seed in `results/fidelity.json` and leaves the others, as long
as the protocol is the same. Figures of public implementations on the same images stand in
`results/fidelity_reference.json`, entered by hand.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import machine

from edgecl.backbones import Backbone, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.errors import EdgeclError
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy.progress import Reporter, RichReporter


@dataclass(frozen=True)
class Case:
    """A method with the settings of the implementation that it is held against."""

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    bfloat16: bool = False  # in training


CASES = {
    "simplecil": Case("simplecil"),
    "l2p": Case("l2p"),
    "aper-adapter": Case("aper-adapter"),
    "ranpac": Case("ranpac", {"schedule": {"epochs": 5}}, bfloat16=True),
    "ranpac-frozen": Case("ranpac", {"first_session": "none"}),
    "ease": Case("ease", {"schedule": {"epochs": 5}}, bfloat16=True),
    "coda-prompt": Case(
        "coda-prompt", {"schedule": {"epochs": 3, "batch_size": 16}}, bfloat16=True
    ),
    "dualprompt": Case(
        "dualprompt", {"pull": 0.1, "schedule": {"lr": 0.001, "clip": None}}, bfloat16=True
    ),
    "lae": Case("lae", bfloat16=True),
}
BACKBONE: dict[str, Any] = {"name": "vit-s14", "image_size": 56}
STREAM: dict[str, Any] = {
    "name": "fashion-mnist",
    "seed": 1993,
    "limit_train": 2000,
    "limit_test": 2000,
}
DEVICE = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"
FIGURES = {
    "A_last": "a_last",
    "average": "a_avg",
    "forgetting": "forgetting",
    "BWT": "bwt",
    "task id": "task_id_accuracy",
}


def main() -> None:
    """Run what is asked for and write the results.

    Raises:
        SystemExit: if the images or the weights are missing; says what to install.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1993], metavar="SEED")
    parser.add_argument("--root", type=Path, help="a folder with Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--json", action="store_true", help="print the JSON instead of the Markdown"
    )
    arguments = parser.parse_args()
    root = {} if arguments.root is None else {"root": str(arguments.root)}
    try:
        stream = load_stream(**STREAM, **root)
        backbone = load_backbone(**BACKBONE)
    except EdgeclError as error:
        raise SystemExit(f"{error}\n  apt-get install dataset-fashion-mnist") from error
    protocol = describe(backbone, stream)
    cache = FeatureCache(None, backbone.digest)
    file = arguments.out / "fidelity.json"
    for seed in arguments.seeds:
        for name in arguments.methods:
            result = run(name, seed, backbone, stream, cache)
            write(file, protocol, result)
    results = json.loads(file.read_text())
    text = table(results, reference(protocol))
    file.with_suffix(".md").write_text(text)
    print(json.dumps(results) if arguments.json else text)


def describe(backbone: Backbone, stream: Stream) -> dict[str, Any]:
    """Return all that a run must share with another for their figures to be comparable."""
    spec = {key: value for key, value in stream.spec.items() if key != "root"}
    return {
        "stream": spec,
        "protocol": f"{stream.protocol}: over all classes seen, no task label, one image at a time",
        "class_order": list(stream.classes),
        "tasks": [list(task.classes) for task in stream.tasks],
        "train_images": [len(task.train) for task in stream.tasks],
        "test_images": [len(task.test) for task in stream.tasks],
        "backbone": {**BACKBONE, "digest": backbone.digest},
        "preprocessing": backbone.preprocess.to_json(),
        "augmentation": "none",
        "precision": "float32",
        "device": DEVICE.type,
    }


def run(
    name: str, seed: int, backbone: Backbone, stream: Stream, cache: FeatureCache
) -> dict[str, Any]:
    """Learn the stream with one case."""
    case = CASES[name]
    print(f"{name}, seed {seed}", file=sys.stderr)
    reporter = RichReporter() if sys.stderr.isatty() else Reporter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        learner = new_learner(
            Path(folder) / "run",
            case.method,
            backbone,
            stream,
            config=case.config,
            seed=seed,
            compute=Compute(DEVICE, bfloat16=case.bfloat16),
            reporter=reporter,
            cache=cache,
        )
        figures = learn_stream(learner, stream).to_json()
    names = (*FIGURES.values(), "pooled", "matrix", "task_confusion", "match_histogram")
    return {
        "method": name,
        "seed": seed,
        "config": asdict(learner.method.config),
        "precision": "bfloat16" if case.bfloat16 else "float32",
        **{name: figures[name] for name in names},
        "train_seconds": figures["seconds"],
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
    }


def write(file: Path, protocol: dict[str, Any], result: dict[str, Any]) -> None:
    """Put one run in the place of its predecessor; results of another protocol are dropped."""
    held = json.loads(file.read_text()) if file.exists() else {}
    runs = held["runs"] if held.get("protocol") == protocol else []
    same = (result["method"], result["seed"])
    runs = [r for r in runs if (r["method"], r["seed"]) != same] + [result]
    runs.sort(key=lambda r: (list(CASES).index(r["method"]), r["seed"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"protocol": protocol, "runs": runs}, indent=1) + "\n")


def reference(protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of other implementations, none if they were taken on another backbone."""
    file = RESULTS / "fidelity_reference.json"
    if not file.exists():
        return []
    held = json.loads(file.read_text())
    rows: list[dict[str, Any]] = held["rows"]
    return rows if held["backbone"] == protocol["backbone"] else []


def table(results: dict[str, Any], others: Iterable[dict[str, Any]]) -> str:
    """Lay out the protocol and the figures in Markdown."""
    protocol = results["protocol"]
    stream, backbone = protocol["stream"], protocol["backbone"]
    lines = [
        "# Fidelity",
        "",
        f"`python benchmarks/fidelity.py`: {stream['name']}, class order of seed {stream['seed']} "
        f"({', '.join(protocol['class_order'])}), {len(protocol['tasks'])} tasks, "
        f"{sum(protocol['train_images'])} training and {sum(protocol['test_images'])} test images; "
        f"{backbone['name']} at {backbone['image_size']} px (digest {backbone['digest'][:12]}), "
        f"{protocol['precision']} on {protocol['device']}, no augmentation.",
        "Trained in bfloat16 where the run below says so.",
        f"Protocol {protocol['protocol']}.",
        "Figures in percent: mean over the seeds, ± standard deviation where there are several.",
        "",
        f"| method | implementation | seeds | {' | '.join(FIGURES)} | seconds |",
        f"|---|---|---|{'---:|' * len(FIGURES)}---:|",
    ]
    others = list(others)
    for name in CASES:
        mine = [r for r in results["runs"] if r["method"] == name]
        if mine:
            lines.append(row(name, "edgecl", mine))
        lines += [
            row(name, o["implementation"], o["runs"])
            for o in others
            if o["method"] == name and o["runs"]
        ]
    lines += ["", *notes(others), "## Runs of edgecl", ""]
    for r in results["runs"]:
        lines += [
            f"**{r['method']}, seed {r['seed']}**, {r['seconds']} s on {r['machine']}  ",
            f"trained in {r['precision']}, config: `{json.dumps(r['config'])}`  ",
            "accuracy after each task (rows) on each task (columns):",
            "",
            f"| after | {' | '.join(' + '.join(task) for task in protocol['tasks'])} |",
            f"|---|{'---:|' * len(protocol['tasks'])}",
        ]
        for index, accuracies in enumerate(r["matrix"]):
            cells = [f"{100 * a:.2f}" for a in accuracies]
            cells += [""] * (len(protocol["tasks"]) - len(cells))
            lines.append(f"| task {index + 1} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def notes(others: list[dict[str, Any]]) -> list[str]:
    """Return one line for each other implementation: where it is from and how it was run."""
    if not others:
        return []
    lines = [f"- {o['implementation']} ({o['method']}): {o['source']}. {o['note']}" for o in others]
    return ["## Other implementations", "", *lines, ""]


def row(method: str, implementation: str, runs: list[dict[str, Any]]) -> str:
    """Return one row of the table: the means of several runs."""
    cells = []
    for key in (*FIGURES.values(), "seconds"):
        values = [r[key] * (1 if key == "seconds" else 100) for r in runs if r.get(key) is not None]
        digits = 0 if key == "seconds" else 2
        cell = f"{statistics.mean(values):.{digits}f}" if values else ""
        if len(values) > 1 and key != "seconds":
            cell += f" ± {statistics.stdev(values):.2f}"
        cells.append(cell)
    seeds = " ".join(str(r["seed"]) for r in runs)
    return f"| {method} | {implementation} | {seeds} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
