"""Rows of the classifier: which task brought each of them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgecl.program.learned import Tensors, TensorSpec


def task_rows() -> dict[str, TensorSpec]:
    """Declare `task_rows`: how many rows of the classifier each task brought."""
    item = TensorSpec("t", {}, concat_axis="t", start={"t": 1}, half=False, counts=True)
    return {"task_rows": item}


def task_of(rows: Int[Tensor, "*b"], learned: Tensors) -> Int[Tensor, "*b"]:
    """Return the task (from 0) that brought each row; one that exists, whatever the counts are."""
    counts = learned["task_rows"]
    first = counts.cumsum(dim=0) - counts  # t: the first row of each task, 0 for the oldest
    # In float: OpenVINO 2026.4 computes a sum of integers less one wrongly for several images.
    return ((rows.unsqueeze(-1) >= first).float().sum(dim=-1) - 1).long()


def owners(head: Tensor, learned: Tensors) -> Int[Tensor, " c"]:
    """Return the task that brought each row of a head, whose first axis they are."""
    return task_of(torch.arange(head.shape[0], device=head.device), learned)


def may_win(head: Tensor, learned: Tensors, tasks: Int[Tensor, "b 1"]) -> Bool[Tensor, "b c"]:
    """Return which class rows of a head may win where each image has a task: only the task's own.

    Class rows after those of all tasks, of classes that were not learned, may always win.
    """
    nobody = torch.arange(head.shape[0], device=head.device) >= learned["task_rows"].sum()
    return (owners(head, learned) == tasks) | nobody
