"""A canvas holds the whole picture, whatever the preprocessing cuts off or adds."""

import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.backbones.preprocess import Preprocess
from edgecl.learning.augment import views
from edgecl.learning.augment.augmentation import Augmentation
from edgecl.learning.augment.views import Canvas, canvases_of, with_squares
from edgecl.reading.scratch import Scratch
from edgecl.streams import ArraySource, ImageSet
from edgecl_deploy.images import open_image
from edgecl_deploy.progress import Reporter

AUGMENTATION = Augmentation()


def square(fit: str = "crop", **fields: object) -> Preprocess:
    return Preprocess(size=32, resize=32, fit=fit, **fields)  # type: ignore[arg-type]


def stripes(width: int, height: int) -> np.ndarray:
    """Return a picture of which every column has a level of its own."""
    levels = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(levels[None, :, None], (height, width, 3)).copy()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_it_is_the_whole_picture_with_every_fit(fit: str) -> None:
    image = Image.fromarray(stripes(60, 20))
    canvas = Canvas.of(image, square(fit), AUGMENTATION)
    assert canvas.sides == (60, 20)
    assert np.array_equal(canvas.pixels, stripes(60, 20))


def test_a_large_picture_is_squashed_side_by_side() -> None:
    canvas = Canvas.of(Image.fromarray(stripes(300, 50)), square(), AUGMENTATION)
    assert canvas.sides == (300, 50)
    assert canvas.pixels.shape == (50, 64, 3)
    assert canvas.pixels[0, 0, 0] < 4
    assert canvas.pixels[0, -1, 0] > 251
    small = Canvas.of(Image.fromarray(stripes(300, 50)), square(), Augmentation(canvas=1.0))
    assert small.pixels.shape == (32, 32, 3)


def test_background_and_window_are_those_of_the_preprocessing() -> None:
    clear = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    assert (Canvas.of(clear, square(background=(1, 2, 3)), AUGMENTATION).pixels == (1, 2, 3)).all()
    levels = np.full((6, 8), 1500, np.uint16)
    wide = Canvas.of(Image.fromarray(levels), square(window=(1000.0, 2000.0)), AUGMENTATION)
    assert (wide.pixels == 128).all()


def test_what_a_reduced_scale_adds_is_cut_off() -> None:
    file = BytesIO()
    Image.fromarray(stripes(1003, 601)).save(file, "JPEG")
    preprocess = square(decode="draft2")
    image = open_image(file.getvalue(), least=preprocess.least_side)
    canvas = Canvas.of(image, preprocess, AUGMENTATION)
    assert canvas.sides == (round(1003 / 8), round(601 / 8)) == (125, 75)
    assert canvas.pixels.shape == (64, 64, 3)


def test_those_that_can_be_read_are_read_in_their_order() -> None:
    pixels = np.stack([np.full((4, 4, 3), level, np.uint8) for level in range(5)])
    images = ImageSet.of(ArraySource(pixels), [0] * 5, list("abcde"))
    found = canvases_of(images, [0, 3, 4], square(), AUGMENTATION, Reporter(), Scratch())
    assert [each.pixels[0, 0, 0] for each in found] == [0, 3, 4]
    assert len({each.digest for each in found}) == 3


def test_they_are_read_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: set[str] = set()
    image = ArraySource.image

    def note(source: ArraySource, index: int, least: int | None = None) -> Image.Image:
        readers.add(threading.current_thread().name.partition("_")[0])
        return image(source, index, least)

    monkeypatch.setattr(ArraySource, "image", note)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    images = ImageSet.of(ArraySource(pixels), [0] * 9, list("abcdefghi"))
    given = images, [8, 0, 3], square(), AUGMENTATION, Reporter(), Scratch()
    found = canvases_of(*given, workers=2)
    assert readers == {"edgecl-reader"}
    assert all(np.array_equal(f.pixels, pixels[at]) for f, at in zip(found, given[1], strict=True))


@pytest.mark.parametrize("memory", [0, 10**9])
def test_they_are_in_scratch_room(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "ROOM", 100)  # two pictures of 48 bytes
    monkeypatch.setattr(views, "MOST", 200)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    images = ImageSet.of(ArraySource(pixels), [0] * 12, list("abcdefghijkl"))
    scratch = Scratch(memory, tmp_path)
    found = canvases_of(images, range(12), square(), AUGMENTATION, Reporter(), scratch)
    assert scratch.used == (100 + 200 + 200 + 200 if memory else 0), "rooms grow up to the most"
    for canvas, picture in zip(found, pixels, strict=True):
        assert np.array_equal(canvas.pixels, picture)


def test_of_a_remembered_image_the_square_is_there() -> None:
    remembered = torch.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).to(torch.uint8)
    first = Canvas(np.zeros((4, 4, 3), np.uint8), (4, 4))
    found = with_squares([first], remembered)
    assert found[0] is first
    assert [each.sides for each in found[1:]] == [(32, 32)] * 2
    assert np.array_equal(found[2].pixels, remembered[1].numpy())
    assert first.digest != Canvas(first.pixels, (5, 4)).digest
