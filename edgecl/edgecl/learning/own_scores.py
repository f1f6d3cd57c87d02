"""The scores that a task's images have with their own class, for the p-values of devices.

Made where the images are at hand, kept in the run, appended with each pack (ADR 0053).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning.records import Knowledge
from edgecl.program.learned import Tensors
from edgecl.program.program import OwnRows
from edgecl_deploy.unknown.own import cosines, left_out, unit
from edgecl_deploy.unknown.rule import Part, Reference
from edgecl_deploy.unknown.table import ORDER, Table, in_use

BLOCK = 4096  # images whose features are in float64 at once
SPANNING = 1024  # images of a class that its subspace is of; of more, every k-th


def scores_of(
    rows: OwnRows,
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    part: Tensors,
    row_images: Sequence[int],
    former: Sequence[Table],
) -> Table:
    """Return the table of a task.

    Args:
        rows: what the images of a class are compared with.
        features: of the task's images; they may be in a file.
        labels: the task's class row of each.
        part: what the task ships.
        row_images: of each class row of the task, of how many images it is, those of former tasks
            included where it took them over.
        former: the tables of the tasks before.
    """
    order = torch.argsort(labels, stable=True).numpy()
    counts = labels.bincount(minlength=len(row_images)).tolist()
    begin, end = rows.columns or (0, features.shape[1])
    known = None if rows.tensor is None else part[rows.tensor].flatten(1).numpy()
    scores, means, first = [], [], 0
    for row, count in enumerate(counts):
        own = order[first : first + count]
        blocks = [own[at : at + BLOCK] for at in range(0, count, BLOCK)]
        first += count

        def read(block: NDArray[np.int64]) -> NDArray[np.float64]:
            found = features[torch.from_numpy(block)].numpy()[:, begin:end].astype(np.float64)
            return found if rows.tensor is not None else unit(found)

        if known is None:
            total = np.sum([read(block).sum(axis=0) for block in blocks], axis=0)
            means.append(total / count)
        else:
            total = known[row].astype(np.float64) * row_images[row]
        if not rows.of_images:
            scores.append(np.concatenate([cosines(read(block), total) for block in blocks]))
        elif row_images[row] > 1:
            scores.append(np.concatenate([left_out(read(block), total) for block in blocks]))
        else:
            scores.append(np.empty(0))
    table = Table.of(scores, former, np.stack(means) if means else None)
    if not rows.of_images:
        return table
    of_class = np.split(order, np.cumsum(counts)[:-1])
    spanning = (each[:: -(-len(each) // SPANNING) or 1] for each in of_class)
    taken = (features[torch.from_numpy(each)].numpy()[:, begin:end] for each in spanning)
    return table.with_subspaces(taken, former)


def table_without(table: Table, kept: Sequence[int], former: Sequence[Table]) -> tuple[Table, bool]:
    """Return the table of a task that has some of its classes only, or another one before it.

    Args:
        kept: the rows that stay.
        former: the tables of the tasks before.

    Returns:
        The table, and whether it is what the images gave: of a class of more scores than are kept,
        the distances are drawn from those that are.
    """
    scores = [table.order[row, : min(int(table.count[row]), ORDER)] for row in kept]
    rows = list(kept)
    mean = None if table.mean is None else table.mean[rows]
    found, exact = Table.of(scores, former, mean), bool((table.count[rows] <= ORDER).all())
    if not exact:
        found = replace(
            found, count=table.count[rows], order=table.order[rows], centre=table.centre[rows]
        )
    if table.angles is not None and table.directions is not None:
        known = [each.angles for each in former if each.angles is not None]
        angles, _ = table_without(table.angles, kept, known)
        found = replace(found, directions=in_use(table.directions[rows]), angles=angles)
    return found, exact


def reference_of(rows: OwnRows | None, knowledge: Knowledge, learned: Tensors) -> Reference | None:
    """Return what the p-values of all classes so far are from, as a device has it.

    Args:
        rows: what the images of a class are compared with.
        knowledge: what was learned so far.
        learned: its tensors, joined.

    Returns:
        None where not every task that has class rows has scores.
    """
    if rows is None or not knowledge.scores:
        return None
    live, parts, begin = knowledge.live_rows, [], 0
    for table, classes in zip(knowledge.scores, knowledge.class_rows, strict=True):
        if not classes:  # a gap
            continue
        if table is None:
            return None
        end = begin + len(classes)
        if rows.tensor is not None:
            known = learned[rows.tensor][begin:end].flatten(1).numpy()
        else:
            assert table.mean is not None
            known = table.mean
        columns = rows.columns or (0, known.shape[1])
        parts.append(Part(table, classes, live[begin:end], known, columns))
        begin = end
    return Reference.of(tuple(dict.fromkeys(knowledge.classes)), parts)
