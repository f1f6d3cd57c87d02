"""The vision-language methods: what they learn, and what of CLIP they forget.

    python benchmarks/vlm.py run      # learn: every method, stream and seed; goes on where it was
                                      # stopped, task by task
    python benchmarks/vlm.py device   # export the runs of the first seed, time them
    python benchmarks/vlm.py report   # results/vlm.md

`edgecl-clip-s`; `mtil-mini` in two orders (protocol mtil: Transfer, Avg and Last with the label set
of the image's task given; A_last and CI-Transfer without), and the unseen concepts of `openemoji10`
in ten tasks of twenty classes. No augmentation. Where the hardware multiplies bfloat16, the image
tower computes in it when it evaluates too. `--streams`, `--methods` and `--seeds` do a part.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cells import (
    NEW_CONCEPTS,
    on_device,
    pack_bytes,
    quick,
    read,
    record,
    reporter,
    ship,
    test_images,
)
from machine import machine
from vlm_report import write_report

from edgecl.backbones import load_clip
from edgecl.cache import cache_dir
from edgecl.features import FeatureCache
from edgecl.learner import Learner
from edgecl.methods import methods
from edgecl.session import learn_stream, new_learner, open_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier
from edgecl_export.pack import export_packs

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "vlm"
SEEDS = (1993, 1994, 1995)  # of training and, where the stream has no fixed order, of the classes
CLIP = "edgecl-clip-s"


@dataclass(frozen=True)
class Setting:
    """A stream and what is asked."""

    stream: Mapping[str, Any]
    protocol: str


SETTINGS = {
    "mtil-mini-1": Setting({"name": "mtil-mini", "order": 1}, "mtil"),
    "mtil-mini-2": Setting({"name": "mtil-mini", "order": 2}, "mtil"),
    "openemoji10": Setting(NEW_CONCEPTS, "mtil"),
}
# Nothing is tuned here: methods run with their defaults. DIKI's published batch of 128 would leave
# ten steps to a task of a hundred images.
CONFIGS: dict[str, dict[str, Any]] = {"diki": {"schedule": {"batch_size": 16}}}


def entries() -> list[str]:
    """Return the methods that read class names."""
    return [name for name, method in methods().items() if method.needs_text]


def main() -> None:
    """Do one part of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("run", "device", "report"))
    parser.add_argument("--streams", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=entries(), default=entries())
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    file = arguments.out / "vlm.json"
    if arguments.part == "run":
        for seed in arguments.seeds:
            for setting in arguments.streams:
                for entry in arguments.methods:
                    learn(setting, entry, seed, arguments.work, file)
    elif arguments.part == "device":
        for setting in arguments.streams:
            time_all(setting, arguments.methods, arguments.seeds[0], arguments.work, file)
    results = read(file)
    write_report(results, file)
    if arguments.json:
        print(json.dumps(results))


def start(entry: str, setting: Setting, stream: Stream, seed: int, out: Path) -> Learner:
    """Open a run that was begun, or begin it."""
    clip = load_clip(CLIP)
    visual, precision = quick(clip.visual)
    cache = FeatureCache(cache_dir(), visual.digest, precision)
    if (out / "run.json").exists():
        return open_learner(out, backbone=clip, cache=cache, reporter=reporter())
    return new_learner(
        out, entry, clip, stream, config=CONFIGS.get(entry), seed=seed, cache=cache,
        protocol=setting.protocol, reporter=reporter(),
    )  # fmt: skip


def learn(setting: str, entry: str, seed: int, work: Path, file: Path) -> None:
    """Learn one stream with one method and record its figures; nothing if that was done."""
    key = f"{setting}/{entry}/{seed}"
    if "a_last" in read(file)["cells"].get(key, {}):
        return
    stream = load_stream(**SETTINGS[setting].stream, seed=seed)
    out, began = work / key, time.perf_counter()
    learner = start(entry, SETTINGS[setting], stream, seed, out)
    metrics = learn_stream(learner, stream)
    packs = out / "packs"
    export_packs(learner.run, packs)
    tasks = range(len(stream.tasks))
    described = {
        "stream": {**stream.spec}, "protocol": SETTINGS[setting].protocol, "tasks": len(tasks),
        "classes": len(stream.classes), "backbone": learner.backbone.digest,
        "train_images": metrics["train_images"], "test_images": metrics["test_images"],
        "pixels": learner.backbone.preprocess.size, "precision": learner.run.header["precision"],
    }  # fmt: skip
    record(file, "settings", setting, described)
    kept = ("a_last", "a_avg", "forgetting", "task_id_accuracy", "seconds", "mtil", "ci_transfer")
    values = {name: metrics[name] for name in kept} | {
        "config": asdict(learner.method.config),
        "trained": trained_parameters(learner),
        "pack_bytes": [pack_bytes(packs, task) for task in tasks],
        "kept_bytes": learner.run.record(tasks[-1])["kept_bytes"],
        "exemplars": learner.run.record(tasks[-1])["exemplars"],
        "passes": learner.method.runs or str(len(learner.method.passes)),
        "machine": machine(),
    }
    record(file, "cells", key, values)
    print(
        f"{key}: {metrics['a_last']:.1%}, {time.perf_counter() - began:.0f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def trained_parameters(learner: Learner) -> int:
    """Count what the last task trained: what ships of it, what does not, and class prompts.

    CGIL's autoencoders are not among it: they make features, and no figure runs them.
    """
    declared, local = learner.declared, learner.method.local()
    last = len(learner.run) - 1
    classes = len(learner.run.rows()[last])
    ships = [p for name, p in learner.run.part(last).items() if declared[name].trained]
    prompts = [p for name, p in learner.run.kept().items() if name.startswith("prompt_")]
    return sum(p.numel() for p in ships + prompts) + sum(
        math.prod(item.shape(classes)) for item in local.values()
    )


def time_all(setting: str, names: list[str], seed: int, work: Path, file: Path) -> None:
    """Export the runs, verify them, and time each on the device's runtime against zero-shot.

    Raises:
        SystemExit: if there is no run of zero-shot.
    """

    def shipped(entry: str) -> tuple[Learner, Path, Path] | None:
        out = work / setting / entry / str(seed)
        if not (out / "metrics.json").exists():
            return None
        learner = open_learner(out, backbone=load_clip(CLIP))
        return ship(learner, work / "bundles" / setting / entry, out)

    plain = shipped("zero-shot")
    if plain is None:
        raise SystemExit(f"{setting} has no run of zero-shot: it is what others are timed against.")
    images = test_images(plain)
    base = Classifier.open(*plain[1:])
    for entry in names:
        key = f"{setting}/{entry}/{seed}"
        one = None if "device_ms" in read(file)["cells"].get(key, {}) else shipped(entry)
        if one is not None:
            record(file, "cells", key, on_device(one, base, images))


if __name__ == "__main__":
    main()
