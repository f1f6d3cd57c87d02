"""Every method on four streams: accuracy, bytes per task, time in training and on the device.

    python benchmarks/methods.py tune     # choose learning rates, on training images alone
    python benchmarks/methods.py run      # learn: every method, stream and seed; goes on where it
                                          # was stopped, task by task
    python benchmarks/methods.py device   # export the runs of the first seed, time them
    python benchmarks/methods.py report   # results/methods.md and the plots

`vit-s14`; no augmentation; every method that trains takes about 40 steps of 16 images per task
with its published optimiser, so that training time is comparable; the learning rate is the
published one times 1, 3 or 10, chosen once by `tune` and the same on all streams. METHOD-long has
the augmentation of the method's public code, fresh views in every epoch, and at least 100 steps
per task; its rate is chosen likewise, of the factors up to the one that METHOD has: more steps
never ask for a larger rate. Where the hardware multiplies bfloat16, the backbone computes in it
when it evaluates too (three times faster on a CPU with AMX); heads, matching and statistics are
float32 and wider. Hours on two cores in all; `--streams`, `--methods` and `--seeds` do a part.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from methods_report import LEAST_STEPS, LONG, write_report

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.learning.augment.augmentation import NONE, PAPER
from edgecl.learning.learner import Learner
from edgecl.methods import methods
from edgecl.optim import TrainConfig
from edgecl.session import learn_stream, new_learner, open_learner
from edgecl.streams import Stream, Task, load_stream

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "methods"
SEEDS = (1993, 1994, 1995)  # of the class order and of training
BATCH = 16
RATES = (1, 3, 10)  # factors on the published learning rate
HELD_STYLE = "emojione"  # of emoji-demo's training images, for the choice of the rates


@dataclass(frozen=True)
class Setting:
    """A stream and how it is learned."""

    stream: Mapping[str, Any]
    pixels: int
    epochs: int


SETTINGS = {
    "emoji-demo": Setting({"name": "emoji-demo"}, 56, 10),
    "fashion-mnist": Setting(
        {"name": "fashion-mnist", "limit_train": 2000, "limit_test": 2000}, 56, 2
    ),
    "digits": Setting({"name": "digits"}, 56, 2),
    "openemoji10": Setting(NEW_CONCEPTS, 56, 6),
}
TUNED = "emoji-demo"


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method, what differs from its default, and for how long it trains."""

    method: str
    own: Mapping[str, Any] = field(default_factory=dict)
    long: bool = False

    @property
    def published(self) -> TrainConfig | None:
        """Return the default schedule; None of a form that trains nothing."""
        if self.own.get("first_session") == "none":
            return None
        found = methods()[self.method].config_type.__dataclass_fields__.get("schedule")
        return None if found is None else found.default


# Forms of one method that stand in the table beside its default.
FORMS = {
    "lae-lora": Entry("lae", {"kind": "lora"}),
    "lae-prefix": Entry("lae", {"kind": "prefix"}),
    "ranpac-plain": Entry("ranpac", {"first_session": "none"}),
    "ranpac-truncated": Entry("ranpac", {"first_session": "none", "truncate": 25}),
    "layup-plain": Entry("layup", {"first_session": "none"}),
    "dap-snapshot": Entry("dap", {"form": "snapshot"}),
    "input-tuning-own": Entry("input-tuning", {"tasks": "own"}),
    "single-head-badam": Entry("single-head", {"schedule": {"optimizer": "badam"}}),
    "single-head-bits": Entry("single-head", {"schedule": {"bits": 20}}),
}


def entries() -> dict[str, Entry]:
    """Return every row of the table by its name."""
    known = {name: Entry(name) for name, method in methods().items() if not method.needs_text}
    known |= {name: form for name, form in FORMS.items() if form.method in known}
    trained = {name: entry for name, entry in known.items() if entry.published is not None}
    return known | {name + LONG: replace(entry, long=True) for name, entry in trained.items()}


def main() -> None:
    """Do one part of the benchmark."""
    arguments = options(
        __doc__, ("tune", "run", "device", "report"),
        streams=SETTINGS, methods=entries(), seeds=SEEDS, out=RESULTS, work=WORK,
    )  # fmt: skip
    file = arguments.out / "methods.json"
    if arguments.part == "tune":
        tune(arguments.methods, file)
    elif arguments.part == "run":
        for seed in arguments.seeds:
            for setting in arguments.streams:
                for entry in arguments.methods:
                    learn(setting, entry, seed, arguments.work, file, arguments.shared)
    elif arguments.part == "device":
        for setting in arguments.streams:
            seed = arguments.seeds[0]
            export = partial(shipped, setting, seed=seed, work=arguments.work)
            time_all(setting, arguments.methods, "simplecil", seed, export, file)
    results = {"batch": BATCH, "factors": list(RATES)} | read(file)
    write_report(results, file)
    if arguments.json:
        print(json.dumps(results))


