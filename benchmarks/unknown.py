"""Which score tells images of no class: the candidates on the same features, task after task.

After each task but the last, the test images of the tasks so far are known and those of the tasks
to come unknown (near); after the last one those of the other streams are (far). Class orders of
three seeds. Every candidate gives a score for each class; its p-values come from leave-one-out
scores of the training images, as `edgecl_deploy.unknown` has it, with one covariance or Gram matrix
for all images (an image is left out of its class mean alone).

The rule, written before the first run: the candidate with the highest near AUROC of the largest p,
mean over streams, backbones, seeds and stages, among those whose scores of a class stay what they
are when classes are added (`lasts`). The cosine with the class mean keeps its place if it is within
one point of it: it needs no matrix, so nothing but the class's own numbers travels.

    python benchmarks/unknown.py [--seeds 1993 1994 1995] [--streams digits emoji-demo]
                                 [--backbones vit-s14 edgecl-clip-s]

A minute or two on one core where the features are stored already; they are computed once.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import cpu
from numpy.typing import NDArray

from edgecl.backbones import load_backbone, load_clip
from edgecl.learning.unknown_figures import auroc, fpr95
from edgecl.session import new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy.unknown.own import unit
from edgecl_deploy.unknown.rule import ALPHA, Part, Reference
from edgecl_deploy.unknown.table import Table

RESULTS = Path(__file__).parent / "results"
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


CANDIDATES: dict[str, tuple[Candidate, bool]] = {  # and whether it lasts
    "cosine": (cosine, True),
    "cosine, length 1": (unit_cosine, True),
    "Mahalanobis, length 1, first task's covariance": (frozen_mahalanobis, True),
    "Mahalanobis, length 1": (mahalanobis, False),
    "Mahalanobis, raw": (raw_mahalanobis, False),
    "relative Mahalanobis, length 1": (relative_mahalanobis, False),
    "leverage": (leverage, False),
    "ridge score": (ridge_score, False),
    "softmax of cosines": (softmax, False),
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


def features(stream: Stream, backbone: object) -> tuple[list[Images], list[Images]]:
    """Return the frozen features of a stream, of training and of test images; class by row."""
    with tempfile.TemporaryDirectory() as folder:
        learner = new_learner(Path(folder) / "run", "simplecil", backbone, stream)
        rows: dict[str, int] = {}
        for name in (name for task in stream.tasks for name in task.classes):
            rows.setdefault(name, len(rows))
        found: tuple[list[Images], list[Images]] = ([], [])
        for task in stream.tasks:
            for place, images in enumerate((task.train, task.test)):
                batch = learner.load(images, "")
                x = learner.encoder.frozen(batch.images).cls.double().numpy()
                y = np.array([rows[stream.classes[label]] for label in batch.labels])
                found[place].append(Images(x, y))
    return found


def page(record: dict[str, object]) -> str:
    """Write the table: means over all cells, and near AUROC by cell."""
    cells: dict[str, dict[str, dict[str, float]]] = record["cells"]  # type: ignore[assignment]
    groups = sorted({name.rsplit("/", 1)[0] for name in cells})
    lines = [
        "# Which score tells images of no class",
        "",
        f"`python benchmarks/unknown.py`; {record['machine']}. Percent; means over "
        f"{', '.join(groups)}, three class orders each, and over the stages. AUROC of the largest "
        "p, and of the largest score as it is (raw); FPR95, far AUROC, coverage and share of near "
        f"unknown images rejected at alpha {ALPHA:g} are of the p-values. `lasts`: adding classes "
        "leaves the scores of a class as they are. The rule is in the docstring of the benchmark.",
        "",
        "| score | lasts | near AUROC | raw | FPR95 | far AUROC | coverage | rejected | "
        + " | ".join(groups)
        + " |",
        "|---|---|---:|---:|---:|---:|---:|---:|" + "---:|" * len(groups),
    ]
    for name, (_, lasts) in CANDIDATES.items():
        each = [
            100 * statistics.mean(c[name][figure] for c in cells.values()) for figure in FIGURES
        ]
        own = [
            100 * statistics.mean(c[name]["near"] for k, c in cells.items() if k.startswith(group))
            for group in groups
        ]
        shown = " | ".join(f"{value:.1f}" for value in (*each, *own))
        lines.append(f"| {name} | {'yes' if lasts else 'no'} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every candidate, and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1993, 1994, 1995])
    parser.add_argument("--streams", nargs="+", default=["digits", "emoji-demo"])
    parser.add_argument("--backbones", nargs="+", default=["vit-s14", "edgecl-clip-s"])
    arguments = parser.parse_args()
    cells: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.backbones:
        clip = name == "edgecl-clip-s"
        backbone = load_clip(name).visual if clip else load_backbone(name, image_size=112)
        for seed in arguments.seeds:
            found = {
                stream: features(load_stream(stream, seed=seed), backbone)
                for stream in arguments.streams
            }
            for stream, (train, test) in found.items():
                far = np.concatenate([
                    joined(other[1]).x for each, other in found.items() if each != stream
                ])
                cells[f"{name}/{stream}/{seed}"] = {
                    label: measured(candidate, train, test, far)
                    for label, (candidate, _) in CANDIDATES.items()
                }
                print(name, stream, seed, flush=True)
    record = {"machine": cpu(), "alpha": ALPHA, "cells": cells}
    path = RESULTS / "unknown.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
