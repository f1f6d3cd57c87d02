"""The vision-language methods: what they learn, and what of CLIP they forget.

    python benchmarks/vlm.py tune     # choose learning rates and sizes: on training images only
    python benchmarks/vlm.py run      # learn: every method, stream and seed; goes on where it was
                                      # stopped, task by task
    python benchmarks/vlm.py device   # export the runs of the first seed, time them
    python benchmarks/vlm.py report   # results/vlm.md

`edgecl-clip-s`; `mtil-mini` in two orders (protocol mtil: Transfer, Avg and Last with the label set
of the image's task given; A_last and CI-Transfer without), and the unseen concepts of `openemoji10`
in ten tasks of twenty classes. No augmentation. Where the hardware multiplies bfloat16, the image
tower computes in it when it evaluates too. `--streams`, `--methods` and `--seeds` do a part.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cells import (
    NEW_CONCEPTS,
    Shipped,
    described,
    measured,
    options,
    quick,
    read,
    record,
    record_cell,
    reporter,
    ship,
    time_all,
    validated,
)
from vlm_report import write_report

from edgecl.backbones import load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.learning.learner import Learner
from edgecl.methods import methods
from edgecl.session import learn_stream, new_learner, open_learner
from edgecl.streams import Stream, load_stream, split_validation
from edgecl.streams._openemoji import TRAIN_STYLES

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
HELD_STYLE = "emojione"  # of openemoji10's training images, for what is chosen
NEW_STYLE = NEW_CONCEPTS | {
    "tasks": 5,
    "train_styles": tuple(style for style in TRAIN_STYLES if style != HELD_STYLE),
    "test_styles": (HELD_STYLE,),
}
MIXED_TASKS, HELD_SHARE = 4, 0.25  # of mtil-mini's tasks, of their training images
# Of methods that train on the images, at most; published batches, up to 128, would leave a task of
# a hundred images a few steps. The others train on features.
BUDGET = {"epochs": 6, "batch_size": 16}
ON_FEATURES = ("cgil", "joint-prompts")
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # factors on the default learning rate
CHOICES: dict[str, list[dict[str, Any]]] = {  # besides it; what comes first is the default
    "cgil": [{}, {"hidden": 128, "latent": 16}, {"hidden": 256, "latent": 32}],
}


def entries() -> list[str]:
    """Return the methods that read class names."""
    return [name for name, method in methods().items() if method.needs_text]


def main() -> None:
    """Do one part of the benchmark."""
    arguments = options(
        __doc__, ("tune", "run", "device", "report"),
        streams=SETTINGS, methods=entries(), seeds=SEEDS, out=RESULTS, work=WORK,
    )  # fmt: skip
    file = arguments.out / "vlm.json"
    if arguments.part == "tune":
        for entry in arguments.methods:
            tune(entry, file)
    elif arguments.part == "run":
        for seed in arguments.seeds:
            for setting in arguments.streams:
                for entry in arguments.methods:
                    learn(setting, entry, seed, arguments.work, file, arguments.shared)
    elif arguments.part == "device":
        for setting in arguments.streams:
            seed = arguments.seeds[0]
            export = partial(shipped, setting, seed=seed, work=arguments.work)
            time_all(setting, arguments.methods, "zero-shot", seed, export, file)
    results = read(file)
    write_report(results, file)
    if arguments.json:
        print(json.dumps(results))


def ladders(entry: str) -> list[list[dict[str, Any]]]:
    """Return what may be chosen: for every choice besides the rate its configurations by rate."""
    field = methods()[entry].config_type.__dataclass_fields__.get("schedule")
    if field is None:
        return []
    least = {name: min(most, getattr(field.default, name)) for name, most in BUDGET.items()}
    budget = {} if entry in ON_FEATURES else least
    schedules = [{**budget, "lr": field.default.lr * rate} for rate in RATES]
    return [
        [{**own, "schedule": schedule} for schedule in schedules]
        for own in CHOICES.get(entry, [{}])
    ]


def untried(entry: str, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the configuration to try next.

    Every choice is tried at three rates; then the neighbours of the best, as long as it moves.
    """
    middle, wanted = len(RATES) // 2, []
    for ladder in ladders(entry):
        wanted += [ladder[middle], ladder[middle - 1], ladder[middle + 1]]
    for ladder in ladders(entry):
        if tried and best(tried) in ladder:
            place = ladder.index(best(tried))
            wanted += ladder[max(place - 1, 0) : place + 2]
    known = [one["config"] for one in tried]
    return next((config for config in wanted if config not in known), None)


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the configuration of the highest A_last; of equals the one tried first."""
    config: dict[str, Any] = max(tried, key=lambda one: one["a_last"])["config"]
    return config


def validation_streams() -> list[Stream]:
    """Return what configurations are chosen on; no test image is in it.

    Tasks of new concepts are alike; what learns them may still destroy itself on tasks that differ.
    """
    mixed = load_stream(**SETTINGS["mtil-mini-1"].stream, seed=SEEDS[0])
    tasks = []
    for task in mixed.tasks[:MIXED_TASKS]:
        train, held = split_validation(task, HELD_SHARE, SEEDS[0])
        tasks.append(replace(task, train=train, test=held))
    classes = mixed.classes[: sum(len(task.classes) for task in tasks)]
    mixed = replace(mixed, classes=classes, tasks=tuple(tasks))
    return [load_stream(**NEW_STYLE, seed=SEEDS[0]), mixed]


def tune(entry: str, file: Path) -> None:
    """Choose a method's configuration by its mean A_last; go on where it was stopped."""
    tried, streams = read(file)["rates"].get(entry, {}).get("tried", []), validation_streams()
    while (config := untried(entry, tried)) is not None:
        each = []
        for stream in streams:
            begin = partial(start, entry, "cil", stream, SEEDS[0], config)
            each.append(validated(begin, stream))
        tried = [*tried, {"config": config, "a_last": statistics.mean(each), "each": each}]
        record(file, "rates", entry, {"tried": tried})
        print(entry, config, *(f"{score:.1%}" for score in each), file=sys.stderr, flush=True)
    if tried:
        record(file, "rates", entry, {"config": best(tried)})


