"""What the benchmarks of whole methods share: results by cell, runs, bytes, times on the device.

A cell is one stream, one method and one seed; its key is `STREAM/METHOD/SEED`.
"""

import argparse
import fcntl
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from machine import commit, machine

from edgecl.backbones import Backbone, Features
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.summary import Summary
from edgecl.session import choose_compute, learn_stream
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier
from edgecl_deploy.format import parse_index, parse_pack
from edgecl_deploy.progress import Reporter, RichReporter
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.verification import verify

TIMED = 100  # images for the latency, of either side
WARM_UP = 5  # of them
MENDED = ("hide-prompt", "promptfusion")  # after figures without a commit were recorded
DAGGER = "†: recorded before the method was mended (docs/benchmarks.md)."
NEW_CONCEPTS = {  # in the stream's own training styles
    "name": "openemoji10",
    "concepts": "unseen",
    "tasks": 10,
    "increment": 20,
    "test_styles": ("fluent-emoji", "openmoji"),
}
Shipped = tuple[Learner, Path, Path]  # a run, its bundle and its release


def read(file: Path) -> dict[str, Any]:
    """Return the results so far."""
    if file.exists():
        held: dict[str, Any] = json.loads(file.read_text())
        return held
    return {"rates": {}, "settings": {}, "cells": {}}


def record(file: Path, kind: str, key: str, value: Mapping[str, Any]) -> None:
    """Add to one entry of the results; several processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with alone(file.parent):
        results = read(file)
        results[kind].setdefault(key, {}).update(value)
        scratch = file.with_suffix(".part")
        scratch.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        scratch.replace(file)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def reporter() -> Reporter:
    """Show bars to people only."""
    return RichReporter() if sys.stderr.isatty() else Reporter()


def quick(backbone: Backbone) -> tuple[Backbone, str]:
    """Let a backbone compute in bfloat16 where the hardware does.

    Returns:
        It, and how its features are named in the cache: by processor and precision.
    """
    compute = choose_compute()
    if not compute.bfloat16:
        return backbone, compute.device.type
    exact = backbone.model.forward

    def forward(*inputs: Any, **named: Any) -> Features:
        with compute.autocast():
            features = exact(*inputs, **named)
        return features.map(torch.Tensor.float)

    backbone.model.forward = forward  # type: ignore[method-assign]
    return backbone, f"{compute.device.type}-bfloat16"


def validated(begin: Callable[[Path], Learner], stream: Stream) -> float:
    """Learn a stream in a folder that is thrown away; return A_last, 0 if it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        learner = begin(Path(folder) / "run")
        try:
            return learn_stream(learner, stream).a_last
        except MethodError as error:
            print(error, file=sys.stderr)
            return 0.0


def described(stream: Stream, learner: Learner, summary: Summary) -> dict[str, Any]:
    """Return what the tables say of a stream and of how it was learned."""
    return {
        "stream": stream.spec, "tasks": len(stream.tasks), "classes": len(stream.classes),
        "pixels": learner.backbone.preprocess.size, "backbone": learner.backbone.digest,
        "train_images": list(summary.train_images), "test_images": list(summary.test_images),
    }  # fmt: skip


def measured(learner: Learner, summary: Summary, names: Sequence[str]) -> dict[str, Any]:
    """Return these figures of a finished run, its packs' bytes, and what it was made with."""
    packs = learner.run.path / "packs"
    export_packs(learner.run, packs)
    figures = summary.to_json()
    learned, unknown = zip(
        *(pack_bytes(packs, task) for task in range(len(learner.run))), strict=True
    )
    return {name: figures[name] for name in names} | {
        "config": asdict(learner.method.config),
        "pack_bytes": list(learned),
        "unknown_bytes": list(unknown),
        "passes": learner.method.program.cost or str(len(learner.method.program.passes)),
        "precision": learner.run.header["precision"], "machine": machine(), "commit": commit(),
    }  # fmt: skip


