"""What int8 weights change: decisions, errors, bytes and milliseconds, on runs that are there.

Quantises copies of the bundles of a demo (`make demo`), and compares every engine of this machine
in int8 with float32 in ONNX Runtime: on the test images of the run's stream, then on up to 500 of
its images (test first), which is what a licence is measured on. One image is timed in turns in one
process, so that a drift of the machine meets all; the figure is the median over rounds. About ten
minutes; writes results/int8.md and results/int8.json.

    python benchmarks/int8.py [FOLDER]
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import cpu
from turns import in_turns

from edgecl.session import open_learner
from edgecl_deploy import Classifier
from edgecl_deploy.engines import installed, make_engine
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.files import ReleaseFiles, read_bundle, read_release
from edgecl_deploy.forms import Mode
from edgecl_export.licence import MOST, Baseline, compare_all
from edgecl_export.quantize.variant import quantize_bundle
from edgecl_export.samples import TEST, TRAIN, samples_of
from edgecl_export.weights import copy_bundle

RESULTS = Path(__file__).parent / "results"
ROUNDS = 40
HEAD = (
    "| run | engine | images | right in float32 | in int8 | lost / gained | agreement | "
    "largest error |"
)


def milliseconds(
    release: ReleaseFiles, bundle: Path, engines: list[str], threads: int
) -> dict[str, float]:
    """Time one image in turns: the median over rounds."""
    devices: dict[str, Classifier] = {}
    for engine in engines:
        for precision in ("float32", "int8"):
            runner = make_engine(engine, threads)
            batch = 1 if runner.capabilities().compiles else None
            mode = Mode(precision=precision, batch=batch)
            device = Classifier.of_files(bundle, release, runner, mode)
            devices[f"{engine} {precision}"] = device
    side = next(iter(devices.values())).loaded.side
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    calls = {name: partial(device.scores, image) for name, device in devices.items()}
    spent = in_turns(calls, ROUNDS, warm_up=2, pause=0.01)
    return {name: round(statistics.median(each), 2) for name, each in spent.items()}


def measured(run: Path, bundle: Path, engines: list[str]) -> dict[str, Any]:
    """Measure one run on a quantised bundle."""
    learner = open_learner(run, device="cpu")
    releases = map(read_release, (run / "releases").iterdir())
    release = max(releases, key=lambda each: each.release.number)
    rows = []
    for name, parts in (("test", (TEST,)), ("test and training", (TEST, TRAIN))):
        samples = samples_of(learner, MOST, parts, len(release.packs))
        baseline = Baseline.of(release, bundle, samples)
        for engine in engines:
            (each,) = compare_all(release, bundle, "int8", engine, baseline)
            rows.append({"of": name, **vars(each)})
    counts = sorted({usable_cores(), 1}, reverse=True)
    return {
        "rows": rows,
        "ms": {str(count): milliseconds(release, bundle, engines, count) for count in counts},
    }


def page(found: dict[str, Any]) -> str:
    """Write the tables."""
    lines = [
        "# int8 weights",
        "",
        f"`python benchmarks/int8.py` on the runs of `make demo`; {found['machine']}.",
        "",
        "Float32 in ONNX Runtime against int8 in each engine; the newest release of each run. ONNX "
        "Runtime computes with the rounded weights in float32, OpenVINO rounds activations too.",
        "",
        HEAD,
        "|---|---|---|---:|---:|---|---:|---:|",
    ]
    for name, run in found["runs"].items():
        for row in run["rows"]:
            after = row["right"] - row["lost"] + row["gained"]
            lines.append(
                f"| {name} | {row['engine'].split()[0]} | {row['images']} {row['of']} | "
                f"{row['right'] / row['images']:.1%} | {after / row['images']:.1%} | "
                f"{row['lost']} / {row['gained']} | {row['agreement']:.1%} | {row['error']:.4f} |"
            )
    columns = list(next(iter(found["runs"].values()))["ms"]["1"])
    lines += [
        "",
        "Milliseconds of one prepared image, all four in turns in one process.",
        "",
        f"| run | threads | {' | '.join(columns)} |",
        f"|---|---:|{'---:|' * len(columns)}",
    ]
    for name, run in found["runs"].items():
        for threads, ms in run["ms"].items():
            times = " | ".join(f"{ms[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {threads} | {times} |")
    lines += ["", "| bundle | float32 weights | int8 weights | seconds to quantise |"]
    lines += ["|---|---:|---:|---:|"]
    for name, each in found["bundles"].items():
        lines.append(
            f"| {name} | {each['float32'] / 1e6:.1f} MB | {each['int8'] / 1e6:.1f} MB | "
            f"{each['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/demo"))
    folder = parser.parse_args().folder
    engines = [name for name in ("onnxruntime", "openvino") if installed(name)]
    versions = ", ".join(f"{name} {make_engine(name).version}" for name in engines)
    found: dict[str, Any] = {"machine": f"{cpu()}, {versions}", "bundles": {}, "runs": {}}
    runs = {path.parent.name: path.parent for path in sorted(folder.glob("*/run.json"))}
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted(folder.glob("bundle-*")):
            bundle = Path(scratch) / source.name
            copy_bundle(source, bundle)
            programs = read_bundle(bundle).bundle.programs
            first = runs[next(name for name in programs if name in runs)]
            begin = time.perf_counter()
            quantize_bundle(bundle, first)
            seconds = time.perf_counter() - begin
            sizes = read_bundle(bundle).bundle
            found["bundles"][source.name] = {
                "float32": sizes.weights.size,
                "int8": sizes.variants["int8"].weights.size,
                "seconds": round(seconds, 1),
            }
            for name in programs:
                if name in runs:
                    found["runs"][name] = measured(runs[name], bundle, engines)
                    print(name, json.dumps(found["runs"][name]), flush=True)
    (RESULTS / "int8.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "int8.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
