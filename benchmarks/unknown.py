"""Which score tells images of no class: the candidates on the same features, task after task.

After each task but the last, the test images of the tasks so far are known and those of the tasks
to come unknown (near); after the last one those of the other streams are (far). Class orders of
three seeds. Every candidate gives a score for each class; its p-values come from leave-one-out
scores of the training images, as `edgecl_deploy.unknown` has it, with one covariance or Gram matrix
for all images (an image is left out of its class mean alone).

The rule of the first choice, written before the first run: the candidate with the highest near
AUROC of the largest p, mean over streams, backbones, seeds and stages, among those whose scores of
a class stay what they are when classes are added (`lasts`). The cosine with the class mean keeps
its place if it is within one point of it: it needs no matrix, so nothing but the class's own
numbers travels.

The rule of the second choice (ADR 0075), written before the first run of the scores from `class
leverage` on: `digits` in the orders 1993 and 1994, whole and with six images a class, is where
their numbers were tried (8 of 2 to 16 directions; sixteenths left out; no weights; shrinkages); of
emoji-demo only its test images were looked at, as far ones; the frozen ridge was tried in the order
1995 too. Of the scores that last and bring at most 4 KB a class at width 384, the one with the
highest near AUROC is taken, if that is 2 points above the cosine and coverage is at least
1 - alpha - 0.02 with every stream and backbone. Directions are int8, as they would travel.

Streams in `LATER` were measured after both choices, for coverage and for whether the choice holds;
they have a table of their own, and no image of theirs is a far one of the streams that were chosen
by. The far ones of a later stream are the test images of all the others.

What ships, a direction for three images, at least 4 and at most 16, was chosen after all that. With
six images a class the eight that the second rule took reject fewer unknown images at alpha 0.05
than the cosine, and two of them rank worse than 4; the 4 KB of that rule were given up for a near
AUROC within a point of the best score.

    python benchmarks/unknown.py [--seeds 1993 1994 1995] [--streams digits emoji-demo]
                                 [--backbones vit-s14 edgecl-clip-s] [--noise 0.03 0.06]
    python benchmarks/unknown.py --streams fashion-mnist [--scores cosine ...]

With `--noise`, it prints the share of known test images in no set, after the last task, where
features of length 1 have isotropic noise of that length, as rounded weights make it; nothing else.

About ten minutes on a core where the features are stored already; they are computed once.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import NEW_CONCEPTS
from machine import cpu
from numpy.typing import NDArray

from edgecl.backbones import load_backbone, load_clip
from edgecl.learning.unknown_figures import auroc, fpr95
from edgecl.session import new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy.unknown.own import (
    directions,
    in_subspace,
    left_out_of_subspace,
    size_of,
    unit,
)
from edgecl_deploy.unknown.rule import ALPHA, Part, Reference
from edgecl_deploy.unknown.table import Table

RESULTS = Path(__file__).parent / "results"
CHOSEN_BY = ("digits", "emoji-demo")
LATER: dict[str, Mapping[str, Any]] = {
    "fashion-mnist": {"name": "fashion-mnist"},
    "openemoji10": NEW_CONCEPTS,
}
PIXELS_LATER = 56  # as the tables of methods have these streams
STREAMS = {name: {"name": name} for name in CHOSEN_BY} | LATER
Array = NDArray[np.float64]
FIGURES = ("near", "near_raw", "fpr95", "far", "coverage", "rejected")


@dataclass(frozen=True)
class Images:
    """Features and classes of some images."""

    x: Array
    y: NDArray[np.int64]


Scores = tuple[Array, list[Array]]  # of test images [b, c], and left-out ones of each class
Candidate = Callable[[list[Images], int, Array], Scores]


def means_of(train: Images, classes: int) -> tuple[Array, Array]:
    """Return the sum of each class, and its images."""
    sums = np.stack([train.x[train.y == c].sum(axis=0) for c in range(classes)])
    return sums, np.bincount(train.y, minlength=classes)


def joined(tasks: list[Images]) -> Images:
    """Return the images of some tasks together."""
    return Images(np.concatenate([t.x for t in tasks]), np.concatenate([t.y for t in tasks]))


def left_out_means(train: Images, sums: Array, counts: NDArray[np.int64]) -> Array:
    """Return the mean of the others of each image's class: [n, f]."""
    return (sums[train.y] - train.x) / np.maximum(counts[train.y] - 1, 1)[:, None]


