"""`make demo`: four methods learn the built-in stream, and a running device takes every new task.

For each method a bundle is exported once, before anything is learned. Then, task after task: the
workstation learns, writes a pack and a release, and the device takes it while a thread of it goes
on answering requests. At the end every answer of the device is compared with PyTorch's.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from edgecl import (
    Backbone,
    Clip,
    Learner,
    Stream,
    choose_compute,
    learn_stream,
    load_backbone,
    load_clip,
    load_stream,
    new_learner,
)
from edgecl.report import write_comparison
from edgecl_deploy import Classifier, DeployError, read_bundle
from edgecl_export import export_bundle, export_packs, export_release, inspect

# Without adapters layup and ranpac are closed forms: no step of a gradient, and as accurate here.
CLOSED = {"first_session": "none"}
METHODS: dict[str, dict[str, Any]] = {
    "simplecil": {},
    "layup": CLOSED,
    "ranpac": CLOSED,
    "cgil": {},  # learns text prompts, on a CLIP
}
BY_NAME = {"cgil": "edgecl-clip-s"}
BACKBONE = "vit-s14"
PAUSE = 0.2  # seconds between two requests, of one thread: the other core learns
WAIT = 3  # requests that a new release must have answered before the next task is learned
PATIENCE = 60.0  # seconds that these may take
TIMED = 25  # images for the latency
NEXT = (
    "next, your own images: edgecl train layup --stream FOLDER --increment 5 --out run  "
    "(FOLDER/CLASS/*.jpg; then the tour in README.md)"
)


@dataclass
class Requests:
    """What became of the requests to a running device."""

    answered: int = 0
    dropped: int = 0
    by_release: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Service:
    """An application on the device: a thread that asks for one picture after the other."""

    def __init__(self, device: Classifier, pictures: list[Image.Image]) -> None:
        self.device = device
        self.pictures = pictures
        self.requests = Requests()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        count = 0
        while not self._stop.wait(PAUSE):
            picture = self.pictures[count % len(self.pictures)]
            count += 1
            try:
                (answer,) = self.device.predict([picture])
            except DeployError as error:
                self._drop(str(error))
                continue
            if answer.error is not None:
                self._drop(answer.error)
                continue
            self.requests.answered += 1
            seen = self.requests.by_release
            seen[answer.release] = seen.get(answer.release, 0) + 1

    def _drop(self, error: str) -> None:
        self.requests.dropped += 1
        self.requests.errors.append(error)

    @contextmanager
    def running(self) -> Iterator["Service"]:
        """Answer requests until the block ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def take(self, release: Path) -> float:
        """Take a release while requests are answered; return the seconds of the swap.

        Raises:
            SystemExit: if the new release answers nothing.
        """
        start = time.perf_counter()
        number = self.device.swap(release)
        seconds = time.perf_counter() - start
        patience = time.monotonic() + PATIENCE
        while self.requests.by_release.get(number, 0) < WAIT:
            if time.monotonic() > patience or not self._thread.is_alive():
                raise SystemExit(
                    f"release {number} must answer requests, found {self.requests}. "
                    "Please report it."
                )
            time.sleep(PAUSE / 4)
        return seconds


def main() -> None:
    """Run the demo and write its summary.

    Raises:
        SystemExit: if a request was dropped.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--stream", default="emoji-demo")
    parser.add_argument("--tasks", type=int, help="learn the first tasks only")
    parser.add_argument("--image-size", type=int, default=84, help="pixels")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--json", action="store_true", help="print the summary, not the table")
    arguments = parser.parse_args()
    began = time.perf_counter()
    shutil.rmtree(arguments.out, ignore_errors=True)
    stream = load_stream(arguments.stream, seed=arguments.seed, tasks=arguments.tasks)
    methods = {name: run_method(name, stream, arguments) for name in arguments.methods}
    report = write_comparison(
        [arguments.out / name for name in methods], arguments.out / "report.html"
    )
    summary = {
        "stream": stream.name,
        "classes": len(stream.classes),
        "tasks": len(stream.tasks),
        "seed": arguments.seed,
        "methods": methods,
        "requests": sum(each["requests"] for each in methods.values()),
        "dropped": sum(each["dropped"] for each in methods.values()),
        "updates": sum(len(each["swap_ms"]) for each in methods.values()),
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time(), 1),
        "machine": machine(),
    }
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(summary))
    else:
        show(summary, report)
    if summary["dropped"]:
        raise SystemExit(f"{summary['dropped']} requests were dropped: see summary.json")


def run_method(name: str, stream: Stream, arguments: argparse.Namespace) -> dict[str, Any]:
    """Learn, ship and classify the whole stream with one method.

    Raises:
        SystemExit: if learning changed the bundle.
    """
    say(f"{name}: exporting the bundle")
    out = arguments.out / name
    backbone = load(BY_NAME.get(name, BACKBONE), arguments.image_size)
    compute = choose_compute("cpu", arguments.precision)
    learner = new_learner(
        out, name, backbone, stream, config=METHODS[name], seed=arguments.seed, compute=compute
    )
    bundle = arguments.out / f"bundle-{learner.backbone.name}"
    exported = export_bundle(learner, bundle)

    summary = learn_stream(learner, first(stream, 1))
    device = Classifier.open(bundle, ship(learner, bundle, 1), threads=1)
    pictures = [stream.tasks[0].test.image(i) for i in range(len(stream.tasks[0].test))]
    stages = [report_stage(device, stream, 1)]
    swaps = []
    with Service(device, pictures).running() as service:
        for count in range(2, len(stream.tasks) + 1):
            summary = learn_stream(learner, first(stream, count))
            swaps.append(1000 * service.take(ship(learner, bundle, count)))
            stages.append(report_stage(device, stream, count, service.requests))
    if read_bundle(bundle).digest != exported:
        raise SystemExit(f"{bundle} must not change while tasks are learned, but it did")
    return {
        "config": METHODS[name],
        "backbone": {"name": learner.backbone.name, "digest": learner.backbone.digest},
        "precision": learner.run.header["precision"],
        "a_last": summary.a_last,
        "a_avg": summary.a_avg,
        "forgetting": summary.forgetting,
        "pack_bytes": pack_bytes(out / "packs"),
        "device_stages": stages,
        "agreement": agreement(device, learner, stream),
        "ms_per_image": latency(device, stream),
        "swap_ms": swaps,
        "requests": service.requests.answered,
        "dropped": service.requests.dropped,
        "errors": service.requests.errors[:3],
        "train_seconds": list(summary.seconds),
    }


def load(name: str, image_size: int) -> Backbone | Clip:
    """Load an image tower, or both towers of a CLIP."""
    loader = load_clip if name in BY_NAME.values() else load_backbone
    return loader(name, image_size=image_size)


def first(stream: Stream, count: int) -> Stream:
    """Return the stream's first tasks; the learner goes on where it was."""
    return replace(stream, tasks=stream.tasks[:count])