def start(
    entry: str, protocol: str, stream: Stream, seed: int, config: dict[str, Any], out: Path
) -> Learner:
    """Open a run that was begun, or begin it."""
    clip = load_clip(CLIP)
    visual, precision = quick(clip.visual)
    cache = FeatureCache(cache_dir(), visual.digest, precision)
    if (out / "run.json").exists():
        return open_learner(out, backbone=clip, cache=cache, reporter=reporter())
    return new_learner(
        out, entry, clip, stream, config=config, seed=seed, cache=cache,
        protocol=protocol, reporter=reporter(),
    )  # fmt: skip


def learn(setting: str, entry: str, seed: int, work: Path, file: Path, shared: bool) -> None:
    """Learn one stream with one method and record its figures; nothing if that was done.

    Args:
        shared: the machine does other work too: how long it takes is not recorded.

    Raises:
        SystemExit: if its configuration was not chosen yet.
    """
    key, tuned = f"{setting}/{entry}/{seed}", read(file)["rates"].get(entry, {})
    if "a_last" in read(file)["cells"].get(key, {}):
        return
    if untried(entry, tuned.get("tried", [])) is not None:
        raise SystemExit(f"{entry} is not tuned yet: run `tune --methods {entry}` first.")
    stream = load_stream(**SETTINGS[setting].stream, seed=seed)
    out, began = work / key, time.perf_counter()
    protocol = SETTINGS[setting].protocol
    learner = start(entry, protocol, stream, seed, tuned.get("config", {}), out)
    summary = learn_stream(learner, stream)
    how = {"protocol": protocol}
    record(file, "settings", setting, described(stream, learner, summary) | how)
    names = ["a_last", "a_avg", "forgetting", "task_id_accuracy", "mtil", "ci_transfer"]
    names += [] if shared else ["seconds"]
    values = measured(learner, summary, names) | {
        "trained": trained_parameters(learner),
        "state_bytes": summary.state_bytes[-1],
        "exemplars": summary.exemplars[-1],
    }
    record_cell(file, key, values, began)


def trained_parameters(learner: Learner) -> int:
    """Count what the last task trained: what ships of it, what does not, and class prompts.

    CGIL's autoencoders are not among it: they make features, and no figure runs them.
    """
    declared, local = learner.declared, learner.method.local()
    last = len(learner.run) - 1
    classes = len(learner.run.class_rows()[last])
    ships = [p for name, p in learner.run.part(last).items() if declared[name].trained]
    prompts = [p for name, p in learner.run.state().items() if name.startswith("prompt_")]
    return sum(p.numel() for p in ships + prompts) + sum(
        math.prod(item.shape(classes)) for item in local.values()
    )


def shipped(setting: str, entry: str, seed: int, work: Path) -> Shipped | None:
    """Export a finished run; None if there is none."""
    out = work / setting / entry / str(seed)
    if not (out / "metrics.json").exists():
        return None
    learner = open_learner(out, backbone=load_clip(CLIP))
    return ship(learner, work / "bundles" / entry, out)  # one export for all streams


if __name__ == "__main__":
    main()
