"""RanPAC's accuracy against the bytes of its head: M, dtype and the scale per row.

Without a first session, on frozen features of `vit-s14`: emoji-demo (112 px, 60 classes) and
Fashion-MNIST (56 px, 10 classes, 2,000 + 2,000 images). The head is solved by the library's own
code and rounded as a pack rounds it; an update is the head of all classes so far. The last column
is no method: the lambda that is best on the TEST images, which separates what M costs from what the
choice of lambda on one task costs. About 15 minutes on one core, most of them for M = 10,000;
seconds for the features once they are in the cache.

    python benchmarks/ranpac_tradeoff.py
    python benchmarks/ranpac_tradeoff.py --sizes 250 1000 --seeds 1993
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache, contents_of, feature_key, rows_of
from edgecl.backbones.vit import Features
from edgecl.cache import cache_dir
from edgecl.errors import EdgeclError
from edgecl.program.classifiers.random_features import WEIGHTS, RandomFeatures
from edgecl.program.classifiers.ridge import one_hot, predictions
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, join
from edgecl.streams import ImageSet, load_stream

STREAMS: dict[str, dict[str, Any]] = {
    "emoji-demo": {"stream": {}, "image_size": 112},
    "fashion-mnist": {
        "stream": {"seed": 1993, "limit_train": 2000, "limit_test": 2000}, "image_size": 56,
    },
}  # fmt: skip
SIZES = (250, 500, 1000, 2000, 5000, 10000)
SEEDS = (1993, 1994, 1995)
BATCH = 32
DTYPES = ("float32", "float16", "float16 without a scale per row")
RESULTS = Path(__file__).parent / "results"
Set = tuple[Tensor, list[str]]  # features, classes


def main() -> None:
    """Measure what is asked for and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="M")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=tuple(STREAMS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.streams:
        tasks = features_of(name)
        for size in arguments.sizes:
            rows += measure(name, tasks, size, arguments.seeds)
            for row in rows[-len(DTYPES) :]:
                print(line(row), flush=True)
    protocol = {
        "streams": STREAMS, "backbone": "vit-s14", "first_session": "none",
        "seeds": list(arguments.seeds), "threads": torch.get_num_threads(),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "ranpac_tradeoff.json"
    file.write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(rows, arguments.seeds))


@torch.no_grad()
def features_of(name: str) -> list[tuple[tuple[str, ...], Set, Set]]:
    """Return, per task, its classes and the features of its training and test images.

    Raises:
        SystemExit: if the images or the weights are missing; says what to install.
    """
    options = STREAMS[name]
    try:
        stream = load_stream(name, **options["stream"])
        backbone = load_backbone("vit-s14", image_size=options["image_size"])
    except EdgeclError as error:
        raise SystemExit(f"{error}\n  apt-get install dataset-fashion-mnist") from error
    cache = FeatureCache(cache_dir(), backbone.digest)

    def encoded(images: ImageSet) -> Set:
        pixels = np.stack([backbone.preprocess(images.image(i)) for i in range(len(images))])
        keys = [feature_key(content) for content in contents_of(pixels)]
        known = cache.get(keys)
        unknown = [i for i, key in enumerate(keys) if key not in known]
        for start in range(0, len(unknown), BATCH):
            some = unknown[start : start + BATCH]
            batch = backbone.preprocess.normalise(torch.from_numpy(pixels[some]))
            rows = rows_of(Features(*backbone.model(batch)[:2]))
            cache.put([keys[i] for i in some], rows, [False] * len(some))
            known |= zip((keys[i] for i in some), rows, strict=True)
        cache.flush()
        features = np.stack([known[key][0] for key in keys])
        return torch.from_numpy(features), [stream.classes[label] for label in images.labels]

    return [(task.classes, encoded(task.train), encoded(task.test)) for task in stream.tasks]


def measure(
    name: str, tasks: list[tuple[tuple[str, ...], Set, Set]], size: int, seeds: list[int]
) -> list[dict[str, Any]]:
    """Learn a stream with one M and every seed; return one row per dtype of the head."""
    found: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    same: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    best: list[float] = []
    seconds = 0.0
    for seed in seeds:
        began = time.perf_counter()
        classifier, learned = learn(tasks, size, seed)
        seconds += time.perf_counter() - began
        features = torch.cat([test[0] for _, _, test in tasks])
        truth = [label for _, _, test in tasks for label in test[1]]
        names = [label for classes, _, _ in tasks for label in classes]
        expanded = classifier.expand(features, learned)
        exact = predict(expanded, learned)
        for dtype in DTYPES:
            rows = predict(expanded, rounded(learned, dtype))
            right = [names[row] == label for row, label in zip(rows.tolist(), truth, strict=True)]
            found[dtype].append(statistics.mean(right))
            same[dtype].append((rows == exact).double().mean().item())
        best.append(ceiling(classifier, learned, tasks))
    classes = sum(len(each) for each, _, _ in tasks)
    seconds /= len(seeds) * len(tasks)
    return [
        {
            "stream": name,
            "size": size,
            "dtype": dtype,
            "a_last": statistics.mean(found[dtype]),
            "a_last_by_seed": found[dtype],
            "a_last_at_best_lambda": statistics.mean(best),
            "labels_as_float32": statistics.mean(same[dtype]),
            "update_bytes": head_bytes(size, classes, dtype),
            "classes": classes,
            "update_bytes_of_60_classes": head_bytes(size, 60, dtype),
            "seconds_per_task": round(seconds, 3),
        }
        for dtype in DTYPES
    ]


def learn(
    tasks: list[tuple[tuple[str, ...], Set, Set]], size: int, seed: int
) -> tuple[RandomFeatures, Tensors]:
    """Fit the classifier to task after task, as the learner does."""
    width = tasks[0][1][0].shape[1]
    classifier = RandomFeatures(size, "plain", width, seed)
    constants = join(
        {k: item for k, item in classifier.declare().items() if item.generated is not None}, []
    )
    fitted = FitResult()
    rows: list[str] = []
    for index, (classes, (features, labels), _) in enumerate(tasks):
        rows += classes
        view = TaskContext(
            index=index,
            classes=len(classes),
            class_rows=tuple(rows),
            labels=torch.tensor([classes.index(label) for label in labels]),
            plain=None,
            features={"feature": features},
            learned=constants,
            state=fitted.state,
            generator=torch.Generator().manual_seed(seed * 100_003 + index),
        )
        fitted = classifier.fit(view)
    return classifier, constants | fitted.part


def ceiling(
    classifier: RandomFeatures, learned: Tensors, tasks: list[tuple[tuple[str, ...], Set, Set]]
) -> float:
    """Return the accuracy at the lambda that is best on the test images, in float64."""
    names = [label for classes, _, _ in tasks for label in classes]

    def side(index: int) -> tuple[Tensor, Tensor]:
        features = torch.cat([task[index][0] for task in tasks])
        labels = torch.tensor([names.index(label) for task in tasks for label in task[index][1]])
        return classifier.expand(features, learned).double(), labels

    (h, classes), (others, truth) = side(1), side(2)
    found = predictions(h, one_hot(classes, len(names)), others, WEIGHTS)
    return max((each.argmax(dim=1) == truth).double().mean().item() for each in found)


def rounded(learned: Tensors, dtype: str) -> Tensors:
    """Return the head as a device has it."""
    head, scale = learned["head_weight"], learned["head_scale"]
    if dtype == "float16":
        head = head.half().float()
    elif dtype != "float32":
        head, scale = (head * scale[:, None]).half().float(), torch.ones_like(scale)
    return {"head_weight": head, "head_scale": scale}


def predict(expanded: Tensor, learned: Tensors) -> Tensor:
    """Return the best row of every image."""
    return (expanded @ learned["head_weight"].T * learned["head_scale"]).argmax(dim=1)


def head_bytes(size: int, classes: int, dtype: str) -> int:
    """Return what a head weighs in a pack."""
    scale = 0 if "without" in dtype else 4 * classes
    return (4 if dtype == "float32" else 2) * size * classes + scale


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"| {row['stream']} | {row['size']:,} | {row['dtype']} | {100 * row['a_last']:.2f} | "
        f"{100 * row['labels_as_float32']:.2f} | {row['update_bytes'] / 1e6:.3f} | "
        f"{row['update_bytes_of_60_classes'] / 1e6:.3f} | {row['seconds_per_task']:.2f} | "
        f"{100 * row['a_last_at_best_lambda']:.2f} |"
    )


def table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """Lay out the figures in Markdown."""
    head = [
        "# RanPAC: accuracy against the bytes of an update",
        "",
        "`python benchmarks/ranpac_tradeoff.py`: frozen `vit-s14`, no first session; A_last in "
        f"percent, mean of {len(seeds)} projections; labels that agree with the float32 head in "
        "percent; MB of a head of all classes so far, at the end of the stream and of 60 classes; "
        "seconds per task on the workstation; best: A_last if lambda were chosen on the test "
        "images, which no method may do.",
        "",
        "| stream | M | head | A_last | labels as float32 | MB | MB, 60 classes | s | best |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *map(line, rows), ""])


if __name__ == "__main__":
    main()
