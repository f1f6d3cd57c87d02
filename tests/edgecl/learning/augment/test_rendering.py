"""Views have the pixels of torchvision on PIL images, in any batch and with any threads."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgecl.backbones import prepare_torchvision
from edgecl.backbones.preprocess import Preprocess
from edgecl.learning.augment import rendering
from edgecl.learning.augment.augmentation import Augmentation, Interpolation
from edgecl.learning.augment.draws import Draw, draw, key_of
from edgecl.learning.augment.rendering import colour, piece, resize, resize_weights
from edgecl.learning.augment.views import Canvas

CPU = torch.device("cpu")
KINDS: tuple[Interpolation, ...] = ("bilinear", "bicubic")


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng([width, height])
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def blobs(width: int, height: int) -> Image.Image:
    """Return a picture without detail finer than some 30 pixels."""
    return noise(width // 32 + 2, height // 32 + 2).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def theirs(image: Image.Image, box: tuple[int, ...], size: int, kind: str) -> NDArray[np.int64]:
    """Return torchvision's resized_crop of a PIL image."""
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    left, top, width, height = box
    mode = InterpolationMode[kind.upper()]
    cropped = transforms.resized_crop(image, top, left, height, width, [size, size], mode)
    return np.asarray(cropped).astype(np.int64)


def ours(image: Image.Image, box: tuple[int, ...], size: int, kind: Any) -> NDArray[np.int64]:
    augmentation = Augmentation(interpolation=kind)
    canvas = Canvas.of(image, Preprocess(size=size, resize=size), augmentation)
    found = resize([piece(canvas.pixels, canvas.sides, box)], size, kind, CPU)
    return found[0].numpy().astype(np.int64)


BOXES = [(0, 0, 60, 40), (11, 3, 30, 30), (59, 39, 1, 1), (20, 5, 24, 20), (7, 0, 50, 33)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 56])
def test_a_crop_is_torchvisions_bit_for_bit(kind: Interpolation, size: int) -> None:
    """Where the picture fits into the canvas, and the crop is not higher than wide."""
    image = noise(60, 40)
    for box in BOXES:
        assert np.array_equal(ours(image, box, size, kind), theirs(image, box, size, kind)), box


@pytest.mark.parametrize(("kind", "most", "mean"), [("bilinear", 1, 0.4), ("bicubic", 16, 0.4)])
def test_a_high_crop_differs_by_rounding_between_the_passes(
    kind: str, most: int, mean: float
) -> None:
    """Pillow does the columns first in some; bicubic noise is then cut off at another moment."""
    image = noise(40, 60)
    for left, top, width, height in BOXES:
        box = (top, left, height, width)
        away = np.abs(ours(image, box, 32, kind) - theirs(image, box, 32, kind))
        assert away.max() <= most
        assert away.mean() <= mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(400, 300), (131, 500), (640, 200)])
def test_a_large_picture_is_squashed_and_its_crops_stay_near(
    kind: Interpolation, sides: tuple[int, int]
) -> None:
    """It is resized twice: to at most twice the square, then from there."""
    image, augmentation = blobs(*sides), Augmentation(interpolation=kind)
    assert Canvas.of(image, Preprocess(size=56, resize=56), augmentation).pixels.size <= 3 * 112**2
    for view in range(6):
        box = draw(augmentation, key_of(0, b"a"), view, sides).box
        away = np.abs(ours(image, box, 56, kind) - theirs(image, box, 56, kind))
        assert away.mean() <= 2
        assert np.percentile(away, 99) <= 9


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_same_in_any_batch_and_with_any_threads(
    kind: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    for number, sides in enumerate([(60, 40), (17, 64), (64, 64), (3, 2), (50, 49)]):
        image, box = np.asarray(noise(*sides)), draw(Augmentation(), number, 0, sides).box
        pieces.append(piece(image, sides, box))
    alone = torch.cat([resize([each], 40, kind, CPU) for each in pieces])
    assert torch.equal(resize(pieces, 40, kind, CPU), alone)
    assert torch.equal(resize(pieces[::-1], 40, kind, CPU), alone.flip(0))
    threads = torch.get_num_threads()
    monkeypatch.setattr(rendering, "TOGETHER", 2)
    try:
        torch.set_num_threads(3)
        assert torch.equal(resize(pieces, 40, kind, CPU), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_whole_numbers_of_one_sum(kind: Interpolation) -> None:
    """So that sums of products with bytes are exact in any order."""
    spans = torch.tensor([[0.3, 11.2, 13.0], [0.0, 7.0, 7.0]]).double()
    weights = resize_weights(spans, 13, 9, kind)
    assert torch.equal(weights, weights.round())
    assert (weights.sum(dim=-1) - 2**22).abs().max() <= 13
    assert not weights[1, :, 7:].any()


# -- colours


def changed(image: Image.Image, which: int, factor: float) -> NDArray[np.int64]:
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[which] = factor
    order = (which, *(other for other in range(4) if other != which))
    one = Draw((0, 0, 1, 1), False, tuple(factors), order)  # type: ignore[arg-type]
    pixels = torch.from_numpy(np.array(image))[None]
    strengths = [float(kind == which) for kind in range(4)]
    return colour(pixels, [one], strengths)[0].numpy().astype(np.int64)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0, 1.1, 1.9])
@pytest.mark.parametrize("make", [noise, blobs])
def test_colours_are_torchvisions(name: str, factor: float, make: Any) -> None:
    """But for single levels: Pillow blends in float32."""
    prepare_torchvision()
    from torchvision.transforms import functional as transforms

    which = ["brightness", "contrast", "saturation"].index(name)
    image = make(64, 48)
    want = np.asarray(getattr(transforms, f"adjust_{name}")(image, factor)).astype(np.int64)
    away = np.abs(changed(image, which, factor) - want)
    assert away.max() <= 1
    assert away.mean() <= 0.03


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.05, 0.3])
def test_the_hue_is_torchvisions(shift: float) -> None:
    """Of tensors to a level; of PIL images, whose hue has 8 bits, within their rounding."""
    prepare_torchvision()
    from torchvision.transforms import functional as transforms

    image = noise(64, 48)
    found = changed(image, 3, shift)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    exact = transforms.adjust_hue(tensor, shift).permute(1, 2, 0).numpy().astype(np.int64)
    assert np.abs(found - exact).max() <= 1
    coarse = np.asarray(transforms.adjust_hue(image, shift)).astype(np.int64)
    assert np.abs(found - coarse).mean() <= 2


def test_each_image_has_its_own_flip_and_order() -> None:
    image = torch.from_numpy(np.array(noise(8, 8)))
    draws = [
        Draw((0, 0, 1, 1), True, (1.5, 0.5, 1.0, 0.0), (0, 1, 2, 3)),
        Draw((0, 0, 1, 1), False, (1.5, 0.5, 1.0, 0.0), (1, 0, 2, 3)),
    ]
    strengths = (0.5, 0.5, 0.0, 0.0)
    both = colour(torch.stack([image, image]), draws, strengths)
    for row, one in enumerate(draws):
        assert torch.equal(both[row], colour(image[None], [one], strengths)[0])
    assert not torch.equal(both[0].flip(1), both[1])
    assert torch.equal(colour(image[None], draws[:1], [0.0] * 4)[0], image.flip(1))
