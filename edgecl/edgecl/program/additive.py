"""Sums over images, which are all that a closed form needs of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512  # images of which something is in float64 at once
CPU = torch.device("cpu")
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class ImageSums:
    """Sums over images, by class, of x: what a closed form adds up of each (`Additive.summed`).

    They do not depend on the order of the images, nor on who added which of them.

    Attributes:
        counts: how many images each class has.
        sums: of x, of each class.
        gram: of x x', of all images; None where it is not needed.
        normed: of features at length 1, of each class; None where they are not needed or known.
    """

    counts: Int[Tensor, " k"]
    sums: Float64[Tensor, "k m"]
    gram: Float64[Tensor, "m m"] | None = None
    normed: Float64[Tensor, "k w"] | None = None

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "n f"],
        labels: Int[Tensor, " n"],
        classes: int,
        summed: Callable[[Tensor], Tensor],
        *,
        squares: bool,
        normed: tuple[int, int] | None = None,
        device: torch.device = CPU,
    ) -> "ImageSums":
        """Add up images.

        Args:
            features: before `summed`; they may be in a file.
            labels: the class of each image.
            summed: from features to x, on the device.
            squares: whether x x' is needed.
            normed: the columns of the features that are added up at length 1, begin and end.
        """
        width = summed(features[:0].to(device)).shape[1]
        sums = torch.zeros(classes, width, dtype=torch.float64, device=device)
        gram = torch.zeros(width, width, dtype=torch.float64, device=device) if squares else None
        begin, end = normed or (0, 0)
        units = sums.new_zeros(classes, end - begin)
        for some, own in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
            rows = summed(some.to(device)).double()
            sums.index_add_(0, own.to(device), rows)
            if normed is not None:
                part = some[:, begin:end].to(device).double()
                units.index_add_(0, own.to(device), F.normalize(part, dim=1, eps=TINY))
            if gram is not None:
                gram.addmm_(rows.T, rows)
        counts = labels.cpu().bincount(minlength=classes)
        return cls(
            counts,
            sums.cpu(),
            None if gram is None else gram.cpu(),
            None if normed is None else units.cpu(),
        )

    def plus(self, other: "ImageSums") -> "ImageSums":
        """Add other images of the same classes."""
        gram = normed = None
        if self.gram is not None and other.gram is not None:
            gram = self.gram + other.gram
        if self.normed is not None and other.normed is not None:
            normed = self.normed + other.normed
        return ImageSums(self.counts + other.counts, self.sums + other.sums, gram, normed)

    def among(self, place: Sequence[int], classes: int) -> "ImageSums":
        """Return the same sums among other classes.

        Args:
            place: of each class among those.
            classes: how many those are.
        """
        index = torch.tensor(place)
        counts = self.counts.new_zeros(classes).index_add_(0, index, self.counts)

        def placed(rows: Tensor) -> Tensor:
            return rows.new_zeros(classes, rows.shape[1]).index_add_(0, index, rows)

        normed = None if self.normed is None else placed(self.normed)
        return ImageSums(counts, placed(self.sums), self.gram, normed)

    def means(self) -> Float64[Tensor, "k m"]:
        """Return the mean of x of each class, 0 of one without an image."""
        return self.sums / self.counts.clamp(min=1)[:, None]


def total(parts: Iterable[ImageSums]) -> ImageSums:
    """Add up sums in their order, one part or more."""
    each = iter(parts)
    found = next(each)
    for part in each:
        found = found.plus(part)
    return found
