"""The figures of a continual-learning run, from its accuracy matrix; pure functions, no files.

`matrix[t][i]` is the top-1 accuracy, 0..1, on the test images of task i after task t was learned,
i <= t. Stages and tasks count from 0 here and from 1 in the papers. Entries above the diagonal
(tasks not yet learned) are never read, but by the figures of methods that classify by name: these
take a whole T x T matrix, named after what a prediction is told.

A task without test images has None for its accuracies. Every figure is over the tasks that have
some, and None where there is none of these.

`oracle`: the label set of the image's task is given, and the best of its classes is the answer.
`open`:   nothing is given; the candidates are the classes of all T tasks, learned or not.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgecl.errors import EdgeclError

Matrix: TypeAlias = Sequence[Sequence[float | int | None]]
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


def pooled_accuracy(matrix: Matrix, n: Sequence[int]) -> list[float | None]:
    """Return A_b of every stage over the union of the test images seen, sum n_i a[b,i] / sum n_i.

    The definition of the LAMDA toolboxes: Zhou et al., IJCV 2024, https://arxiv.org/abs/2303.07338;
    also PILOT, https://arxiv.org/abs/2309.07117.

    Args:
        matrix: accuracies, lower triangle.
        n: test images of each task; of a task without an accuracy 0.

    Raises:
        MetricsError: if `n` does not give every accuracy its images.
    """
    rows = _rows(matrix)
    counts = list(n[: len(rows)])
    fits = len(counts) == len(rows) and all(
        count >= 0 and bool(np.isnan(row).all() if not count else not np.isnan(row).any())
        for count, row in zip(counts, _columns(rows), strict=True)
    )
    if not fits:
        raise MetricsError(
            f"Each of the {len(rows)} tasks with accuracies needs a count of test images >= 1, got "
            f"{list(n)}. Pass the sizes of the test sets in task order."
        )
    return [
        float(np.dot(np.nan_to_num(row), counts[: len(row)]) / total) if total else None
        for row in rows
        for total in [sum(counts[: len(row)])]
    ]


def task_mean_accuracy(matrix: Matrix) -> list[float | None]:
    """Return A_b of every stage as the plain mean over tasks, (1/b) sum a[b,i].

    It equals the pooled one only for equal n_i. The definition of L2P ("average accuracy", Wang et
    al., CVPR 2022, https://arxiv.org/abs/2112.08654), CODA-Prompt and RanPAC, after Lopez-Paz and
    Ranzato, NeurIPS 2017, equation 2, https://arxiv.org/abs/1706.08840.
    """
    return [_mean(row) for row in _rows(matrix)]


def average(stages: Sequence[float | None]) -> float | None:
    """Return the mean of A_b over the stages, "average incremental accuracy".

    Rebuffi et al., iCaRL, CVPR 2017, section 4, https://arxiv.org/abs/1611.07725.

    Raises:
        MetricsError: if there is no stage.
    """
    if not stages:
        raise MetricsError(
            "An average needs at least one stage, got none. Learn a task before asking for figures."
        )
    return _mean(_floats(stages))


def forgetting(matrix: Matrix) -> float | None:
    """Return F = 1/(T-1) sum_{i<T} (max_{t<=T} a[t,i] - a[T,i]), never negative; 0 for one task.

    The final stage is INSIDE the maximum and stages before task i count as 0: this is what the
    public code of L2P (PyTorch), PILOT, HiDe-Prompt and mammoth computes. The literature's other,
    older definition (Chaudhry et al., ECCV 2018, https://arxiv.org/abs/1801.10112) takes the
    maximum over t < T and may be negative: do not compare the two.
    """
    rows = _rows(matrix)
    last = rows[-1]
    lost = [max(float(row[i]) for row in rows[i:]) - float(last[i]) for i in range(len(rows) - 1)]
    return _mean(lost) if lost else 0.0


def backward_transfer(matrix: Matrix) -> float | None:
    """Return BWT = 1/(T-1) sum_{i<T} (a[T,i] - a[i,i]), negative after forgetting; 0 for one task.

    Lopez-Paz and Ranzato, NeurIPS 2017, equation 3, https://arxiv.org/abs/1706.08840. It equals
    minus `forgetting` only where every task is at its best right after it was learned.
    """
    rows = _rows(matrix)
    gained = [float(rows[-1][i]) - float(rows[i][i]) for i in range(len(rows) - 1)]
    return _mean(gained) if gained else 0.0


def forward_transfer(before: Sequence[float | None], chance: Sequence[float]) -> float | None:
    """Return FWT = 1/(T-1) sum_{i=2..T} (a[i-1,i] - b_i): what a task gains before it is learned.

    Lopez-Paz and Ranzato, NeurIPS 2017, equation 4, https://arxiv.org/abs/1706.08840, where the
    task is given. Their b_i is the accuracy of a randomly initialised network; here it is what such
    a network has on average, one over the number of the task's classes.

    Args:
        before: a[i-1,i] of tasks 2..T, their own classes the only candidates; None of a task that
            could not be answered then, which is left out of the mean.
        chance: b_i of the same tasks.
    """
    return _mean([
        float("nan") if accuracy is None else accuracy - guess
        for accuracy, guess in zip(before, chance, strict=True)
    ])


def area_under_accuracy(accuracies: Sequence[float | None], images: Sequence[int]) -> float | None:
    """Return A_AUC = sum_t f(t) n_t / sum_t n_t of an online stream, None where nothing is known.

    The area under the accuracy over the number of samples that came, over their number (Koh et al.,
    i-Blurry, ICLR 2022, section 4, https://arxiv.org/abs/2110.10031, where n_t is a fixed number of
    samples, and smaller).

    Args:
        accuracies: f(t), over all classes that have come, where a run was measured; None where it
            is not known, which is left out with its samples.
        images: n_t, training images since the former measurement, at least one in all.
    """
    known = [(f, n) for f, n in zip(accuracies, images, strict=True) if f is not None]
    total = sum(n for _, n in known)
    return sum(f * n for f, n in known) / total if total else None


def one_step_forgetting(matrix: Matrix) -> float | None:
    """Return F_N = 1/(T-1) sum_{t=2..T} 1/(t-1) sum_{i<t} (a[t-1,i] - a[t,i]); 0 for one task.

    The mean drop in ONE step, which CODA-Prompt prints as forgetting (Smith et al., CVPR 2023,
    https://arxiv.org/abs/2211.13218, `calc_forgetting.py` of its public code). A step loses a
    fraction of what `forgetting` accumulates: never compare the two. May be negative.
    """
    rows = _rows(matrix)
    steps = [_mean(before - after[:-1]) for before, after in pairwise(rows)]
    return _mean(_floats(steps)) if steps else 0.0


def mtil_transfer(oracle: Matrix) -> list[float | None]:
    """Return MTIL's Transfer of tasks 2..T: Transfer_i = mean_{j<i} a[j,i], before i is learned.

    Zheng et al., ZSCL, ICCV 2023, https://arxiv.org/abs/2303.06628. The reported value is the mean
    of these T - 1 figures: each task has one vote, however many stages came before it. Not a
    class-incremental figure: the label set of the image's task is given.

    Args:
        oracle: [T, T], entry [t][i] for every stage and task; see the top of this page.
    """
    matrix = _square(oracle)
    return [_mean(matrix[:i, i]) for i in range(1, len(matrix))]


def mtil_average(oracle: Matrix) -> list[float | None]:
    """Return MTIL's Avg of each task, Avg_i = mean_j a[j,i] over all stages; see mtil_transfer."""
    return [_mean(column) for column in _square(oracle).T]


def mtil_last(oracle: Matrix) -> list[float | None]:
    """Return MTIL's Last of each task, Last_i = a[T,i]; see mtil_transfer."""
    return [_mean([value]) for value in _square(oracle)[-1]]


def ci_transfer(open_matrix: Matrix) -> list[float | None]:
    """Return CI-Transfer of stages t = 1..T-1: mean_{k>t} a[t,k], the tasks not yet learned.

    The figure of CGIL (Frascaroli et al., BMVC 2024, https://arxiv.org/abs/2407.15793). The
    reported value is the mean of these T - 1 figures: an average over stages first, MTIL's Transfer
    is one over tasks. No oracle: an image of an unlearned task is classified among the classes of
    all tasks. Scores of learned and unlearned classes must be on one scale (both embeddings
    normalised): where those of unlearned classes are longer, they win nearly always.

    Args:
        open_matrix: [T, T], of which the entries i > t are read.
    """
    matrix = _square(open_matrix)
    return [_mean(matrix[t, t + 1 :]) for t in range(len(matrix) - 1)]


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


def _square(matrix: Matrix) -> NDArray[Any]:
    """Return a whole matrix.

    Raises:
        MetricsError: if it is not square, is empty, or has a value outside 0..1.
    """
    lengths = {len(row) for row in matrix}
    if lengths != {len(matrix)}:
        raise MetricsError(
            "A matrix over all tasks must have T rows of T accuracies, got "
            f"{len(matrix)} rows of {sorted(lengths)}. Evaluate every stage on every task."
        )
    if not all(_inside(row) for row in matrix):
        values = [value for row in matrix for value in row if value is not None]
        raise MetricsError(
            f"A matrix over all tasks must hold accuracies in 0..1, got {min(values)} to "
            f"{max(values)}. Pass shares of correct answers."
        )
    return np.stack([_floats(row) for row in matrix])


def _inside(row: Sequence[float | int | None]) -> bool:
    """Return whether all accuracies of a row are in 0..1; NaN is outside as well."""
    return all(value is None or 0 <= value <= 1 for value in row)


def _floats(values: Sequence[float | int | None]) -> NDArray[Any]:
    """Return numbers, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _mean(values: Sequence[float] | NDArray[Any]) -> float | None:
    """Return the mean of the numbers that are not NaN; None where there is none."""
    known = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _columns(rows: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the accuracies of each task in the stages that know it."""
    return [np.array([row[i] for row in rows[i:]]) for i in range(len(rows))]


def _rows(matrix: Matrix) -> list[NDArray[Any]]:
    """Return the lower triangle, row t with its t + 1 entries.

    Raises:
        MetricsError: if there is no row, a row is short, or a value is outside 0..1.
    """
    rows = [_floats(row[: t + 1]) for t, row in enumerate(matrix)]
    short = [t for t, row in enumerate(rows) if len(row) < t + 1]
    inside = all(_inside(row[: t + 1]) for t, row in enumerate(matrix))
    if not rows or short or not inside:
        found = "no row" if not rows else f"a short row {short[0]}" if short else "a value outside"
        raise MetricsError(
            f"An accuracy matrix must have t + 1 accuracies in 0..1 in row t, got {found}. "
            "Pass one row of `task_accuracies` per task learned."
        )
    return rows
