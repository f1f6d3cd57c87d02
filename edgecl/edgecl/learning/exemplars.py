"""A rehearsal memory: training images of former tasks, within a budget of bytes.

The images of a class are in the order of their distance to the mean of their frozen features, the
nearest first, so that a smaller share drops the farthest; all classes have the same share.
"""

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
    ranked = [
        own[(features[own] - features[own].mean(dim=0)).norm(dim=-1).argsort(stable=True)]
        for own in ((class_rows == each).nonzero()[:, 0] for each in class_rows.unique())
    ]
    order, before = torch.cat(ranked), 0 if former is None else len(former)
    rows = class_rows[order]
    if former is not None:
        rows = torch.cat([former.class_rows, rows])
    classes = rows.unique()
    share = share_of(budget, images[0].nbytes, len(classes))
    chosen = torch.cat([(rows == each).nonzero()[:share, 0] for each in classes])
    new = chosen >= before
    kept = images.new_empty(len(chosen), *images.shape[1:])
    kept[new] = images[order[chosen[new] - before]]  # those alone: `images` may be in a file
    if former is not None:
        kept[~new] = former.images[chosen[~new]]
    return Memory(kept, rows[chosen])
