"""int8 weights of a backbone: a method then learns on the numbers that a device multiplies.

Every large matrix inside a block is rounded to the nearest of 255 values with one scale per output.
Rounding again changes nothing, so a bundle holds these weights in int8 without another error.
"""

from pathlib import Path

import torch
from torch import Tensor

from edgecl.backbones._errors import BackboneError

INT8 = "int8"
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
    """Round a matrix [outputs, inputs] to the nearest int8 times a scale per output, in float32."""
    matrix = matrix.float()
    largest = matrix.abs().amax(dim=1, keepdim=True)
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return torch.round(matrix / scales).clamp(-LARGEST, LARGEST) * scales
