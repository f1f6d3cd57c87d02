"""Engines and precisions on the device against PyTorch: milliseconds, and decisions.

`time`: every program in every engine and precision, image sizes, batch sizes and numbers of
threads. The contestants are in one process and run in turns, with a pause before each so that the
threads of the one before have stopped spinning; the ratio to PyTorch is the median over rounds of
the ratio inside a round.

`agree`: whole streams are learned; then all test images run in every engine and precision:
accuracy, agreement with float32, images that were lost and gained, and how many more images are
told as of no class (`rejected`).

`swap`: four readers of one classifier, first quiet, then while releases that add classes are taken
200 times: failed and mixed answers, milliseconds, loads of the backbone.

`report` writes engines.md from all of them.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import NEW_CONCEPTS
from machine import machine
from turns import in_turns

from edgecl.backbones import load_backbone
from edgecl.learning.learner import Learner
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy.engines import installed, make_engine
from edgecl_deploy.files import ReleaseFiles, read_bundle, read_release
from edgecl_deploy.forms import Mode
from edgecl_deploy.runtime import Classifier
from edgecl_export.bundle import export_bundle
from edgecl_export.licence import Baseline
from edgecl_export.pack import export_packs
from edgecl_export.quantize.variant import quantize_bundle
from edgecl_export.release import export_release
from edgecl_export.samples import Samples
from edgecl_export.verification import write_prefixes

METHODS = ("simplecil", "ranpac", "l2p", "aper-adapter")
TRAINED = ("l2p", "aper-adapter")
STEPS = 100  # of a task
SIZES = (56, 112, 224)  # pixels
BATCHES = (1, 8)
STREAMS: dict[str, dict[str, Any]] = {
    "emoji-demo": {"name": "emoji-demo"},
    "digits": {"name": "digits", "tasks": 5},
    "fashion-mnist": {
        "name": "fashion-mnist",
        "tasks": 5,
        "limit_train": 2000,
        "limit_test": 2000,
    },
    "openemoji10": NEW_CONCEPTS,
}
QUICK = {"name": "emoji-demo", "tasks": 1, "limit_train": 80, "limit_test": 20}
PAUSE = 0.02  # seconds before a turn
WARM_UP = 3  # rounds
READERS, SWAPS, QUIET = 4, 200, 10.0  # threads; swaps; seconds without swaps
RESULTS = Path("benchmarks/results/engines.json")
TORCH = "pytorch eager"
CELL = ("stream", "program", "pixels", "threads", "batch", "contestant")


@dataclass(frozen=True)
class Contestant:
    """An engine, a precision, and whether it compiles for the number of images."""

    engine: str
    precision: str
    fixed: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}{', fixed batch' if self.fixed else ''}"


def contestants() -> list[Contestant]:
    """List what runs on this machine."""
    found = []
    for engine in ("onnxruntime", "openvino"):
        if installed(engine):
            able = make_engine(engine).capabilities()
            for precision in ("float32", "bfloat16", "int8", "int8-bfloat16"):
                if precision in able.precisions:
                    found.append(Contestant(engine, precision))
                    if able.compiles:
                        found.append(Contestant(engine, precision, fixed=True))
    return found


@dataclass(frozen=True)
class Shipped:
    """A run, with a bundle that has every variant, and its last release."""

    learner: Learner
    stream: Stream
    bundle: Path
    files: ReleaseFiles

    def opened(
        self, which: Contestant, *, threads: int | None = None, batch: int | None = None
    ) -> Classifier:
        """Open the release in a contestant, whether it has a licence or not."""
        mode = Mode(precision=which.precision, batch=batch if which.fixed else None)
        engine = make_engine(which.engine, threads)
        return Classifier.of_files(self.bundle, self.files, engine, mode)


def ship(
    methods: Sequence[str], size: int, stream: dict[str, Any], folder: Path, epochs: int | None
) -> dict[str, Shipped]:
    """Learn a stream with each method, and export all of them into one bundle.

    Args:
        epochs: of the methods that train; None for their defaults, and at least `STEPS` steps.
    """
    backbone = load_backbone("vit-s14", image_size=size)
    loaded = load_stream(**stream)
    bundle = folder / "bundle"
    learners = {}
    for method in methods:
        schedule = {"epochs": epochs} if epochs else {"min_steps": STEPS}
        config = {"schedule": schedule} if method in TRAINED else None
        learner = new_learner(folder / method, method, backbone, loaded, config=config)
        learn_stream(learner, loaded)
        export_bundle(learner, bundle)
        learners[method] = learner
    quantize_bundle(bundle, next(iter(learners.values())))
    shipped = {}
    for method, learner in learners.items():
        packs, release = learner.run.path / "packs", folder / f"{method}-release"
        export_packs(learner.run, packs)
        export_release(packs, release, bundle)
        shipped[method] = Shipped(learner, loaded, bundle, read_release(release))
    return shipped


def time_all(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time every program at every size."""
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            shipped = ship(arguments.methods, size, QUICK, Path(scratch), epochs=1)
            for method, threads, batch in product(
                arguments.methods, arguments.threads, arguments.batches
            ):
                key = {"program": method, "pixels": size, "threads": threads, "batch": batch}
                rows = time_one(shipped[method], threads, batch, arguments.rounds)
                yield from ({**key, **row} for row in rows)


