"""A view is drawn from seed, picture and number alone, distributed as torchvision draws."""

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.backbones import prepare_torchvision
from edgecl.learning.augment.augmentation import Augmentation
from edgecl.learning.augment.draws import draw, key_of

MANY = 1500
SIDES = [(100, 100), (200, 60), (40, 90), (5, 300)]


def key(number: int) -> int:
    return key_of(7, number.to_bytes(4, "little"))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two distributions (Kolmogorov and Smirnov)."""
    at = np.unique(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("sides", SIDES)
def test_crops_are_distributed_as_torchvisions(sides: tuple[int, int]) -> None:
    """Of 1,500 each, the distributions differ by less than 0.071 with a probability of 99.9 %."""
    prepare_torchvision()
    from torchvision.transforms import RandomResizedCrop

    augmentation, image = Augmentation(), Image.new("RGB", sides)
    ours = np.array([draw(augmentation, key(i), 0, sides).box for i in range(MANY)])
    torch.manual_seed(0)
    scale, ratio = list(augmentation.scale), list(augmentation.ratio)
    crops = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(MANY)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in crops])
    for column in range(4):
        assert distance(ours[:, column], theirs[:, column]) < 0.071
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= sides).all()


@pytest.mark.parametrize("sides", SIDES[1:])
def test_where_no_crop_fits_it_is_the_centre_as_torchvisions(sides: tuple[int, int]) -> None:
    prepare_torchvision()
    from torchvision.transforms import RandomResizedCrop

    ratio = [3 / 4, 4 / 3]
    whole = Augmentation(scale=(1.0, 1.0))
    top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", sides), [1, 1], ratio)
    assert draw(whole, key(1), 0, sides).box == (left, top, width, height)


def test_views_of_a_picture_differ_and_come_again() -> None:
    augmentation = Augmentation(brightness=0.3, hue=0.1)
    found = [draw(augmentation, key(3), view, (64, 48)) for view in range(50)]
    assert len({each.box for each in found}) > 45
    assert found[7] == draw(augmentation, key(3), 7, (64, 48))
    assert found[7] != draw(augmentation, key(4), 7, (64, 48))
    assert key_of(7, b"a") != key_of(8, b"a")


def test_flips_and_colours_are_in_their_ranges() -> None:
    augmentation = Augmentation(flip=0.3, brightness=0.2, contrast=1.5, saturation=0.0, hue=0.1)
    found = [draw(augmentation, key(i), i % 3, (9, 9)) for i in range(1200)]
    assert 0.26 < np.mean([each.flip for each in found]) < 0.34
    factors = np.array([each.factors for each in found])
    lows, highs = factors.min(axis=0), factors.max(axis=0)
    np.testing.assert_allclose(lows, [0.8, 0.0, 1.0, -0.1], atol=0.01)
    np.testing.assert_allclose(highs, [1.2, 2.5, 1.0, 0.1], atol=0.01)
    np.testing.assert_allclose(factors.mean(axis=0), [1.0, 1.25, 1.0, 0.0], atol=0.05)
    orders, counts = np.unique([each.order for each in found], axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 25


def test_another_range_takes_the_same_numbers() -> None:
    """So a run that adds a flip or a colour has the crops that it had."""
    one = draw(Augmentation(flip=0.0), key(2), 5, (64, 64))
    other = draw(Augmentation(flip=1.0, hue=0.5), key(2), 5, (64, 64))
    assert one.box == other.box
    assert (one.flip, other.flip) == (False, True)
