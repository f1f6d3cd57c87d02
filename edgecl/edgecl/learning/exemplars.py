"""A rehearsal memory: training images of former tasks, within a budget of bytes.

A class keeps its images in the order of their distance to the mean of their frozen features, the
nearest first, so that less room drops the farthest; all classes have the same share.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.program.learned import Tensors

IMAGES, ROWS = "exemplar_images", "exemplar_rows"


class ExemplarError(EdgeclError):
    """A rehearsal memory without room for one image of each class."""


def share_of(budget: int, size: int, classes: int) -> int:
    """Return how many images of `size` bytes each class may keep.

    Raises:
        ExemplarError: if there is no room for one.
    """
    if budget < size * classes:
        raise ExemplarError(
            f"A rehearsal memory must hold an image of each of {classes} classes, "
            f"{size * classes} bytes, got a budget of {budget}. Begin a new run with room for all "
            f"classes that are to come, {size} bytes each: --set memory=BYTES."
        )
    return budget // (size * classes)


def remembered(
    kept: Tensors,
    images: UInt8[Tensor, "n h w 3"],
    rows: Int[Tensor, " n"],
    features: Float[Tensor, "n d"],
    budget: int,
) -> Tensors:
    """Return the memory behind a task.

    Args:
        kept: the former memory, if there is one.
        rows: the classifier's row of each of the task's images.
        features: frozen.
        budget: bytes of all images.

    A class without room for an image is an ExemplarError.
    """
    ranked = [
        own[(features[own] - features[own].mean(dim=0)).norm(dim=-1).argsort(stable=True)]
        for own in ((rows == row).nonzero()[:, 0] for row in rows.unique())
    ]
    order = torch.cat(ranked)
    if kept:
        images = torch.cat([kept[IMAGES], images[order]])
        rows = torch.cat([kept[ROWS], rows[order]])
    else:
        images, rows = images[order], rows[order]
    classes = rows.unique()
    share = share_of(budget, images[0].nbytes, len(classes))
    chosen = torch.cat([(rows == row).nonzero()[:share, 0] for row in classes])
    return {IMAGES: images[chosen], ROWS: rows[chosen]}
