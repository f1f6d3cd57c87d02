"""The random numbers of one view: its crop, its flip, its colours.

They are a function of the run's seed, the picture and the number of the view, whatever else is in
the batch. The generator is NumPy's Philox; its key is a digest of seed and picture, and the view
counts its blocks.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from edgecl.learning.augment.augmentation import Augmentation

TRIES = 10  # of a crop that lies inside the picture, as torchvision
COLOURS = 4  # brightness, contrast, saturation, hue
NUMBERS = 4 * TRIES + 1 + 2 * COLOURS  # of each view, whether or not they are used


@dataclass(frozen=True)
class Draw:
    """What one view is.

    Attributes:
        box: left, top, width and height of the crop, in whole pixels of the picture.
        flip: whether left and right are exchanged.
        factors: of brightness, contrast and saturation, and the shift of the hue.
        order: in which the four are applied.
    """

    box: tuple[int, int, int, int]
    flip: bool
    factors: tuple[float, float, float, float]
    order: tuple[int, ...]


def key_of(seed: int, picture: bytes) -> int:
    """Return the key of the numbers of all views of a picture.

    Args:
        picture: its digest.
    """
    digest = hashlib.sha256(f"edgecl view {seed} ".encode() + picture).digest()
    return int.from_bytes(digest[:16], "little")


def draw(augmentation: Augmentation, key: int, view: int, sides: tuple[int, int]) -> Draw:
    """Draw one view of a picture.

    Args:
        key: see `key_of`.
        view: its number, from 0.
        sides: width and height of the picture, in pixels.
    """
    generator = np.random.Generator(np.random.Philox(key=key, counter=view << 64))
    numbers: list[float] = generator.random(NUMBERS).tolist()
    flip, *colours = numbers[4 * TRIES :]
    strengths, order = augmentation.colours, np.argsort(colours[COLOURS:], kind="stable")
    lows = [*(max(0.0, 1 - strength) for strength in strengths[:3]), -strengths[3]]
    highs = [*(1 + strength for strength in strengths[:3]), strengths[3]]
    first, second, third, fourth = (
        low + (high - low) * number
        for low, high, number in zip(lows, highs, colours[:COLOURS], strict=True)
    )
    return Draw(
        _crop(augmentation, numbers[: 4 * TRIES], *sides),
        flip < augmentation.flip,
        (first, second, third, fourth),
        tuple(order.tolist()),
    )


def _crop(
    augmentation: Augmentation, numbers: list[float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a crop, by torchvision's RandomResizedCrop.

    Its area is uniform, the logarithm of its ratio too; after ten crops that do not fit, it is the
    largest in the centre whose ratio is allowed.
    """
    low, high = augmentation.scale
    narrow, wide = augmentation.ratio
    for start in range(0, len(numbers), 4):
        of_area, of_ratio, of_top, of_left = numbers[start : start + 4]
        area = width * height * (low + (high - low) * of_area)
        ratio = math.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * of_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(of_left * (width - w + 1)), int(of_top * (height - h + 1)), w, h
    w, h = width, height
    if width < narrow * height:
        h = max(1, round(width / narrow))
    elif width > wide * height:
        w = max(1, round(height * wide))
    return (width - w) // 2, (height - h) // 2, w, h