def time_one(shipped: Shipped, threads: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Time all contestants in turns on one batch."""
    torch.set_num_threads(threads)
    size = shipped.learner.backbone.preprocess.size
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    runs: dict[str, Callable[[], object]] = {TORCH: eager(shipped.learner, images)}
    start: dict[str, float] = {}
    for each in contestants():
        began = time.perf_counter()
        classifier = shipped.opened(each, threads=threads, batch=batch)
        classifier.scores(images)
        start[each.name] = 1000 * (time.perf_counter() - began)
        runs[each.name] = partial(classifier.scores, images)
    times = in_turns(runs, rounds, warm_up=WARM_UP, pause=PAUSE)
    base = times[TORCH]
    return [
        {
            "contestant": name,
            "ms": statistics.median(values) / batch,
            "least_ms": min(values) / batch,
            "faster": statistics.median(b / v for v, b in zip(values, base, strict=True)),
            "start_ms": start.get(name, 0.0),
        }
        for name, values in times.items()
    ]


def eager(learner: Learner, images: np.ndarray) -> Callable[[], object]:
    """Return what PyTorch does with a batch: the program, uncompiled, in float32."""
    learned = learner.learned()
    model, preprocess = learner.backbone.model, learner.backbone.preprocess

    @torch.inference_mode()
    def run() -> object:
        pixels = preprocess.normalise(torch.from_numpy(images))
        return learner.program.infer(model, pixels, learned)

    return run


def agree_all(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Learn every stream with every method, and compare decisions on all test images."""
    for stream in arguments.streams:
        with tempfile.TemporaryDirectory() as scratch:
            shipped = ship(arguments.methods, 112, STREAMS[stream], Path(scratch), epochs=None)
            for method, one in shipped.items():
                key = {"stream": stream, "program": method}
                yield from ({**key, **row} for row in decisions(one))


def decisions(shipped: Shipped) -> Iterator[dict[str, Any]]:
    """Run all test images in every contestant."""
    tests = [task.test for task in shipped.stream.tasks]
    images = np.concatenate([shipped.learner.load(test, "images").images for test in tests])
    truth = tuple(shipped.stream.classes[label] for test in tests for label in test.labels)
    baseline = Baseline.of(shipped.files, shipped.bundle, Samples(images, truth))
    for each in contestants():
        if each.fixed:
            continue
        found = baseline.compare(shipped.opened(each), each.name)
        yield {
            "contestant": each.name,
            "images": found.images,
            "accuracy": (found.right - found.lost + found.gained) / found.images,
            "agreement": found.agreement,
            "lost": found.lost,
            "gained": found.gained,
            "rejected": "" if found.rejected is None else found.rejected,
            "max_error": found.error,
            "weights_mb": weights_mb(shipped, each.precision),
        }


def swap_all(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Swap releases under load in every engine."""
    with tempfile.TemporaryDirectory() as scratch:
        stream = {"name": "emoji-demo", "limit_train": 200, "limit_test": 60}
        shipped = ship(["simplecil"], 112, stream, Path(scratch), epochs=None)["simplecil"]
        releases = list(write_prefixes(shipped.files, Path(scratch) / "prefixes"))
        for each in contestants():
            if not each.fixed:
                yield {"contestant": each.name, **swapped(shipped, each, releases)}


def swapped(shipped: Shipped, which: Contestant, releases: list[Path]) -> dict[str, Any]:
    """Read with four threads, quiet and while releases are swapped."""
    classifier = shipped.opened(which, threads=1)
    random = np.random.default_rng(0)
    size = shipped.learner.backbone.preprocess.size
    images = random.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    files = [read_release(path) for path in releases]
    right = {}
    for each in files:
        classifier.serve(classifier.load(each))
        right[len(classifier.loaded.rows)] = classifier.scores(images).scores
    loads: list[object] = []
    load = classifier.engine.load
    classifier.engine.load = lambda graph: loads.append(graph) or load(graph)  # type: ignore[method-assign]
    quiet, busy, wrong = Times(), Times(), Times()
    into, stop = [quiet], threading.Event()

    def read() -> None:
        while not stop.is_set():
            began, times = time.perf_counter(), into[0]
            got = classifier.scores(images).scores
            times.append(1000 * (time.perf_counter() - began))
            if np.abs(got - right[got.shape[1]]).max() > 1e-4:
                wrong.append(1.0)

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    time.sleep(QUIET)
    into[0] = busy
    swaps = Times()
    for turn in range(SWAPS):
        began = time.perf_counter()
        classifier.serve(classifier.load(read_release(releases[turn % len(releases)])))
        swaps.append(1000 * (time.perf_counter() - began))
        time.sleep(QUIET / SWAPS)
    failed = sum(not reader.is_alive() for reader in readers)
    stop.set()
    for reader in readers:
        reader.join()
    return {
        "swaps": SWAPS,
        "answers": len(quiet) + len(busy),
        "failed": failed,
        "mixed": len(wrong),
        "loads": len(loads),
        "quiet_p50_ms": quiet.at(50),
        "quiet_p99_ms": quiet.at(99),
        "busy_p50_ms": busy.at(50),
        "busy_p99_ms": busy.at(99),
        "swap_ms": swaps.at(50),
    }


class Times(list[float]):
    """Milliseconds of calls."""

    def at(self, percent: float) -> float:
        """Return a percentile."""
        return float(np.percentile(self, percent))


def weights_mb(shipped: Shipped, precision: str) -> float:
    """Return the size of the weights file that a precision reads."""
    bundle = read_bundle(shipped.bundle).bundle
    name = shipped.files.release.program
    return bundle.build(name, precision).weights.size / 1e6


def record(
    results: dict[str, list[dict[str, Any]]], part: str, where: str, rows: list[dict[str, Any]]
) -> None:
    """Keep rows beside those of other machines, and instead of this one's for the same cells."""
    parts = results.setdefault(part, [])
    known = next((each for each in parts if each["machine"] == where), None)
    if known is None:
        known = {"machine": where, "rows": []}
        parts.append(known)
    new = {cell_of(row): row for row in rows}
    known["rows"] = [*(row for row in known["rows"] if cell_of(row) not in new), *new.values()]


def cell_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row is about."""
    return tuple(row.get(name) for name in CELL)


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return engines.md."""
    lines = [
        "# Engines and precisions",
        "",
        "`python benchmarks/engines.py time`, `agree`, `swap`, `report`. The backbone is "
        "`vit-s14`. *Faster* is the median over rounds of PyTorch eager's time over that of the "
        "contestant, in turns in one process.",
    ]
    for part, machines in sorted(results.items(), reverse=True):
        lines += ["", f"## {part}"]
        for found in machines:
            columns = list(found["rows"][0])
            lines += ["", found["machine"], "", f"| {' | '.join(columns)} |"]
            lines.append("|" + "---|" * len(columns))
            lines += [f"| {' | '.join(map(_cell, row.values()))} |" for row in found["rows"]]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("time", "agree", "swap", "report"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="PIXELS")
    parser.add_argument("--threads", nargs="+", type=int, default=(2, 1))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    where = machine()  # before a part changes the number of threads
    if arguments.part != "report":
        rows = []
        for row in {"time": time_all, "agree": agree_all, "swap": swap_all}[arguments.part](
            arguments
        ):
            rows.append(row)
            if not arguments.json:
                print(
                    "  ".join(f"{name} {_cell(value)}" for name, value in row.items()), flush=True
                )
        record(results, arguments.part, where, rows)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        if arguments.json:
            print(json.dumps({"machine": where, "rows": rows}))
    arguments.out.with_suffix(".md").write_text(report(results))


if __name__ == "__main__":
    main()
