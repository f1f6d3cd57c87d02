"""Tensors that BLIP has rounded, as packs hold them in bits (ADR 0077)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgecl.learning.policies import read
from edgecl.learning.policies.blip import GRID, POLICY, step_of
from edgecl.learning.runs import Run
from edgecl.program.learned import TensorSpec
from edgecl_deploy.format import Grid, digest, on_grid, write_bits, write_tensors
from edgecl_export.errors import PackError

ROWS = "c"
MANY = 64  # tasks whose starts are blobs of their own; those of more are one


@dataclass(frozen=True)
class InBits:
    """A tensor in bits.

    Attributes:
        data: its bits.
        grid: how they are read.
        starts: the blobs that hold where it started.
    """

    data: np.ndarray
    grid: Grid
    starts: tuple[bytes, ...]


def in_bits(run: Run, task: int, declared: Mapping[str, TensorSpec]) -> dict[str, InBits]:
    """Return the tensors of a task's part that lie on the grid of their bits.

    They are what the part alone tells, so a pack is the same after later tasks, which find more
    bits. One that no bits were found for, such as a key that is pulled to images, lies on none.

    Raises:
        PackError: if one that has bits does not.
    """
    state, part = run.state(), run.part(task)
    starts, bits = (read(state, POLICY, what) for what in ("start", "bits"))
    rows = [len(each.classes) for each in run.records()[: task + 1]]
    found = {}
    for name, start in starts.items():
        if name not in part:
            continue
        item = declared[name]
        axis = item.axis_names.index(ROWS) if item.whole else None
        own = start if axis is None else start.narrow(axis, 0, min(sum(rows), start.shape[axis]))
        step = step_of(own)
        steps = whole_steps(part[name], own, step)
        if steps is None and bits[name].any():
            raise PackError(
                f"{name} of task {task} must lie on a grid of at most {GRID} bits, got other "
                "values. Train with schedule.bits=20, or export with --dtype float32."
            )
        if steps is None:
            continue
        pieces = [own]
        if axis is not None and sum(rows) == own.shape[axis] and len(rows) <= MANY:
            pieces = [each for each in own.split(rows, axis) if each.shape[axis]]
        value, blobs = start_of(name, pieces)
        data = np.frombuffer(write_bits(steps), np.uint8)
        found[name] = InBits(data, Grid(len(data), step, value), blobs)
    return found


def whole_steps(values: Tensor, start: Tensor, step: float) -> np.ndarray | None:
    """Return how many steps each value is from its start; None where one lies between two."""
    if values.shape != start.shape or values.dtype != torch.float32:
        return None
    way = ((values.double() - start.double()) / step).round()  # at the edge a little further
    if not (way.abs() <= 2**GRID).all():  # NaN, too
        return None
    steps: np.ndarray = way.long().numpy()
    again = on_grid(steps, step, start.numpy())
    return steps if again.tobytes() == values.contiguous().numpy().tobytes() else None


def start_of(
    name: str, pieces: Sequence[Tensor]
) -> tuple[float | tuple[str, ...], tuple[bytes, ...]]:
    """Return how a manifest tells where a tensor started, and the blobs of it."""
    whole = torch.cat([each.flatten() for each in pieces])
    if len(whole) and bool((whole == whole[0]).all()):
        return float(whole[0]), ()
    blobs = []
    for piece in pieces:
        array = piece.contiguous().numpy()
        half = array.astype(np.float16)
        exact = half.astype(np.float32).tobytes() == array.tobytes()
        blobs.append(write_tensors({name: half if exact else array}))
    return tuple(digest(each) for each in blobs), tuple(blobs)