def ship(learner: Learner, bundle: Path, count: int) -> Path:
    """Write the newest task's pack and a release of all packs so far."""
    packs = learner.run.path / "packs"
    release = learner.run.path / "releases" / str(count)
    export_packs(learner, packs)
    export_release(packs, release, bundle)
    return release


def report_stage(
    device: Classifier, stream: Stream, count: int, requests: Requests | None = None
) -> float:
    """Classify the test images of the first tasks on the device; return the share that is right."""
    right = total = 0
    for task in stream.tasks[:count]:
        images = [task.test.image(i) for i in range(len(task.test))]
        for prediction, label in zip(device.predict(images), task.test.labels, strict=True):
            right += prediction.label == stream.classes[label]
            total += 1
    served = f", {requests.answered} requests answered meanwhile" if requests else ""
    say(
        f"  release {device.release}: the device knows {len(device.classes)} classes, "
        f"{right / total:.1%} right{served}"
    )
    return right / total


def agreement(device: Classifier, learner: Learner, stream: Stream) -> float:
    """Return on how many test images the device chooses the class that PyTorch chooses."""
    images = np.concatenate([learner.load_test(task.test).images for task in stream.tasks])
    wanted = learner.predict(images).scores.argmax(dim=-1).numpy()
    return float((device.scores(images).scores.argmax(axis=1) == wanted).mean())


def latency(device: Classifier, stream: Stream) -> float:
    """Return the median milliseconds from a decoded image to its label, one image at a time."""
    test = stream.tasks[-1].test
    times = []
    for i in range(TIMED):
        image = test.image(i % len(test))
        start = time.perf_counter()
        device.predict([image])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def pack_bytes(packs: Path) -> list[int]:
    """Return what each task's update weighs: manifest and tensors."""
    found = inspect(packs)["packs"].values()
    return [pack["manifest_bytes"] + pack["blob_bytes"] for pack in found]


def machine() -> str:
    """Name the processor, its cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0].strip() if names else model
    return (
        f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {importlib.metadata.version('onnxruntime')}"
    )


def say(line: str) -> None:
    """Tell what happens, beside the result."""
    print(line, file=sys.stderr, flush=True)


def kilobytes(sizes: list[int]) -> str:
    """Show the sizes of packs: one figure where all are nearly alike."""
    low, high = min(sizes) / 1000, max(sizes) / 1000
    return f"{high:.1f}" if high < 1.05 * low else f"{low:.0f} to {high:.0f}"


def show(summary: dict[str, Any], report: Path) -> None:
    """Print the table."""
    table = Table(
        title=f"{summary['stream']}: {summary['classes']} classes in {summary['tasks']} tasks",
        title_justify="left",
    )
    table.add_column("method")
    for column in (
        "accuracy: last",
        "average",
        "forgetting",
        "KB per task",
        "device = PyTorch",
        "ms/image",
    ):
        table.add_column(column, justify="right")
    for name, m in summary["methods"].items():
        table.add_row(
            name,
            f"{m['a_last']:.1%}",
            f"{m['a_avg']:.1%}",
            f"{m['forgetting']:.1%}",
            kilobytes(m["pack_bytes"]),
            f"{m['agreement']:.1%}",
            f"{m['ms_per_image']:.1f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    precisions = sorted({m["precision"] for m in summary["methods"].values()})
    for line in (
        f"The device answered {summary['requests']} requests while it took {summary['updates']} "
        f"updates: {summary['dropped']} dropped.",
        f"{summary['seconds']:.0f} s, {summary['processor_seconds']:.0f} s of processor time, in "
        f"{' and '.join(precisions)} on {summary['machine']}",
        f"report: {report}    figures: {report.parent / 'summary.json'}",
        NEXT,
    ):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
