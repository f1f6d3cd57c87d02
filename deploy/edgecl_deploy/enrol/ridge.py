"""A ridge head that is solved again for more images, without the images or sums before them.

With A = G + lambda I = L L' of the workstation, its head W, and H and Y the features and classes of
all images that were enrolled, the head of all images together is

    W' = W + K S^-1 (Y - H W),  K = A^-1 H',  S = I + H K

(the matrix inversion lemma: recursive least squares in one step). With R = Y - H W, the residual of
image i under the head that was solved without it is row i of S^-1 R divided by (S^-1)_ii.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl_deploy.enrol.solve import cholesky_solve
from edgecl_deploy.errors import NonFiniteError
from edgecl_deploy.format import DISCRIMINANT, RELU_MATMUL, Enrol


@dataclass(frozen=True, eq=False)
class Solved:
    """A head for the classes of the release and of the device.

    Attributes:
        names: The class of each column.
        weight: float64 [m, classes]; of a discriminant [m, rows].
        left_out: float64 [n, classes]: the scores of each image by the head without it.
    """

    names: tuple[str, ...]
    weight: np.ndarray
    left_out: np.ndarray


def expanded(enrol: Enrol, learned: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return what the head sees of features.

    Args:
        enrol: How the program takes a class.
        learned: The learned tensors.
        features: float32 [n, f].

    Returns:
        float32 [n, m].
    """
    how = enrol.expand
    if how is None:
        return features
    factor = np.float32(how.factor)
    found: np.ndarray
    if how.tensor is None:
        found = features * factor
    elif how.op == RELU_MATMUL:
        found = np.maximum(features @ learned[how.tensor], np.float32(0))
    else:
        turned = factor * (features @ learned[how.tensor])
        found = np.concatenate([np.cos(turned), np.sin(turned)], axis=1)
    return found


def summed(enrol: Enrol, learned: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return what the sums of the workstation are of: float64 [n, m].

    Those of a discriminant have a 1 at the end, whose sums are the numbers of images.
    """
    rows = expanded(enrol, learned, features).astype(np.float64)
    return np.pad(rows, ((0, 0), (0, int(enrol.kind == DISCRIMINANT))), constant_values=1.0)


def solved(
    enrol: Enrol,
    learned: Mapping[str, np.ndarray],
    rows: Sequence[str],
    factor: np.ndarray,
    classes: Mapping[str, np.ndarray],
) -> Solved:
    """Solve the head again.

    Args:
        enrol: How the program takes a class.
        learned: The learned tensors of the release.
        rows: The class of every row of its head; rows of one class are equal.
        factor: L, packed.
        classes: The features of each class that was enrolled, float32 [n, f].

    Raises:
        NonFiniteError: The factor is damaged.
    """
    names = tuple(dict.fromkeys((*rows, *classes)))
    features = np.concatenate(list(classes.values()))
    seen = expanded(enrol, learned, features).astype(np.float64)  # n m
    target = np.zeros((len(seen), len(names)))
    owner = [names.index(name) for name, each in classes.items() for _ in each]
    target[np.arange(len(seen)), owner] = 1.0
    before = np.zeros((seen.shape[1], len(names)))
    head = learned[enrol.tensor].astype(np.float64)
    if enrol.scale is not None:
        head *= learned[enrol.scale].astype(np.float64)[:, None]
    known = list(dict.fromkeys(rows))
    before[:, : len(known)] = head[[rows.index(name) for name in known]].T
    ends = np.arange(1, seen.shape[1] + 1)
    if not np.isfinite(factor).all() or (factor[ends * (ends + 1) // 2 - 1] <= 0).any():
        raise NonFiniteError(
            "the factor of the release must be that of a positive definite matrix",
            "one that is not",
            "Install the release again, or release without `--enrolment`.",
        )
    gain = cholesky_solve(factor, seen.T)  # m n
    inverse = np.linalg.inv(np.eye(len(seen)) + seen @ gain)  # n n
    change = inverse @ (target - seen @ before)  # n classes
    left_out = target - change / np.diag(inverse)[:, None]
    return Solved(names, before + gain @ change, left_out)


def head_of(found: Solved, rows: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the head as it is learned: rows of largest magnitude in [0.5, 1), and their scales.

    Args:
        found: The head.
        rows: The class of every row.

    Returns:
        float32 [c, m], and powers of two float32 [c].
    """
    columns = [found.names.index(name) for name in rows]
    return balanced(found.weight.T[columns])


def balanced(head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of largest magnitude in [0.5, 1), and their scales.

    Args:
        head: [c, m].

    Returns:
        float32 [c, m], and powers of two float32 [c].
    """
    head = head.astype(np.float32)
    largest = np.abs(head).max(axis=1)
    scale = np.ldexp(np.float32(1), np.frexp(largest)[1]).astype(np.float32)
    return head / scale[:, None], scale