def conditions(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return on what, and in which precision, cells were made."""
    return sorted({f"{cell['machine']}, backbone in {cell['precision']}" for cell in cells})


def letters(cells: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str:
    """Return the letters of the conditions of a row, of those that its table knows."""
    return " ".join(chr(ord("a") + known.index(each)) for each in conditions(cells))


def legend(known: Sequence[str]) -> str:
    """Return what the letters of a table are."""
    return "; ".join(f"({chr(ord('a') + index)}) {each}" for index, each in enumerate(known))


def label(entry: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a row, marked if it is of a time before its method was mended."""
    return (
        f"{entry} †" if entry in MENDED and not all("commit" in each for each in cells) else entry
    )


def median_seconds(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the seconds of a task, of the runs that had the machine to themselves."""
    timed = [statistics.median(cell["seconds"]) for cell in cells if "seconds" in cell]
    return f"{statistics.median(timed):.1f}" if timed else ""


def record_cell(file: Path, key: str, values: Mapping[str, Any], began: float) -> None:
    """Add a finished run to the results and say so."""
    record(file, "cells", key, values)
    print(
        f"{key}: {values['a_last']:.1%}, {time.perf_counter() - began:.0f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def pack_bytes(packs: Path, task: int) -> tuple[int, int]:
    """Return what one task's update weighs, manifest and blobs: learned tensors, and beside them.

    The second is what tells an image of no class.
    """
    name = parse_index((packs / "index.json").read_bytes()).packs[task]
    manifest = (packs / "packs" / f"{name}.json").read_bytes()
    pack = parse_pack(manifest)
    whole = len(manifest) + sum(pack.blobs.values())
    if pack.unknown is None:
        return whole, 0
    blobs = {blob: size for blob, size in pack.blobs.items() if blob != pack.unknown.blob}
    learned = len(replace(pack, unknown=None, blobs=blobs).to_bytes()) + sum(blobs.values())
    return learned, whole - learned


def ship(learner: Learner, bundle: Path, out: Path) -> Shipped:
    """Export a finished run; `out` is its folder."""
    export_program(learner.method.program, learner.backbone, bundle)
    export_packs(learner.run, out / "packs")
    export_release(out / "packs", out / "release", bundle)
    return learner, bundle, out / "release"


def on_device(one: Shipped, base: Classifier, images: list[Any]) -> dict[str, Any]:
    """Verify a shipped run and time it against a base, in turns.

    The ratio is the median over pairs of neighbours, which a machine that slows down slows alike.
    """
    verified = verify(*one)
    ours, theirs = alternately(Classifier.open(*one[1:]), base, images)
    return {
        "device_ms": statistics.median(ours), "plain_ms": statistics.median(theirs),
        "device_ratio": statistics.median(map(truediv, ours, theirs)),
        "verified": not verified.failures(), "device_machine": machine(),
    }  # fmt: skip


def options(description: str, parts: Sequence[str], **defaults: Any) -> argparse.Namespace:
    """Read the command line of a benchmark.

    Args:
        parts: what it can do, one at a time.
        defaults: of the options; those of streams and methods are all that may be chosen.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    for name in ("streams", "methods"):
        known = list(defaults[name])
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=defaults["seeds"], metavar="SEED")
    parser.add_argument("--out", type=Path, default=defaults["out"], help="folder of the results")
    parser.add_argument("--work", type=Path, default=defaults["work"], help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--shared", action="store_true", help="other work runs besides: record no times of learning"
    )
    return parser.parse_args()


def time_all(
    setting: str,
    names: Sequence[str],
    plain: str,
    seed: int,
    shipped: Callable[[str], Shipped | None],
    file: Path,
) -> None:
    """Verify the runs of a stream and time each on the device's runtime, in turns with one of them.

    Args:
        plain: the run that others are timed against.
        shipped: exports a run; None if there is none.

    Raises:
        SystemExit: if there is no run of `plain`.
    """
    first = shipped(plain)
    if first is None:
        raise SystemExit(f"{setting} has no run of {plain}: it is what others are timed against.")
    images = test_images(first)
    base = Classifier.open(*first[1:])
    for entry in names:
        key = f"{setting}/{entry}/{seed}"
        if "device_ms" in read(file)["cells"].get(key, {"device_ms": 0}):
            continue
        one = shipped(entry)
        if one is None:
            continue
        found = on_device(one, base, images)
        record(file, "cells", key, found)
        print(
            f"{key}: {found['device_ms']:.1f} ms, {found['device_ratio']:.2f} x",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def test_images(one: Shipped) -> list[Any]:
    """Return test images of a run's stream as they are decoded."""
    stream = load_stream(**one[0].run.header["stream"])
    test = stream.tasks[-1].test
    return [test.image(index % len(test)) for index in range(TIMED)]


def alternately(ours: Classifier, base: Classifier, images: list[Any]) -> list[list[float]]:
    """Return the milliseconds per image of both, measured in turns, behind a warm-up."""
    times: list[list[float]] = [[], []]
    for image in images:
        for side, classifier in enumerate((ours, base)):
            began = time.perf_counter()
            classifier.predict([image])
            times[side].append(1000 * (time.perf_counter() - began))
    return [side[WARM_UP:] for side in times]
