"""The figures of a continual-learning run, from its accuracy matrix; pure functions, no files.

`matrix[t][i]` is the top-1 accuracy, 0..1, on the test images of task i after task t was learned,
i <= t. Stages and tasks count from 0 here and from 1 in the papers. Entries above the diagonal
(tasks not yet learned) are never read.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgecl.errors import EdgeclError

FORMAT = "edgecl-metrics/1"

Matrix: TypeAlias = Sequence[Sequence[float | int]]
Counts: TypeAlias = Sequence[Sequence[int]] | NDArray[Any]


class MetricsError(EdgeclError, ValueError):
    """Predictions, labels or an accuracy matrix that no figure can be computed from."""


def task_accuracies(correct: NDArray[Any], task: NDArray[Any], tasks: int) -> list[float]:
    """Return one row of the matrix: the share of correct answers on each of the first tasks.

    Args:
        correct: whether each test image was classified correctly; shape [n].
        task: the task that each test image belongs to; shape [n].
        tasks: tasks learned so far.

    Raises:
        MetricsError: if a task has no test image.
    """
    counts = np.bincount(task, minlength=tasks)[:tasks]
    if (counts == 0).any():
        raise MetricsError(
            f"Every task learned so far needs test images; task {int(np.argmin(counts))} has none. "
            "Give it test images, or leave the task out of the stream."
        )
    hits = np.bincount(task, weights=correct.astype(np.float64), minlength=tasks)[:tasks]
    return [float(accuracy) for accuracy in hits / counts]


def task_confusion(true: NDArray[Any], inferred: NDArray[Any], tasks: int) -> list[list[int]]:
    """Return counts of test images: rows are their tasks, columns the tasks that were inferred.

    Args:
        true: the task of each image; shape [n].
        inferred: the task of the matched injection, or of the predicted row; shape [n].
        tasks: tasks learned so far.
    """
    flat = np.bincount(true * tasks + inferred, minlength=tasks * tasks)  # t*t
    rows: list[list[int]] = flat.reshape(tasks, tasks).tolist()
    return rows


def pooled_accuracy(matrix: Matrix, n: Sequence[int]) -> list[float]:
    """Return A_b of every stage over the union of the test images seen, sum n_i a[b,i] / sum n_i.

    The definition of the LAMDA toolboxes: Zhou et al., IJCV 2024, https://arxiv.org/abs/2303.07338;
    also PILOT, https://arxiv.org/abs/2309.07117.

    Args:
        matrix: accuracies, lower triangle.
        n: test images of each task.

    Raises:
        MetricsError: if `n` does not give every task at least one image.
    """
    rows = _rows(matrix)
    if len(n) < len(rows) or any(count < 1 for count in n):
        raise MetricsError(
            f"Each of the {len(rows)} tasks needs a count of test images >= 1, got {list(n)}. "
            "Pass the sizes of the test sets in task order."
        )
    return [
        float(np.dot(row, n[: len(row)]) / np.sum(n[: len(row)], dtype=np.int64)) for row in rows
    ]


def task_mean_accuracy(matrix: Matrix) -> list[float]:
    """Return A_b of every stage as the plain mean over tasks, (1/b) sum a[b,i].

    It equals the pooled one only for equal n_i. The definition of L2P ("average accuracy", Wang et
    al., CVPR 2022, https://arxiv.org/abs/2112.08654), CODA-Prompt and RanPAC, after Lopez-Paz and
    Ranzato, NeurIPS 2017, equation 2, https://arxiv.org/abs/1706.08840.
    """
    return [float(np.mean(row)) for row in _rows(matrix)]


def average(stages: Sequence[float]) -> float:
    """Return the mean of A_b over the stages, "average incremental accuracy".

    Rebuffi et al., iCaRL, CVPR 2017, section 4, https://arxiv.org/abs/1611.07725.

    Raises:
        MetricsError: if there is no stage.
    """
    if not stages:
        raise MetricsError(
            "An average needs at least one stage, got none. Learn a task before asking for figures."
        )
    return float(np.mean(stages))


def forgetting(matrix: Matrix) -> float:
    """Return F = 1/(T-1) sum_{i<T} (max_{t<=T} a[t,i] - a[T,i]), never negative; 0 for one task.

    The final stage is INSIDE the maximum and stages before task i count as 0: this is what the
    public code of L2P (PyTorch), PILOT, HiDe-Prompt and mammoth computes. The literature's other,
    older definition (Chaudhry et al., ECCV 2018, https://arxiv.org/abs/1801.10112) takes the
    maximum over t < T and may be negative: do not compare the two.
    """
    rows = _rows(matrix)
    last = rows[-1]
    lost = [max(float(row[i]) for row in rows[i:]) - float(last[i]) for i in range(len(rows) - 1)]
    return float(np.mean(lost)) if lost else 0.0


def backward_transfer(matrix: Matrix) -> float:
    """Return BWT = 1/(T-1) sum_{i<T} (a[T,i] - a[i,i]), negative after forgetting; 0 for one task.

    Lopez-Paz and Ranzato, NeurIPS 2017, equation 3, https://arxiv.org/abs/1706.08840. It equals
    minus `forgetting` only where every task is at its best right after it was learned.
    """
    rows = _rows(matrix)
    gained = [float(rows[-1][i]) - float(rows[i][i]) for i in range(len(rows) - 1)]
    return float(np.mean(gained)) if gained else 0.0


def one_step_forgetting(matrix: Matrix) -> float:
    """Return F_N = 1/(T-1) sum_{t=2..T} 1/(t-1) sum_{i<t} (a[t-1,i] - a[t,i]); 0 for one task.

    The mean drop in ONE step, which CODA-Prompt prints as forgetting (Smith et al., CVPR 2023,
    https://arxiv.org/abs/2211.13218, `calc_forgetting.py` of its public code). A step loses a
    fraction of what `forgetting` accumulates: never compare the two. May be negative.
    """
    rows = _rows(matrix)
    steps = [float(np.mean(before - after[:-1])) for before, after in pairwise(rows)]
    return float(np.mean(steps)) if steps else 0.0


def task_id_accuracy(confusion: Counts) -> float:
    """Return the share of test images whose inferred task owns the true label: trace over sum.

    The task must be inferred from one image at a time; a vote over a batch leaks it
    (https://github.com/google-research/l2p/issues/28).

    Args:
        confusion: counts, rows true task, columns inferred task; [t, t].

    Raises:
        MetricsError: if the counts are not square, negative, or all zero.
    """
    counts = np.asarray(confusion)
    square = counts.ndim == 2 and counts.shape[0] == counts.shape[1]
    if not square or (counts < 0).any() or counts.sum() == 0:
        raise MetricsError(
            "A task confusion must be a square table of counts with at least one image, "
            f"got shape {counts.shape} with sum {counts.sum()}. Build it with `task_confusion`."
        )
    return float(np.trace(counts) / counts.sum())


def summarise(
    *,
    method: str,
    stream: str,
    protocol: str,
    seed: int,
    tasks: Sequence[str],
    test_images: Sequence[int],
    matrix: Matrix,
    confusion: Counts | None = None,
    match_histogram: Mapping[int, int] | Mapping[str, int] | None = None,
    task_id_source: str = "predicted class",
    seconds: Sequence[float | int] = (),
    train_images: Sequence[int] = (),
    pack_bytes: Sequence[int] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the contents of metrics.json, plain values that are ready for `json.dumps`.

    Args:
        method: the method's name.
        stream: the stream's name.
        protocol: what is asked of a prediction: "cil" (all classes seen, no task given), "dil", ...
        seed: the seed of the run.
        tasks: task names, in the order learned.
        test_images: test images of each task.
        matrix: accuracies, lower triangle, one row per task learned.
        confusion: counts [t, t] at the last stage, rows true task; None where there is none.
        match_histogram: how often each entry of a pool was matched; None where there is no pool.
        task_id_source: "matcher", or "predicted class" where the predicted label tells the task.
        seconds: training time of each task.
        train_images: training images of each task.
        pack_bytes: size of each task's learned tensors, at float16.
        extra: more keys of the result, as "parameters" (counts by name).

    Raises:
        MetricsError: if the lists disagree on the number of tasks, or `extra` has a key of ours.
    """
    stages = len(_rows(matrix))
    named = {
        "tasks": tasks,
        "test_images": test_images,
        "seconds": seconds,
        "train_images": train_images,
        "pack_bytes": pack_bytes,
    }
    may_be_empty = {"seconds", "train_images", "pack_bytes"}
    for name, values in named.items():
        if len(values) != stages and not (name in may_be_empty and len(values) == 0):
            raise MetricsError(
                f"`{name}` must have one entry for each of the {stages} rows of the accuracy "
                f"matrix, got {len(values)}. Pass the tasks learned so far, no others."
            )
    pooled = pooled_accuracy(matrix, test_images)
    task_mean = task_mean_accuracy(matrix)
    histogram = {int(index): int(count) for index, count in (match_histogram or {}).items()}
    summary: dict[str, Any] = {
        "format": FORMAT,
        "method": method,
        "stream": stream,
        "protocol": protocol,
        "seed": int(seed),
        "tasks": [str(name) for name in tasks],
        "test_images": [int(count) for count in test_images],
        "matrix": [[float(value) for value in row] for row in _rows(matrix)],
        "pooled": pooled,
        "task_mean": task_mean,
        "a_last": pooled[-1],
        "a_avg": average(pooled),
        "a_last_task_mean": task_mean[-1],
        "a_avg_task_mean": average(task_mean),
        "forgetting": forgetting(matrix),
        "bwt": backward_transfer(matrix),
        "task_id_accuracy": None if confusion is None else task_id_accuracy(confusion),
        "task_id_source": task_id_source,
        "task_confusion": [] if confusion is None else np.asarray(confusion).astype(int).tolist(),
        "match_histogram": {str(index): histogram[index] for index in sorted(histogram)},
        "seconds": [float(value) for value in seconds],
        "train_images": [int(count) for count in train_images],
        "pack_bytes": [int(size) for size in pack_bytes],
        "parameters": {},
    }
    clash = sorted((summary.keys() - {"parameters"}) & (extra or {}).keys())
    if clash:
        raise MetricsError(
            f"`extra` must only add keys to the metrics, got {clash}, which the format defines. "
            "Rename them."
        )
    return {**summary, **(extra or {})}


def _rows(matrix: Matrix) -> list[NDArray[Any]]:
    """Return the lower triangle, row t with its t + 1 entries.

    Raises:
        MetricsError: if there is no row, a row is short, or a value is outside 0..1.
    """
    rows = [np.asarray(row, dtype=np.float64)[: t + 1] for t, row in enumerate(matrix)]
    short = [t for t, row in enumerate(rows) if len(row) < t + 1]
    inside = all(((row >= 0) & (row <= 1)).all() for row in rows)  # NaN is outside as well
    if not rows or short or not inside:
        found = "no row" if not rows else f"a short row {short[0]}" if short else "a value outside"
        raise MetricsError(
            f"An accuracy matrix must have t + 1 accuracies in 0..1 in row t, got {found}. "
            "Pass one row of `task_accuracies` per task learned."
        )
    return rows
