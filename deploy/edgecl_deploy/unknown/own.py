"""The score of a class that depends on that class alone: the cosine with its own row.

The score of a training image with a row that it is part of is too high, so it is taken with the row
of the others, in closed form. What other classes there are never shows, so a score stays what it
was when classes are added.
"""

import numpy as np


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; one of length 0 stays so.

    Args:
        rows: [n, w].

    Returns:
        float64 [n, w].
    """
    wide = rows.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    found: np.ndarray = wide / np.maximum(norm, np.finfo(np.float64).tiny)
    return found


def left_out(features: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with the sum of the other images of its class.

    Args:
        features: [n, w].
        total: [w], the sum of all images of the class, of two or more.

    Returns:
        float64 [n].
    """
    wide = features.astype(np.float64)
    found: np.ndarray = (unit(wide) * unit(total.astype(np.float64) - wide)).sum(axis=1)
    return found


def cosines(features: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with a row.

    Args:
        features: [n, w].
        row: [w].

    Returns:
        float64 [n].
    """
    found: np.ndarray = unit(features) @ unit(row[None])[0]
    return found