def config(entry: Entry, epochs: int, factor: float) -> dict[str, Any]:
    """Return the configuration of an entry under the benchmark's budget."""
    published = entry.published
    if published is None:
        return dict(entry.own)
    budget = {"epochs": epochs, "batch_size": BATCH, "lr": published.lr * factor}
    if published.warm_up:
        budget["warm_up"] = round(published.warm_up * epochs / published.epochs)
    if entry.long:
        budget["min_steps"] = LEAST_STEPS
    return {**entry.own, "schedule": budget | entry.own.get("schedule", {})}


def factors(entry: str, file: Path) -> tuple[int, ...]:
    """Return the factors to choose from.

    Raises:
        SystemExit: if those of fewer steps are to be chosen first.
    """
    if not entries()[entry].long:
        return RATES
    short = entry.removesuffix(LONG)
    found = read(file)["rates"].get(short)
    if found is None:
        raise SystemExit(f"{entry} begins with the rate of {short}: `tune --methods {short}`.")
    return tuple(factor for factor in RATES if factor <= found["factor"])


def start(
    entry: str, setting: Setting, stream: Stream, factor: float, seed: int, out: Path
) -> Learner:
    """Open a run that was begun, or begin it."""
    backbone, precision = quick(load_backbone("vit-s14", image_size=setting.pixels))
    cache = FeatureCache(cache_dir(), backbone.digest, precision)
    if (out / "run.json").exists():
        return open_learner(out, backbone=backbone, cache=cache, reporter=reporter())
    own = entries()[entry]
    return new_learner(
        out, own.method, backbone, stream, config=config(own, setting.epochs, factor), seed=seed,
        cache=cache, reporter=reporter(), augment=PAPER if own.long else NONE,
    )  # fmt: skip


def validation() -> Stream:
    """Return three tasks of emoji-demo; one style of their training images tests."""
    stream = load_stream("emoji-demo", seed=SEEDS[0], tasks=3)
    tasks = []
    for task in stream.tasks:
        held = [f"/{HELD_STYLE}/" in name for name in task.train.names]
        parts = [
            task.train.subset([index for index, here in enumerate(held) if here == side])
            for side in (False, True)
        ]
        tasks.append(Task(task.name, task.classes, *parts))
    return Stream(stream.name, stream.protocol, stream.classes, tuple(tasks), stream.spec)


def tune(names: list[str], file: Path) -> None:
    """Choose each entry's factor on the published learning rate, without any test image."""
    stream = validation()
    for entry in names:
        schedule = entries()[entry].published
        if schedule is None or read(file)["rates"].get(entry):
            continue
        known, scores = factors(entry, file), {}
        for factor in known if len(known) > 1 else ():
            begin = partial(start, entry, SETTINGS[TUNED], stream, factor, SEEDS[0])
            scores[factor] = validated(begin, stream)
        best = max(known, key=lambda factor: (scores.get(factor, 0), -factor))
        print(entry, scores, file=sys.stderr, flush=True)
        record(file, "rates", entry, {"factor": best, "lr": schedule.lr * best, "a_last": scores})


def learn(setting: str, entry: str, seed: int, work: Path, file: Path, shared: bool) -> None:
    """Learn one stream with one entry and record its figures; nothing if that was done.

    Args:
        shared: the machine does other work too: how long it takes is not recorded.

    Raises:
        SystemExit: if its learning rate was not chosen yet.
    """
    key = f"{setting}/{entry}/{seed}"
    if "a_last" in read(file)["cells"].get(key, {}):
        return
    stream = load_stream(**SETTINGS[setting].stream, seed=seed)
    rate = read(file)["rates"].get(entry)
    if rate is None and entries()[entry].published is not None:
        raise SystemExit(f"{entry} has no learning rate yet: run `tune --methods {entry}` first.")
    out = work / key
    began = time.perf_counter()
    factor = rate["factor"] if rate else 1
    learner = start(entry, SETTINGS[setting], stream, factor, seed, out)
    summary = learn_stream(learner, stream)
    how = {"protocol": stream.protocol, "epochs": SETTINGS[setting].epochs}
    record(file, "settings", setting, described(stream, learner, summary) | how)
    names = ["a_last", "a_avg", "forgetting", "task_id_accuracy", "pooled", "matrix"]
    names += [] if shared else ["seconds"]
    values = measured(learner, summary, names) | {
        "method": entries()[entry].method,
        "augment": None if learner.plan is None else learner.plan.name,
    }
    record_cell(file, key, values, began)


def shipped(setting: str, entry: str, seed: int, work: Path) -> Shipped | None:
    """Export a finished run; None if there is none."""
    out = work / setting / entry / str(seed)
    if not (out / "metrics.json").exists():
        return None
    pixels = SETTINGS[setting].pixels
    backbone = load_backbone("vit-s14", image_size=pixels)
    cache = FeatureCache(cache_dir(), backbone.digest)
    learner = open_learner(out, backbone=backbone, cache=cache)
    return ship(learner, work / "bundles" / str(pixels) / entry, out)  # one export for all streams


if __name__ == "__main__":
    main()
