"""What a stream is: image sets, tasks, and the sequence of tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from PIL import Image

from edgecl.streams._errors import StreamError
from edgecl.streams._sources import ImageSource

StreamProtocol = Literal["cil", "dil", "dcil"]
STREAM_PROTOCOLS: tuple[StreamProtocol, ...] = get_args(StreamProtocol)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images that are decoded when they are asked for.

    Attributes:
        labels: per image an index into `Stream.classes`.
        names: per image what error messages call it.
        source: holds the pixels.
        rows: per image its index in the source.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...]
    source: ImageSource = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.names) == len(self.rows)

    @classmethod
    def of(cls, source: ImageSource, labels: Sequence[int], names: Sequence[str]) -> "ImageSet":
        """Build a set of all images of a source.

        Raises:
            StreamError: if the three differ in length.
        """
        if not len(source) == len(labels) == len(names):
            raise StreamError(
                f"A source needs one label and one name per image; got {len(source)} images, "
                f"{len(labels)} labels and {len(names)} names. Check the data set's files."
            )
        return cls(tuple(labels), tuple(names), source, tuple(range(len(source))))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Image.Image:
        """Decode image i, as stored; raises BrokenImageError naming the file."""
        return self.source.image(self.rows[i])

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """Return the images at these positions, in this order."""
        return ImageSet(
            tuple(self.labels[i] for i in indices),
            tuple(self.names[i] for i in indices),
            self.source,
            tuple(self.rows[i] for i in indices),
        )

    def relabel(self, new_label: Sequence[int]) -> "ImageSet":
        """Return the same images, label l replaced by `new_label[l]`."""
        labels = tuple(new_label[label] for label in self.labels)
        return ImageSet(labels, self.names, self.source, self.rows)


@dataclass(frozen=True, eq=False)
class Task:
    """One step of a stream.

    Attributes:
        name: unique inside the stream.
        classes: those present in this task, in row order.
        train: training images, labels index `Stream.classes`.
        test: test images, likewise; may be empty.
        skipped: names of files that were found broken while building the task.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Stream:
    """A sequence of tasks.

    Attributes:
        name: as it was asked for.
        protocol: class- (cil), domain- (dil) or domain-class-incremental (dcil).
        classes: all, in order of first appearance over the tasks.
        tasks: in learning order.
        spec: JSON-able; `load_stream(**spec)` builds the same stream again.
    """

    name: str
    protocol: StreamProtocol
    classes: tuple[str, ...]
    tasks: tuple[Task, ...]
    spec: dict[str, Any]
