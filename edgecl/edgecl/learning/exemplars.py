"""A rehearsal memory: training images of former tasks, within a budget of bytes.

The images of a class are in an order, the first ones to be kept: by their distance to the mean of
their frozen features, or by how sure the model is of them (learning.policies.uncertainty). A
smaller share drops the last. By distance all classes have the same share; by uncertainty those that
have fewer images leave their places to the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.program.learned import Tensors

IMAGES, CLASS_ROWS = "exemplar_images", "exemplar_class_rows"  # in the state of a run


class ExemplarError(EdgeclError):
    """A rehearsal memory too small for one image of each class."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The images that a run remembers, and the class row of each."""

    images: UInt8[Tensor, "n h w 3"]
    class_rows: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.class_rows)

    def to_state(self) -> Tensors:
        return {IMAGES: self.images, CLASS_ROWS: self.class_rows}


def split_state(state: Tensors) -> tuple[Memory | None, Tensors]:
    """Return the memory in what a task left, None if it left none, and the rest."""
    rest = {name: each for name, each in state.items() if name not in {IMAGES, CLASS_ROWS}}
    memory = Memory(state[IMAGES], state[CLASS_ROWS]) if IMAGES in state else None
    return memory, rest


def share_of(budget: int, size: int, classes: int) -> int:
    """Return how many images of `size` bytes each class may have.

    Raises:
        ExemplarError: if that is none.
    """
    if budget < size * classes:
        raise ExemplarError(
            f"A rehearsal memory must hold an image of each of {classes} classes, "
            f"{size * classes} bytes, got a budget of {budget}. Begin a new run with enough for "
            f"all classes that are to come, {size} bytes each: --set memory=BYTES."
        )
    return budget // (size * classes)


def remember(
    former: Memory | None,
    images: UInt8[Tensor, "n h w 3"],
    class_rows: Int[Tensor, " n"],
    features: Float[Tensor, "n d"],
    budget: int,
) -> Memory:
    """Return the memory after a task.

    Args:
        former: the memory before it.
        images: of the task.
        class_rows: of each of them.
        features: frozen, of each of them.
        budget: bytes of all images.

    A budget below one image of each class is an ExemplarError.
    """
    distances = features.new_zeros(len(features))
    for each in class_rows.unique():
        own = class_rows == each
        distances[own] = (features[own] - features[own].mean(dim=0)).norm(dim=-1)
    return keep(former, images, class_rows, distances, budget)


def shares_of(counts: Sequence[int], room: int) -> list[int]:
    """Return how many images classes keep of those they have: the rarest are served first.

    A class with no more than an equal share keeps all; each of the others gets an equal share of
    what these leave (`class_balanced_update` of the public code of Serra and Buettner, ICLR 2025).
    """
    kept, used, served = [0] * len(counts), 0, 0
    for at in sorted(range(len(counts)), key=lambda at: counts[at]):
        if counts[at] <= room // len(counts):
            kept[at] = counts[at]
            used, served = used + counts[at], served + 1
        else:
            kept[at] = min(counts[at], (room - used) // (len(counts) - served))
    return kept


def keep(
    former: Memory | None,
    images: UInt8[Tensor, "n h w 3"],
    class_rows: Int[Tensor, " n"],
    scores: Float[Tensor, " n"],
    budget: int,
    *,
    fill: bool = False,
) -> Memory:
    """Return the memory after a task: of each class the former ones first, then the lowest scores.

    Args:
        fill: classes with few images leave their places to the others; else all have one share.

    The other arguments, and the error, are those of `remember`.
    """
    ranked = [
        own[scores[own].argsort(stable=True)]
        for own in ((class_rows == each).nonzero()[:, 0] for each in class_rows.unique())
    ]
    order, before = torch.cat(ranked), 0 if former is None else len(former)
    rows = class_rows[order]
    if former is not None:
        rows = torch.cat([former.class_rows, rows])
    classes = rows.unique()
    size = images[0].nbytes
    shares = [share_of(budget, size, len(classes))] * len(classes)
    if fill:
        shares = shares_of([int((rows == each).sum()) for each in classes], budget // size)
    kept_rows = zip(classes, shares, strict=True)
    chosen = torch.cat([(rows == each).nonzero()[:share, 0] for each, share in kept_rows])
    new = chosen >= before
    kept = images.new_empty(len(chosen), *images.shape[1:])
    kept[new] = images[order[chosen[new] - before]]  # those alone: `images` may be in a file
    if former is not None:
        kept[~new] = former.images[chosen[~new]]
    return Memory(kept, rows[chosen])
