"""Images of what a run has learned, with their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecl.learning.forgotten import Forgotten
from edgecl.learning.learner import Learner
from edgecl.streams import ImageSet, Stream, StreamError, Task, load_stream

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, eq=False)
class Samples:
    """Prepared images.

    Attributes:
        images: uint8 `[n, h, w, 3]`.
        classes: of each image, as the run names it.
    """

    images: NDArray[np.uint8]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def samples_of(
    learner: Learner, most: int, parts: Sequence[str], task_count: int | None = None
) -> Samples:
    """Return images of the tasks that a run has learned; none where its stream cannot be read.

    Args:
        most: images. They are spread over the tasks, and over the images of a task.
        parts: `train`, `test`; a part is taken when the ones before it do not suffice.
        task_count: of the first tasks alone; None for all.
    """
    size = learner.backbone.preprocess.size
    images: list[NDArray[np.uint8]] = [np.zeros((0, size, size, 3), np.uint8)]
    classes: list[str] = []
    stream = stream_of(learner)
    tasks = () if stream is None else stream.tasks[: len(learner.run)][:task_count]
    for part in parts:
        left = most - len(classes)
        found = [getattr(task, part) for task in tasks]
        for index, count in enumerate(shares([len(each) for each in found], left)):
            batch = learner.load(spread(found[index], count), f"images of task {index + 1}")
            assert stream is not None
            names = names_of(learner, index, tasks[index])
            images.append(np.asarray(batch.images))
            classes += [names[stream.classes[label]] for label in batch.labels]
    return Samples(np.concatenate(images), tuple(classes))


def stream_of(learner: Learner) -> Stream | None:
    """Return the stream of a run, None if it has none, its images are gone or it forgot some."""
    if Forgotten.of(learner.run) is not None:  # it has images that must not be shown again
        return None
    spec = learner.run.header["stream"]
    try:
        return None if spec is None else load_stream(**spec)
    except StreamError:
        return None


def names_of(learner: Learner, index: int, task: Task) -> dict[str, str]:
    """Return how the run names the classes of a task, which may have been renamed."""
    return dict(zip(task.classes, learner.run.record(index).classes, strict=True))


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """Return how many of each set to take: equal numbers as far as the sets have them."""
    taken = [0] * len(sizes)
    left = most
    while left > 0 and taken != list(sizes):
        for index, size in enumerate(sizes):
            if left > 0 and taken[index] < size:
                taken[index] += 1
                left -= 1
    return taken


def spread(images: ImageSet, count: int) -> ImageSet:
    """Return so many images at equal distances."""
    return images.subset([round(i * len(images) / count) for i in range(count)])
