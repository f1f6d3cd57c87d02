"""`make demo`: three methods learn a stream; a torch-free runtime follows with every pack.

For each method and task: learn, export the task's pack, make a release, swap it into the running
classifier, and classify all test images so far on the device side. The bundle is exported once per
method and must not change afterwards.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from edgecl.backbones import Backbone, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.progress import Reporter, RichReporter
from edgecl.report import write_comparison
from edgecl.session import learn_stream, learn_task, new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier
from edgecl_deploy.files import read_bundle
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.verification import verify

METHODS = ("simplecil", "l2p", "aper-adapter")
# The paper's schedule means 20 steps on 60 images; this one was chosen among four on a validation
# split of the training images of the first three tasks.
CONFIG = {"l2p": {"schedule": {"lr": 0.01, "epochs": 20}}}
TIMED = 40  # images for the latency


def main() -> None:
    """Run the demo and write its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--stream", default="emoji-demo")
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument(
        "--json", action="store_true", help="print the summary instead of the table"
    )
    arguments = parser.parse_args()
    began = time.perf_counter()
    shutil.rmtree(arguments.out, ignore_errors=True)
    reporter = RichReporter() if sys.stderr.isatty() else Reporter()
    backbone = load_backbone(arguments.backbone)
    stream = load_stream(arguments.stream, seed=arguments.seed)
    cache = FeatureCache(cache_dir(), backbone.digest)
    methods = {}
    for name in METHODS:
        print(f"{name}:", file=sys.stderr)
        methods[name] = run_method(name, backbone, stream, arguments, cache, reporter)
    report = write_comparison(
        [arguments.out / name for name in METHODS], arguments.out / "report.html"
    )
    summary = {
        "methods": methods,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
        "stream": stream.name,
        "protocol": f"{stream.protocol}, {len(stream.tasks)} tasks, seed {arguments.seed}, "
        "one image at a time",
        "backbone": {"name": backbone.name, "digest": backbone.digest},
    }
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(summary))
    else:
        show(summary, report)


def run_method(
    name: str,
    backbone: Backbone,
    stream: Stream,
    arguments: argparse.Namespace,
    cache: FeatureCache,
    reporter: Reporter,
) -> dict[str, Any]:
    """Learn, ship and classify the whole stream with one method.

    Raises:
        SystemExit: if learning changed the bundle.
    """
    out, bundle = arguments.out / name, arguments.out / "bundle"
    learner = new_learner(
        out,
        name,
        backbone,
        stream,
        config=CONFIG.get(name),
        seed=arguments.seed,
        reporter=reporter,
        cache=cache,
    )
    exported = export_program(learner.method.program, backbone, bundle, reporter)
    device: Classifier | None = None
    swaps: list[float] = []
    stages: list[float] = []
    for index, task in enumerate(stream.tasks):
        tests = [earlier.test for earlier in stream.tasks[: index + 1]]
        learn_task(learner, task, stream.classes, tests)
        packs, release = out / "packs", out / "releases" / str(index + 1)
        export_packs(learner.run, packs)
        export_release(packs, release, bundle)
        if device is None:
            device = Classifier.open(bundle, release)
        else:
            start = time.perf_counter()
            device.swap(release)
            swaps.append(1000 * (time.perf_counter() - start))
        stages.append(device_accuracy(device, stream, index + 1))
        print(
            f"  release {device.release}: {len(device.classes)} classes, "
            f"{stages[-1]:.1%} on the device",
            file=sys.stderr,
        )
    assert device is not None
    if read_bundle(bundle).digest != exported:
        raise SystemExit("the bundle changed while tasks were learned: it must not")
    summary = learn_stream(learner, stream)  # nothing is left to learn: sums up
    verified = verify(learner, bundle, release)
    images, wanted = test_images(learner, stream)
    got = device.scores(images).scores.argmax(axis=1)
    return {
        "a_last": summary.a_last,
        "a_avg": summary.a_avg,
        "forgetting": summary.forgetting,
        "task_id_accuracy": summary.task_id_accuracy,
        "bundle_bytes": sum(file.stat().st_size for file in bundle.iterdir()),
        "pack_bytes": [pack_bytes(packs, task) for task in range(len(stream.tasks))],
        "device_accuracy": stages[-1],
        "agreement": float((got == wanted).mean()),
        "ms_per_image": latency(device, stream),
        "swap_ms": statistics.median(swaps),
        "device_stages": stages,
        "score_error": max(check.score_error for check in verified.checks),
        "train_seconds": list(summary.seconds),
    }


def device_accuracy(device: Classifier, stream: Stream, tasks: int) -> float:
    """Classify the test images of the first tasks on the device, one path from image to label."""
    right = total = 0
    for task in stream.tasks[:tasks]:
        images = [task.test.image(i) for i in range(len(task.test))]
        for prediction, label in zip(device.predict(images), task.test.labels, strict=True):
            right += prediction.label == stream.classes[label]
            total += 1
    return right / total


def test_images(learner: Any, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Return all test images, preprocessed, and the rows that the float32 learner chooses."""
    images = np.concatenate([
        learner.load(task.test, "test images").images for task in stream.tasks
    ])
    return images, learner.predict(images).scores.argmax(dim=-1).numpy()


def latency(device: Classifier, stream: Stream) -> float:
    """Return the median milliseconds from a decoded image to its label, one image at a time."""
    test = stream.tasks[-1].test
    images: list[Image.Image] = [test.image(i % len(test)) for i in range(TIMED)]
    times = []
    for image in images:
        start = time.perf_counter()
        device.predict([image])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def pack_bytes(packs: Path, task: int) -> int:
    """Return what one task's update weighs: manifest and blobs."""
    from edgecl_deploy.format import parse_index, parse_pack

    name = parse_index((packs / "index.json").read_bytes()).packs[task]
    manifest = (packs / "packs" / f"{name}.json").read_bytes()
    return len(manifest) + sum(parse_pack(manifest).blobs.values())


def machine() -> str:
    """Name the processor, its cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0].strip() if names else model
    import onnxruntime

    return (
        f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    )


def show(summary: dict[str, Any], report: Path) -> None:
    """Print the table."""
    table = Table(title=f"{summary['stream']} ({summary['protocol']})")
    table.add_column("method")
    for column in (
        "A_last",
        "average",
        "forgetting",
        "task id",
        "bundle MB",
        "KB per task",
        "device",
        "agreement",
        "ms/image",
        "ms/swap",
    ):
        table.add_column(column, justify="right")
    for name, m in summary["methods"].items():
        first, *later = m["pack_bytes"]
        later_kb = statistics.mean(later) / 1000
        kb = (
            f"{later_kb:.1f}"
            if abs(first - later_kb * 1000) < 2000
            else f"{first / 1000:.0f}, then {later_kb:.1f}"
        )
        table.add_row(
            name,
            f"{m['a_last']:.1%}",
            f"{m['a_avg']:.1%}",
            f"{m['forgetting']:.1%}",
            f"{m['task_id_accuracy']:.1%}",
            f"{m['bundle_bytes'] / 1e6:.1f}",
            kb,
            f"{m['device_accuracy']:.1%}",
            f"{m['agreement']:.1%}",
            f"{m['ms_per_image']:.1f}",
            f"{m['swap_ms']:.1f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"{summary['seconds']} s on {summary['machine']}", highlight=False)
    console.print(f"report: {report}    figures: {report.parent / 'summary.json'}", highlight=False)


if __name__ == "__main__":
    main()
