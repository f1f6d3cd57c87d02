"""The window of levels of a run: found once, from the training images of its first task."""

import numpy as np
from numpy.typing import NDArray

from edgecl.streams import BrokenImageError, ImageSet
from edgecl_deploy.images import WIDE_MODES

HEADERS = 4096  # images whose kind of pixels is looked at
SAMPLE = 64  # images of more than 8 bits that are decoded
LEVELS = 4096  # of each
PERCENTILES = (0.1, 99.9)


def find_window(images: ImageSet, seed: int) -> tuple[float, float] | None:
    """Return the levels that become 0 and 255; None where no image has more than 8 bits.

    They are the percentiles of a sample: at most `LEVELS` levels of each of at most `SAMPLE`
    images, chosen by the seed. If they are one level, its neighbours are the window, and the images
    are constant.
    """
    order = np.random.default_rng(seed).permutation(len(images))[:HEADERS].tolist()
    wide = [index for index in order if _is_wide(images, index)][:SAMPLE]
    samples = [levels for index in wide if len(levels := _levels(images, index, seed))]
    if not samples:
        return None
    low, high = np.percentile(np.concatenate(samples), PERCENTILES).tolist()
    if not low < high:
        return low - 1, high + 1
    short = float(f"{low:g}"), float(f"{high:g}")  # as it is printed
    return short if short[0] < short[1] else (low, high)


def _is_wide(images: ImageSet, index: int) -> bool:
    try:
        return images.mode(index) in WIDE_MODES
    except BrokenImageError:
        return False


def _levels(images: ImageSet, index: int, seed: int) -> NDArray[np.float64]:
    """Return some finite levels of an image, none of a broken one."""
    try:
        levels = np.asarray(images.image(index)).ravel()
    except BrokenImageError:
        return np.zeros(0)
    chosen = np.random.default_rng([seed, index]).integers(0, levels.size, LEVELS)
    some = levels if levels.size <= LEVELS else levels[chosen]
    return some[np.isfinite(some)].astype(np.float64)
