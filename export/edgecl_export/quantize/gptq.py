"""Rounding of a weight to int8 so that its outputs change least: GPTQ.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023, https://arxiv.org/abs/2210.17323, algorithm 1, in natural order. Differs from the paper:
int8, symmetric, a scale per output column that is fixed before; all in float64.
"""

import numpy as np
from numpy.typing import NDArray

from edgecl.backbones.rounding import LARGEST, Float, Rounded, scales_of

DAMPING = 0.01  # of the mean diagonal of H, added to it
BLOCK = 64  # rows that are rounded before the rows after them are corrected
CHUNK = 1024  # rows of X that are summed at once


class Moments:
    """The second moments of the inputs of one weight: `H = X'X / n` (equation 1 of the paper).

    Attributes:
        total: X'X, float64 `[k, k]`.
        rows: n.
    """

    def __init__(self, size: int):
        self.total = np.zeros((size, size), np.float64)
        self.rows = 0

    def add(self, inputs: Float) -> None:
        """Add inputs `[..., k]`, in chunks of one size, so that sums have one order."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK].astype(np.float64)
            self.total += part.T @ part
        self.rows += len(rows)

    def matrix(self) -> NDArray[np.float64]:
        """Return H with its damping."""
        matrix = self.total / max(self.rows, 1)
        mean = float(np.mean(np.diag(matrix)))
        matrix[np.diag_indices_from(matrix)] += DAMPING * mean if mean > 0 else 1.0
        return matrix


def gptq(weight: Float, moments: Moments) -> Rounded:
    """Round a weight `[k, n]`; each row's error is made up for by the rows after it.

    Args:
        moments: of the weight's inputs.
    """
    scales = scales_of(weight)
    wide = scales.astype(np.float64)
    rest = weight.astype(np.float64)
    upper = np.linalg.cholesky(np.linalg.inv(moments.matrix())).T  # inv(H) = upper' upper
    values = np.zeros(weight.shape, np.int8)
    for start in range(0, len(weight), BLOCK):
        end = min(start + BLOCK, len(weight))
        errors = np.zeros((end - start, weight.shape[1]))
        for row in range(start, end):
            whole = np.clip(np.rint(rest[row] / wide), -LARGEST, LARGEST)
            values[row] = whole.astype(np.int8)
            error = (rest[row] - whole * wide) / upper[row, row]
            rest[row + 1 : end] -= np.outer(upper[row, row + 1 : end], error)
            errors[row - start] = error
        rest[end:] -= upper[start:end, end:].T @ errors
    return Rounded(values, scales)