def by_class(values: Array, train: Images, classes: int) -> list[Array]:
    """Return the values of each class."""
    return [values[train.y == c] for c in range(classes)]


def cosine(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Cosine with the class mean."""
    train = joined(tasks)
    sums, counts = means_of(train, classes)
    others = left_out_means(train, sums, counts)
    own = (unit(train.x) * unit(others)).sum(axis=1)
    return unit(test) @ unit(sums).T, by_class(own, train, classes)


def unit_cosine(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Cosine with the mean of features of length 1."""
    return cosine([Images(unit(t.x), t.y) for t in tasks], classes, test)


def whitening(train: Images, classes: int) -> Array:
    """Return L with L L' = the inverse of the covariance within the classes, shrunk by a tenth."""
    sums, counts = means_of(train, classes)
    away = train.x - (sums / np.maximum(counts, 1)[:, None])[train.y]
    covariance = away.T @ away / max(1, len(away) - len(np.unique(train.y)))
    width = len(covariance)
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / width * np.eye(width)
    return np.linalg.cholesky(np.linalg.inv(covariance))


def distances(train: Images, classes: int, test: Array, white: Array) -> Scores:
    """Score by the negative squared distance to the class mean in whitened features."""
    sums, counts = means_of(train, classes)
    others = left_out_means(train, sums, counts)
    own = -(((train.x - others) @ white) ** 2).sum(axis=1)
    means = (sums / counts[:, None]) @ white
    turned = test @ white
    squares = (turned**2).sum(axis=1)[:, None] + (means**2).sum(axis=1) - 2 * turned @ means.T
    return -squares, by_class(own, train, classes)


def mahalanobis(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Mahalanobis distance at length 1 (Maha++), covariance of all tasks so far."""
    train = joined([Images(unit(t.x), t.y) for t in tasks])
    return distances(train, classes, unit(test), whitening(train, classes))


def frozen_mahalanobis(tasks: list[Images], classes: int, test: Array) -> Scores:
    """The same with the covariance of the first task."""
    train = [Images(unit(t.x), t.y) for t in tasks]
    return distances(joined(train), classes, unit(test), whitening(train[0], classes))


def raw_mahalanobis(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Mahalanobis distance of features as they are."""
    train = joined(tasks)
    return distances(train, classes, test, whitening(train, classes))


def relative_mahalanobis(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Maha++ less the distance to the mean of all images, under the covariance of all."""
    found, own = mahalanobis(tasks, classes, test)
    every = [Images(unit(t.x), np.zeros_like(t.y)) for t in tasks]
    whole = joined(every)
    far, all_own = distances(whole, 1, unit(test), whitening(whole, 1))
    labels = joined(tasks).y
    background = [all_own[0][labels == c] for c in range(classes)]
    return found - far, [a - b for a, b in zip(own, background, strict=True)]


def leverage(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Leverage of the ridge, x' (G + lambda I)^-1 x, lambda the mean eigenvalue of G over 100."""
    train = joined(tasks)
    gram = train.x.T @ train.x
    weight = np.trace(gram) / len(gram) / 100
    inverse = np.linalg.inv(gram + weight * np.eye(len(gram)))
    own = np.einsum("nf,fg,ng->n", train.x, inverse, train.x)
    own = own / np.maximum(1 - own, 1e-9)  # as an image that the matrix does not hold
    found = -np.einsum("nf,fg,ng->n", test, inverse, test)
    return np.repeat(found[:, None], classes, axis=1), by_class(-own, train, classes)


def ridge_score(tasks: list[Images], classes: int, test: Array) -> Scores:
    """The ridge's own score of the class, the same lambda."""
    train = joined(tasks)
    gram = train.x.T @ train.x
    inverse = np.linalg.inv(gram + np.trace(gram) / len(gram) / 100 * np.eye(len(gram)))
    target = np.eye(classes)[train.y]
    head = inverse @ (train.x.T @ target)
    seen = train.x @ head
    held = np.einsum("nf,fg,ng->n", train.x, inverse, train.x)[:, None]
    out = target - (target - seen) / (1 - held)
    return test @ head, by_class(out[np.arange(len(out)), train.y], train, classes)


def softmax(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Softmax of the cosines at temperature 0.05 (MSP); the class mean is not left out."""
    train = joined(tasks)

    def shares(scores: Array) -> Array:
        powers = np.exp((scores - scores.max(axis=1, keepdims=True)) / 0.05)
        return powers / powers.sum(axis=1, keepdims=True)

    found = shares(cosine(tasks, classes, test)[0])
    own = shares(cosine(tasks, classes, train.x)[0])
    return found, by_class(own[np.arange(len(own)), train.y], train, classes)


OwnScore = Callable[[Array, Array], tuple[Array, Array]]  # own images, test: left out [n], [b]
PARTS = 16


def of_class(score: OwnScore) -> Candidate:
    """Return the candidate whose score of a class is of the images of that class, at length 1."""
    known: dict[tuple[bytes, bytes], tuple[Array, Array]] = {}

    def candidate(tasks: list[Images], classes: int, test: Array) -> Scores:
        train = joined(tasks)
        x, z = unit(train.x), unit(test)
        found = []
        for own in by_class(x, train, classes):
            key = own.tobytes(), z[-1].tobytes()  # the last stage has more test images
            if key not in known:
                known[key] = score(own, z)
            found.append(known[key])
        return np.stack([each for _, each in found], axis=1), [own for own, _ in found]

    return candidate


def parted(fit: Callable[[Array], Callable[[Array], Array]]) -> OwnScore:
    """Return the score of a model of the class; a sixteenth of its images is left out at a time."""

    def score(own: Array, test: Array) -> tuple[Array, Array]:
        part, left = np.arange(len(own)) % PARTS, np.empty(len(own))
        for each in range(min(PARTS, len(own))):
            left[part == each] = fit(own[part != each])(own[part == each])
        return left, fit(own)(test)

    return score


def subspace(size: int) -> OwnScore:
    """Cosine with the first directions of the class, in int8."""

    def fit(own: Array) -> Callable[[Array], Array]:
        found = directions(own, size)
        return lambda x: in_subspace(x, found)

    return parted(fit)


def shipped(own: Array, test: Array) -> tuple[Array, Array]:
    """As the device has it."""
    return left_out_of_subspace(own), in_subspace(test, directions(own))


def by_count(least: int, most: int) -> OwnScore:
    """As the device has it, with other limits of how many directions there are."""

    def score(own: Array, test: Array) -> tuple[Array, Array]:
        return subspace(size_of(len(own), least, most))(own, test)

    return score


def class_leverage(own: Array, test: Array) -> tuple[Array, Array]:
    """Leverage in the ridge of the class's images alone, the same lambda."""
    gram = own.T @ own
    inverse = np.linalg.inv(gram + np.trace(gram) / len(gram) / 100 * np.eye(len(gram)))
    held = np.einsum("nf,fg,ng->n", own, inverse, own)
    return -held / np.maximum(1 - held, 1e-9), -np.einsum("nf,fg,ng->n", test, inverse, test)


def nearest_image(own: Array, test: Array) -> tuple[Array, Array]:
    """Cosine with the nearest image of the class."""
    alike = own @ own.T
    np.fill_diagonal(alike, -np.inf)
    return alike.max(axis=1), (test @ own.T).max(axis=1)


def centres(own: Array) -> Callable[[Array], Array]:
    """Cosine with the nearest of 8 centres (spherical k-means, ten turns, every n/8th image)."""
    found = own[:: -(-len(own) // 8)]
    for _ in range(10):
        member = (own @ found.T).argmax(axis=1)
        found = unit(np.stack([own[member == c].sum(axis=0) for c in range(len(found))]))
    return lambda x: (x @ found.T).max(axis=1)


def whitened_cosine(tasks: list[Images], classes: int, test: Array) -> Scores:
    """Cosine after centring and whitening by all images of the first task, shrunk by a half."""
    first = unit(tasks[0].x)
    mean = first.mean(axis=0)
    covariance = (first - mean).T @ (first - mean) / len(first)
    width = len(covariance)
    covariance = 0.5 * covariance + 0.5 * np.trace(covariance) / width * np.eye(width)
    white = np.linalg.cholesky(np.linalg.inv(covariance))
    turned = [Images((unit(t.x) - mean) @ white, t.y) for t in tasks]
    return unit_cosine(turned, classes, (unit(test) - mean) @ white)


def frozen_ridge(tasks: list[Images], classes: int, test: Array) -> Scores:
    """The ridge's row of a class after the task of the class, at length 1, the same lambda."""
    columns: list[Array] = []
    own: list[Array] = []
    for end in range(1, len(tasks) + 1):
        known = int(max(t.y.max() for t in tasks[:end])) + 1
        so_far = [Images(unit(t.x), t.y) for t in tasks[:end]]
        found, left = ridge_score(so_far, known, unit(test))
        columns.append(found[:, len(own) :])
        own += left[len(own) :]
    return np.concatenate(columns, axis=1), own


CANDIDATES: dict[str, tuple[Candidate, str, str]] = {  # whether it lasts; bytes a class at 384
    "cosine": (cosine, "yes", "0"),
    "cosine, length 1": (unit_cosine, "yes", "768"),
    "Mahalanobis, length 1, first task's covariance": (frozen_mahalanobis, "yes", "768 + 148 K"),
    "Mahalanobis, length 1": (mahalanobis, "no", ""),
    "Mahalanobis, raw": (raw_mahalanobis, "no", ""),
    "relative Mahalanobis, length 1": (relative_mahalanobis, "no", ""),
    "leverage": (leverage, "no", ""),
    "ridge score": (ridge_score, "no", ""),
    "softmax of cosines": (softmax, "no", ""),
    "class leverage": (of_class(class_leverage), "yes", "148 K"),
    "subspace of 2 directions": (of_class(subspace(2)), "yes", "768"),
    "subspace of 4 directions": (of_class(subspace(4)), "yes", "1,536"),
    "subspace of 8 directions": (of_class(subspace(8)), "yes", "3,072"),
    "subspace of a third of the images, 1 to 8": (of_class(by_count(1, 8)), "yes", "768 to 3,072"),
    "subspace of a third of the images, 1 to 16": (
        of_class(by_count(1, 16)),
        "yes",
        "768 to 6,144",
    ),
    "subspace of a third of the images, 4 to 16": (of_class(shipped), "yes", "1,536 to 6,144"),
    "subspace of 16 directions": (of_class(subspace(16)), "yes", "6,144"),
    "nearest of 8 centres": (of_class(parted(centres)), "yes", "3,072"),
    "nearest image": (of_class(nearest_image), "yes", "384 an image"),
    "cosine, whitened by the first task": (whitened_cosine, "yes", "768 + 148 K"),
    "ridge score, frozen with its task": (frozen_ridge, "yes", "768"),
}


def p_values(scores: Scores) -> Reference:
    """Return the rule for scores of a candidate."""
    table = Table.of(scores[1])
    names = [str(index) for index in range(len(scores[1]))]
    rows = np.ones((len(names), 1))
    found = Reference.of(names, [Part(table, names, [True] * len(names), rows, (0, 1))])
    assert found is not None
    return found


def measured(
    candidate: Candidate, train: list[Images], test: list[Images], far: Array
) -> dict[str, float]:
    """Return the figures of one candidate on one stream."""
    near: dict[str, list[float]] = {name: [] for name in FIGURES}
    everything = joined(test).x
    sizes = np.cumsum([len(each.x) for each in test])
    classes = 0
    for stage in range(len(train)):
        classes = int(max(each.y.max() for each in train[: stage + 1])) + 1
        last = stage == len(train) - 1
        images = np.concatenate([everything, far]) if last else everything
        scores = candidate(train[: stage + 1], classes, images)
        judged = p_values(scores).judge_scores(scores[0].astype(np.float32), ALPHA)
        value, raw = judged.p.max(axis=1), scores[0].max(axis=1)
        split = sizes[stage]
        if last:
            near["far"].append(auroc(value[:split], value[split:]) or 0.0)
        else:
            near["near"].append(auroc(value[:split], value[split:]) or 0.0)
            near["near_raw"].append(auroc(raw[:split], raw[split:]) or 0.0)
            near["fpr95"].append(fpr95(value[:split], value[split:]) or 0.0)
            near["rejected"].append(float((~judged.inside[split:]).all(axis=1).mean()))
        own = judged.inside[np.arange(split), joined(test[: stage + 1]).y]
        near["coverage"].append(float(own.mean()))
    return {name: statistics.mean(each) for name, each in near.items()}


def features(
    stream: Stream, backbone: object, *, far: bool = False
) -> tuple[list[Images], list[Images]]:
    """Return the frozen features of a stream, of training and of test images; class by row.

    Args:
        far: of the test images alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        learner = new_learner(Path(folder) / "run", "simplecil", backbone, stream)
        rows: dict[str, int] = {}
        for name in (name for task in stream.tasks for name in task.classes):
            rows.setdefault(name, len(rows))
        found: tuple[list[Images], list[Images]] = ([], [])
        for task in stream.tasks:
            for place, images in enumerate((task.train, task.test)):
                if far and images is task.train:
                    continue
                batch = learner.load(images, "")
                x = learner.encoder.frozen(batch.images).cls.double().numpy()
                y = np.array([rows[stream.classes[label]] for label in batch.labels])
                found[place].append(Images(x, y))
    return found


def rejected_known(train: list[Images], test: list[Images], noise: float) -> list[float]:
    """Return the share of known images that the cosine, and the subspace, leave out of all sets."""
    classes = int(joined(train).y.max()) + 1
    x = unit(joined(test).x)
    x = x + np.random.default_rng(0).normal(size=x.shape) * noise / x.shape[1] ** 0.5
    found = []
    for candidate in (cosine, of_class(shipped)):
        scores = candidate(train, classes, x)
        judged = p_values(scores).judge_scores(scores[0].astype(np.float32), ALPHA)
        found.append(float((~judged.inside.any(axis=1)).mean()))
    return found


Cells = dict[str, dict[str, dict[str, float]]]


def table(cells: Cells) -> list[str]:
    """Return the rows of a table: means over its cells, and near AUROC by stream and backbone."""
    groups = groups_of(cells)
    lines = [
        "| score | lasts | bytes | near AUROC | raw | FPR95 | far AUROC | coverage | least "
        "coverage | rejected | " + " | ".join(groups) + " |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|" + "---:|" * len(groups),
    ]

    def mean_of(name: str, figure: str, group: str) -> float:
        return 100 * statistics.mean(
            c[name][figure] for k, c in cells.items() if k.startswith(group)
        )

    for name, (_, lasts, size) in CANDIDATES.items():
        if any(name not in each for each in cells.values()):
            continue  # it was not asked for
        each = [mean_of(name, figure, "") for figure in FIGURES]
        least = min(mean_of(name, "coverage", group) for group in groups)
        own = [mean_of(name, "near", group) for group in groups]
        shown = " | ".join(f"{value:.1f}" for value in (*each[:-1], least, each[-1], *own))
        lines.append(f"| {name} | {lasts} | {size} | {shown} |")
    return lines


def groups_of(cells: Cells) -> list[str]:
    """Return the pairs of backbone and stream."""
    return sorted({name.rsplit("/", 1)[0] for name in cells})


def page(record: dict[str, Any]) -> str:
    """Write both tables."""
    chosen, later = record["cells"], record["later"]
    lines = [
        "# Which score tells images of no class",
        "",
        f"`python benchmarks/unknown.py`; {record['machine']}. Percent; means over "
        f"{', '.join(groups_of(chosen))}, three class orders each, and over the stages. AUROC of "
        "the largest "
        "p, and of the largest score as it is (raw); FPR95, far AUROC, coverage and share of near "
        f"unknown images rejected at alpha {ALPHA:g} are of the p-values; the least coverage is "
        "that of one stream and backbone. `lasts`: adding classes leaves the scores of a class as "
        "they are. Bytes a class at width 384, beside its learned tensors and its scores (and once "
        "a run, where there is a sum): directions, centres and images in int8, rows and matrices "
        "in float16. Both rules are in the docstring of the benchmark.",
        "",
        *table(chosen),
    ]
    if later:
        orders = {
            group: sum(each.startswith(group) for each in later) for group in groups_of(later)
        }
        shape = "; ".join(
            f"{group}: class orders {orders[group]}, {record['limits'][group]:,} training "
            "images and as many test images"
            for group in orders
        )
        lines += [
            "",
            "## Streams that were measured after the choice",
            "",
            f"`python benchmarks/unknown.py --streams {' '.join(LATER)}`; {record['machine_later']}"
            f". The same figures at {PIXELS_LATER} px. {shape}.",
            "",
            *table(later),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every candidate, and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1993, 1994, 1995])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(CHOSEN_BY))
    parser.add_argument("--backbones", nargs="+", default=["vit-s14", "edgecl-clip-s"])
    parser.add_argument("--scores", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument(
        "--limit", type=int, default=2000, help="images of a part of a later stream"
    )
    parser.add_argument("--noise", type=float, nargs="+")
    arguments = parser.parse_args()
    path = RESULTS / "unknown.json"
    record: dict[str, Any] = {"machine": "", "alpha": ALPHA, "cells": {}, "later": {}}
    record |= json.loads(path.read_bytes()) if path.exists() else {}
    limit = {"limit_train": arguments.limit, "limit_test": arguments.limit}
    pixels = PIXELS_LATER if {*arguments.streams} <= {*LATER} else 112
    for name in arguments.backbones:
        clip = name == "edgecl-clip-s"
        load = load_clip if clip else load_backbone
        loaded = load(name, image_size=pixels)
        backbone = loaded.visual if clip else loaded
        for seed in arguments.seeds:
            needed = arguments.streams if arguments.noise else {*CHOSEN_BY, *arguments.streams}
            found = {
                stream: features(
                    load_stream(**STREAMS[stream], **limit if stream in LATER else {}, seed=seed),
                    backbone,
                    far=stream not in arguments.streams,
                )
                for stream in sorted(needed)
            }
            for stream in arguments.streams:
                train, test = found[stream]
                for noise in arguments.noise or ():
                    shares = [f"{share:.1%}" for share in rejected_known(train, test, noise)]
                    print(name, stream, seed, noise, *shares, flush=True)
                if arguments.noise:
                    continue
                others = found if stream in LATER else CHOSEN_BY
                far = np.concatenate([
                    joined(found[each][1]).x for each in others if each != stream
                ])
                part, machine = (
                    ("later", "machine_later") if stream in LATER else ("cells", "machine")
                )
                record[part][f"{name}/{stream}/{seed}"] = {
                    label: measured(candidate, train, test, far)
                    for label, (candidate, _, _) in CANDIDATES.items()
                    if label in arguments.scores
                }
                record[machine] = cpu()
                if stream in LATER:
                    record["limits"] = record.get("limits", {}) | {
                        f"{name}/{stream}": arguments.limit
                    }
                path.write_text(json.dumps(record, indent=1) + "\n")
                path.with_suffix(".md").write_text(page(record))
                print(name, stream, seed, flush=True)


if __name__ == "__main__":
    main()
