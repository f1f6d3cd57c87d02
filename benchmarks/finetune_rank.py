"""APER-Finetune: what is lost when the change of the weights ships with a small rank.

`vit-s14` is fine-tuned on the first task of emoji-demo (112 px) once per schedule; the change is
then cut to one rank after the other, and each time all classes are learned and tested. Some
minutes on one core.

    python benchmarks/finetune_rank.py
    python benchmarks/finetune_rank.py --ranks 4 16 --schedules paper longer
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.errors import EdgeclError
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.program.injectors import LowRankChange
from edgecl.program.learned import Tensors
from edgecl.program.statistics import class_means
from edgecl.session import learn_task, new_learner
from edgecl.streams import ImageSet, load_stream

SIZE = 112  # pixels
SEED = 1993
SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {},  # 5 epochs in batches of 128: five steps on 60 images
    "longer": {"epochs": 20, "batch_size": 20},  # sixty steps
}
RANKS = (1, 4, 16, 64)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure what is asked for and write the results.

    Raises:
        SystemExit: if the weights are missing; says how to get them.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", nargs="+", type=int, default=RANKS, metavar="R")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=("paper",))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    try:
        backbone = load_backbone("vit-s14", image_size=SIZE)
    except EdgeclError as error:
        raise SystemExit(str(error)) from error
    rows: list[dict[str, Any]] = []
    for schedule in arguments.schedules:
        with tempfile.TemporaryDirectory() as folder:
            config = {"rank": backbone.width, "schedule": SCHEDULES[schedule]}
            learner = new_learner(
                Path(folder) / "run", "aper-finetune", backbone, load_stream("emoji-demo"),
                config=config, seed=SEED, compute=Compute(torch.device("cpu")),
                cache=FeatureCache(cache_dir(), backbone.digest),
            )  # fmt: skip
            rows += measure(learner, schedule, arguments.ranks)
    protocol = {
        "stream": "emoji-demo", "backbone": "vit-s14", "image_size": SIZE, "seed": SEED,
        "schedules": {name: SCHEDULES[name] for name in arguments.schedules},
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "finetune_rank.json"
    file.write_text(json.dumps(protocol | {"rows": rows}, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(rows))


def measure(learner: Learner, schedule: str, ranks: list[int]) -> list[dict[str, Any]]:
    """Fine-tune on the first task; return one row per rank, and those of no and of the change."""
    stream = load_stream("emoji-demo")
    began = time.perf_counter()
    learn_task(learner, stream.tasks[0], stream.classes)
    seconds = time.perf_counter() - began
    whole = {k: t for k, t in learner.learned().items() if k != "prototypes"}
    width = learner.backbone.width
    train = pictures(learner, [task.train for task in stream.tasks])
    test = pictures(learner, [task.test for task in stream.tasks])
    exact: Tensor | None = None
    rows = []
    for rank in (width, *sorted(ranks, reverse=True), 0):
        change, size = cut(learner, whole, rank)
        means = class_means(features(learner, train[0], change), train[1], len(stream.classes))
        found = features(learner, test[0], change)
        exact = found if exact is None else exact
        scores = F.normalize(found, dim=1) @ F.normalize(means, dim=1).T
        adapted, full = found[:, width:], exact[:, width:]
        rows.append({
            "schedule": schedule,
            "rank": rank,
            "a_last": (scores.argmax(dim=1) == test[1]).double().mean().item(),
            "change_lost": lost(learner, whole, change),
            "feature_error": ((adapted - full).norm() / full.norm()).item(),
            "bytes_float16": 2 * size,
            "seconds_of_training": round(seconds, 1),
        })
        print(line(rows[-1]), flush=True)
    return rows


def cut(learner: Learner, whole: Tensors, rank: int) -> tuple[Tensors, int]:
    """Return the change at a rank, and how many values it has; 0 is no change."""
    injector = learner.method.program.injector
    assert isinstance(injector, LowRankChange)
    kept = LowRankChange(injector.width, injector.hidden, injector.depth, max(rank, 1)).cut(whole)
    if not rank:
        return {name: 0 * tensor for name, tensor in kept.items()}, 0
    return kept, sum(tensor.numel() for tensor in kept.values())


def lost(learner: Learner, whole: Tensors, change: Tensors) -> float:
    """Return the part of the change's Frobenius norm that the cut has taken."""
    left, all_of_it = 0.0, 0.0
    for name in {name[:-2] for name in change}:
        full = whole[f"{name}_a"].double() @ whole[f"{name}_b"].double()
        short = change[f"{name}_a"].double() @ change[f"{name}_b"].double()
        left += (full - short).square().sum().item()
        all_of_it += full.square().sum().item()
    return (left / all_of_it) ** 0.5


def pictures(learner: Learner, sets: list[ImageSet]) -> tuple[np.ndarray, Tensor]:
    """Return the preprocessed images and their labels."""
    loaded = [learner.load(each, "images") for each in sets]
    labels = torch.tensor([label for each in loaded for label in each.labels])
    return np.concatenate([each.images for each in loaded]), labels


def features(learner: Learner, images: np.ndarray, change: Tensors) -> Tensor:
    """Return the features of both branches side by side."""
    rows = torch.zeros(1, 2, learner.backbone.width)
    return learner.predict(images, {**change, "prototypes": rows}).feature


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"| {row['schedule']} | {row['rank'] or 'no change'} | {100 * row['a_last']:.2f} | "
        f"{100 * row['change_lost']:.2f} | {100 * row['feature_error']:.3f} | "
        f"{row['bytes_float16'] / 1e6:.2f} | {row['seconds_of_training']} |"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out the figures in Markdown."""
    steps = {"paper": "5 steps (paper)", "longer": "60 steps (longer)"}
    tried = " or ".join(dict.fromkeys(steps[row["schedule"]] for row in rows))
    head = [
        "# APER-Finetune: accuracy against the rank of the change",
        "",
        "`python benchmarks/finetune_rank.py`: `vit-s14` at 112 px, emoji-demo, fine-tuned on the "
        f"first task (60 images) in {tried}; A_last in percent over all 60 classes, one test "
        "image each and one seed; per cent of the change's Frobenius norm that the cut takes; per "
        "cent by which the adapted feature moves; MB of the change in float16; seconds of training "
        "on one core.",
        "",
        "| schedule | rank | A_last | change lost | feature error | MB | s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *map(line, rows), ""])


if __name__ == "__main__":
    main()
