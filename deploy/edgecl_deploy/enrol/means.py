"""Rows of a classifier of class means, and what can be said of them: numpy alone.

A row is the mean of the features of its class, compared by cosine (Zhou et al., IJCV 2024,
equation 5; https://arxiv.org/abs/2303.07338), so a new class changes no other row.
"""

from collections.abc import Mapping

import numpy as np

from edgecl_deploy.unknown import own
from edgecl_deploy.unknown.own import unit

DUPLICATE = 0.95  # cosine of two class means from which on they may be one class
BURST = 0.98  # cosine of two images from which on they show one view


def mean_row(features: np.ndarray) -> np.ndarray:
    """Return the mean, summed in float64, so that the order of the images does not show.

    Args:
        features: float32 [n, f].

    Returns:
        float32 [f].
    """
    total: np.ndarray = features.astype(np.float64).sum(axis=0)
    return (total / len(features)).astype(np.float32)


def with_rows(rows: np.ndarray, classes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Append a row per class to the learned tensor.

    Args:
        rows: float32 [c, ...].
        classes: The features of each class, float32 [n, f].

    Returns:
        float32 [c + classes, ...].
    """
    new = [mean_row(each).reshape(1, *rows.shape[1:]) for each in classes.values()]
    return np.concatenate([rows, *new])


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of every pair.

    Args:
        some: [n, f].
        others: [k, f].

    Returns:
        float64 [n, k].
    """
    found: np.ndarray = unit(some) @ unit(others).T
    return found


def left_out(features: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with the mean of the other images of its class.

    Args:
        features: [n, f], of at least two images.

    Returns:
        float64 [n].
    """
    return own.left_out(features, features.astype(np.float64).sum(axis=0))


def twins(features: np.ndarray) -> int:
    """Return how many images are nearly another one, as the frames of a burst are.

    Args:
        features: [n, f].
    """
    alike = cosines(features, features) > BURST
    np.fill_diagonal(alike, val=False)
    return int(alike.any(axis=1).sum())
