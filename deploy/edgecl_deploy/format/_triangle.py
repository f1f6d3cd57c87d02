"""The lower triangle of a matrix, row by row, as files hold it."""

import numpy as np


def packed_size(size: int) -> int:
    """Return how many numbers the triangle of a matrix of `size` rows has."""
    return size * (size + 1) // 2


def packed(matrix: np.ndarray) -> np.ndarray:
    """Return the lower triangle of a matrix: [m (m + 1) / 2] of [m, m]."""
    return matrix[np.tril_indices(len(matrix))]


def unpacked(triangle: np.ndarray, size: int) -> np.ndarray:
    """Return the symmetric matrix that has a lower triangle.

    Args:
        triangle: [m (m + 1) / 2].
        size: m.

    Returns:
        [m, m].
    """
    whole = np.zeros((size, size), triangle.dtype)
    whole[np.tril_indices(size)] = triangle
    whole.T[np.tril_indices(size)] = triangle
    return whole
