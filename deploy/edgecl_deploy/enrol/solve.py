"""Systems with a Cholesky factor that travels: float32, its lower triangle row by row.

numpy has no triangular solve, and scipy for one routine is not worth its size. Blocks of rows are
unpacked when they are needed, so the square matrix never is in memory.
"""

from collections.abc import Iterator

import numpy as np

from edgecl_deploy.format import packed_size

BLOCK = 128  # rows


def cholesky_solve(packed: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return (L L')^-1 B: forward substitution, then backward, in blocks of rows.

    Args:
        packed: L, float32 [m (m + 1) / 2].
        right: B, [m, n].

    Returns:
        float64 [m, n].
    """
    found = right.astype(np.float64)  # a copy
    size = len(found)
    for begin, rows in _blocks(packed, size):
        end = begin + len(rows)
        found[begin:end] -= rows[:, :begin] @ found[:begin]
        found[begin:end] = np.linalg.solve(rows[:, begin:], found[begin:end])
    for begin, rows in _blocks(packed, size, backwards=True):
        end = begin + len(rows)
        found[begin:end] = np.linalg.solve(rows[:, begin:].T, found[begin:end])
        found[:begin] -= rows[:, :begin].T @ found[begin:end]
    return found


def _blocks(
    packed: np.ndarray, size: int, *, backwards: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of each block, and its rows: float64 [block, end of the block]."""
    begins = range(0, size, BLOCK)
    for begin in reversed(begins) if backwards else begins:
        end = min(begin + BLOCK, size)
        rows = np.zeros((end - begin, end))
        for row in range(begin, end):
            first = packed_size(row)
            rows[row - begin, : row + 1] = packed[first : first + row + 1]
        yield begin, rows
