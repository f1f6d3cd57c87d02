"""int8 weights of a backbone: a method then learns on the numbers that a device multiplies.

Every large matrix inside a block is rounded to the nearest of 255 values with one scale per output.
Rounding again changes nothing, so a bundle holds these weights in int8 without another error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones._errors import BackboneError
from edgecl_deploy.format import INT8

Float: TypeAlias = NDArray[np.float32]
LARGEST = 127  # -128 is not used: the range is symmetric
SMALLEST = 64 * 1024  # bytes of a float32 matrix that is worth it


def read_weights(weights: Path | str | None) -> tuple[Path | None, bool]:
    """Return the file of `weights`, None for the preset's source, and whether they become int8.

    Args:
        weights: a file, `int8`, or `int8:FILE`.

    Raises:
        BackboneError: no file is named after the colon.
    """
    if weights is None or isinstance(weights, Path):
        return weights, False
    if weights == INT8:
        return None, True
    word, colon, file = weights.partition(":")
    if word != INT8 or not colon:
        return Path(weights), False
    if not file:
        raise BackboneError(
            f"weights must be a file, {INT8}, or {INT8}:FILE, got {weights!r}. Name the file, or "
            "leave out the colon."
        )
    return Path(file), True


def spelled(weights: Path | str | None) -> str | None:
    """Return `weights` with the whole path of its file."""
    file, rounded = read_weights(weights)
    parts = [INT8] if rounded else []
    return ":".join([*parts, *([] if file is None else [str(file.absolute())])]) or None


def round_blocks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a ViT's weights with the values that int8 has of its blocks' matrices.

    Raises:
        BackboneError: there is no such matrix.
    """
    large = {
        name: round_matrix(tensor)
        for name, tensor in weights.items()
        if name.startswith("blocks.") and tensor.ndim == 2 and tensor.numel() * 4 >= SMALLEST
    }
    if not large:
        raise BackboneError(
            f"Weights can be {INT8} where a block has a matrix of {SMALLEST} bytes in float32, "
            f"got smaller ones. Leave {INT8} out."
        )
    return weights | large


def round_matrix(matrix: Tensor) -> Tensor:
    """Return a matrix [outputs, inputs] with the values of `nearest`, in float32."""
    columns = np.ascontiguousarray(matrix.float().numpy().T)
    return torch.from_numpy(np.ascontiguousarray(nearest(columns).dequantised().T))


@dataclass(frozen=True, eq=False)
class Rounded:
    """A weight in int8."""

    values: NDArray[np.int8]  # [k, n]
    scales: Float  # [n]

    def dequantised(self) -> Float:
        """Return what an engine computes with: float32 `[k, n]`."""
        return self.values.astype(np.float32) * self.scales


def scales_of(weight: Float) -> Float:
    """Return one scale per column; that of a column of zeros is 1."""
    largest = np.abs(weight).max(axis=0)
    scales: Float = np.where(largest > 0, largest / np.float32(LARGEST), 1).astype(np.float32)
    return scales


def nearest(weight: Float) -> Rounded:
    """Round every value of a weight [inputs, outputs] to the nearest one."""
    scales = scales_of(weight)
    values = np.clip(np.rint(weight / scales), -LARGEST, LARGEST).astype(np.int8)
    return Rounded(values, scales)
