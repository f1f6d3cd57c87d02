"""Images are read by threads: in order, so many ahead, and the same whatever their number."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecl.learning.learner import Learner
from edgecl.reading import reader
from edgecl.reading.reader import Pixels, Reading, in_order
from edgecl.reading.scratch import Scratch
from edgecl.session import learn_stream
from edgecl.streams import ArraySource, ImageSet, PathSource, Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_that_of_the_items(workers: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.002 * (item < 3))
        return item * item

    assert list(in_order(slow_at_first, 300, workers)) == [item * item for item in range(300)]
    assert list(in_order(slow_at_first, 0, workers)) == []


def test_threads_are_so_many_items_ahead_and_end_with_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "AHEAD", 5)
    begun: list[int] = []
    found = in_order(lambda item: begun.append(item), 1000, 2)
    next(found)
    time.sleep(0.05)
    assert len(begun) <= 6
    found.close()  # type: ignore[attr-defined]
    assert not [each for each in threading.enumerate() if each.name.startswith("edgecl-reader")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_where_its_result_would(workers: int) -> None:
    def work(item: int) -> int:
        if item == 4:
            raise KeyError("four")
        return item

    found = in_order(work, 100, workers)
    assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="four"):
        next(found)
    assert not [each for each in threading.enumerate() if each.name.startswith("edgecl-reader")]


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    names = [f"{index}.png" for index in range(12)]
    for index, name in enumerate(names):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        pixels[:] = 7 if index == 5 else pixels
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / names[3]).write_bytes(b"no image")
    return ImageSet.of(PathSource([tmp_path / name for name in names]), [0] * 12, names)


@pytest.mark.parametrize("method", ["simplecil", "l2p"])  # pixels are not held, and held
def test_the_number_of_workers_and_the_memory_change_nothing(
    make_learner: MakeLearner, photos: ImageSet, method: str
) -> None:
    found = []
    for at, setting in enumerate((Reading(0), Reading(1), Reading(3), Reading(2, memory=0))):
        learner = make_learner(method, out=f"run-{at}")
        learner.reading, learner.scratch = setting, Scratch(setting.memory)
        batch = learner.load(photos, "")
        plain = learner.encoder.frozen(batch.images).cls.numpy()
        found.append((batch.labels, batch.names, batch.skipped, list(batch.constant),
                      np.asarray(batch.images).tobytes(), plain.tobytes()))  # fmt: skip
    assert len(found[0][1]) == 11
    assert found[0][3] == [4]
    assert all(each == found[0] for each in found)


def test_test_images_are_read_once_even_where_they_do_not_fit(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream()
    learner = make_learner("l2p", stream)
    learner.scratch = Scratch(0)
    read: list[int] = []
    image = ArraySource.image

    def count(source: ArraySource, index: int, least: int | None = None) -> Image.Image:
        read.append(1)
        return image(source, index, least)

    monkeypatch.setattr(ArraySource, "image", count)
    learn_stream(learner, stream)
    assert len(read) == sum(len(task.train) + len(task.test) for task in stream.tasks)
    assert learner.scratch.used == 0


def test_pixels_are_read_like_an_array() -> None:
    array = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    asked: list[int] = []

    def decode(row: int) -> np.ndarray:
        asked.append(row)
        return array[row]

    for pixels in (Pixels([b""] * 4, 2, decode), Pixels([b""] * 4, 2, decode, array)):
        assert len(pixels) == 4
        assert pixels.shape == array.shape
        assert np.array_equal(pixels[1], array[1])
        assert np.array_equal(pixels[-1], array[-1])
        assert np.array_equal(pixels[1:3], array[1:3])
        assert np.array_equal(pixels[[3, 0]], array[[3, 0]])
        assert np.array_equal(np.asarray(pixels), array)
        assert pixels[4:].shape == (0, 2, 2, 3)
    assert asked == [1, 3, 1, 2, 3, 0, 0, 1, 2, 3], "none of those that are held"
