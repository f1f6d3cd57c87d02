"""Policies: what acts on whatever a method trains, and keeps something from task to task.

What a policy keeps is in the state of the run, under names of its own: no method reads it, and
nothing of it ships.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgecl.learning.records import POLICY_STATE
from edgecl.program.learned import Tensors, TensorSpec


def named(policy: str, what: str, tensors: Tensors) -> Tensors:
    """Return tensors under the names that the state of a run has for them."""
    return {f"{POLICY_STATE}{policy}.{what}.{name}": tensor for name, tensor in tensors.items()}


def read(state: Mapping[str, Tensor], policy: str, what: str) -> Tensors:
    """Return what `named` put into a state; nothing in the first task."""
    start = f"{POLICY_STATE}{policy}.{what}."
    return {name[len(start) :]: each for name, each in state.items() if name.startswith(start)}


def grown(
    former: Tensor | None, fresh: Tensor, item: TensorSpec, rows: Sequence[int] = ()
) -> Tensor:
    """Return what is kept of a tensor for the next task, whose head may have new rows.

    Args:
        fresh: what new entries start with, in the shape of the tensor.
        rows: of each new row, the former one that it goes on from, -1 of none; () where all are
            new.
    """
    if former is None or not item.whole:
        return fresh if former is None else former.to(fresh.device)
    axis = item.axis_names.index("c")
    new = fresh.shape[axis] - former.shape[axis]
    former = former.to(fresh.device)
    added = fresh.narrow(axis, former.shape[axis], new).clone()
    for place, row in enumerate(rows):
        if row >= 0:
            added.select(axis, place).copy_(former.select(axis, row))
    return torch.cat([former, added], dim=axis)
