"""Image sets, tasks, and streams, which are sequences of tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from PIL import Image

from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._sources import ImageSource, image_digest

StreamProtocol = Literal["cil", "dil", "dcil"]
STREAM_PROTOCOLS: tuple[StreamProtocol, ...] = get_args(StreamProtocol)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, decoded one by one on demand.

    Attributes:
        labels: of each image, its index in `Stream.classes`.
        names: of each image, for error messages.
        source: of the pixels.
        positions: of each image, its index in the source.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...]
    source: ImageSource = field(repr=False)
    positions: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.names) == len(self.positions)

    @classmethod
    def of(cls, source: ImageSource, labels: Sequence[int], names: Sequence[str]) -> "ImageSet":
        """Build a set of all images of a source.

        Raises:
            StreamError: the three differ in length.
        """
        if not len(source) == len(labels) == len(names):
            raise StreamError(
                f"A source needs one label and one name per image; got {len(source)} images, "
                f"{len(labels)} labels and {len(names)} names. Check the data set's files."
            )
        return cls(tuple(labels), tuple(names), source, tuple(range(len(source))))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, least: int | None = None) -> Image.Image:
        """Return image i; a file that cannot be decoded is a BrokenImageError with its name.

        Args:
            least: pixels of the shorter side that are needed; a JPEG file may be decoded at a
                reduced scale that has them.
        """
        if least is None:
            return self.source.image(self.positions[i])
        return self.source.image(self.positions[i], least)

    def digest(self, i: int, *, fresh: bool = False) -> bytes:
        """Return the digest of what is stored of image i, decoding it only if need be.

        Nothing of an image that cannot be read.

        Args:
            fresh: read it, where a digest from the time when the stream was built is at hand.
        """
        read = getattr(self.source, "digest", None)
        position = self.positions[i]
        if read is not None:
            found: bytes = read(position, fresh)
            return found
        try:
            return image_digest(self.source.image(position))
        except BrokenImageError:
            return b""

    def mode(self, i: int) -> str:
        """Return Pillow's name for the kind of pixels of image i, decoding it only if need be."""
        read = getattr(self.source, "mode", None)
        position = self.positions[i]
        found: str = self.source.image(position).mode if read is None else read(position)
        return found

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """Return the images at these indices, in this order."""
        return ImageSet(
            tuple(self.labels[i] for i in indices),
            tuple(self.names[i] for i in indices),
            self.source,
            tuple(self.positions[i] for i in indices),
        )

    def relabel(self, new_label: Sequence[int]) -> "ImageSet":
        """Return the same images with `new_label[l]` for label l."""
        labels = tuple(new_label[label] for label in self.labels)
        return ImageSet(labels, self.names, self.source, self.positions)


@dataclass(frozen=True)
class Reason:
    """Files that are not used, or are worth a look, all for one reason.

    Attributes:
        why: in a few words that can follow their number.
        count: of the files.
        first: the names of the first ones, relative to the folder.
    """

    why: str
    count: int
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """What became of every file of a folder; empty for a stream that is not a folder.

    Attributes:
        root: the folder; where a table was given by its path, the one that it is in.
        layout: how the folder was understood.
        total: of all files, which is the sum of the other counts.
        training: images to train on.
        test: images to test on.
        skipped: images that cannot be used.
        ignored: files that are no images of the stream.
        notes: what else a person should know.
    """

    root: str = ""
    layout: str = ""
    total: int = 0
    training: int = 0
    test: int = 0
    skipped: tuple[Reason, ...] = ()
    ignored: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = sum(reason.count for reason in (*self.skipped, *self.ignored))
        assert self.total == self.training + self.test + parts, "a file is not accounted for"


@dataclass(frozen=True, eq=False)
class Task:
    """One step of a stream.

    Attributes:
        name: unique in the stream.
        classes: of this task, in the order of their labels.
        train: training images; labels are indices of `Stream.classes`.
        test: test images, which may be none.
        skipped: names of files that were found broken when the task was built.
        files: what became of every file of a folder that holds this task alone.
        texts: of the classes, as a text tower reads them; () where these are their names.
        templates: in which it reads them, with {} for the text; () where the method decides.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    skipped: tuple[str, ...] = ()
    files: Files = field(default_factory=Files)
    texts: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.texts) in {0, len(self.classes)}

    @property
    def read_names(self) -> tuple[str, ...]:
        """Return the names of the classes as a text tower reads them."""
        return self.texts or self.classes


@dataclass(frozen=True, eq=False)
class Stream:
    """A sequence of tasks.

    Attributes:
        name: that was given to `load_stream`.
        protocol: class- (cil), domain- (dil) or domain-class-incremental (dcil); online where tasks
            have images of the same classes.
        classes: of all tasks, in order of first appearance.
        tasks: in the order in which they are learned.
        spec: as JSON; `load_stream(**spec)` builds the same stream again.
        files: what became of every file of a folder.
        held_out: tasks that are never trained, only tested.
    """

    name: str
    protocol: StreamProtocol | Literal["online"]
    classes: tuple[str, ...]
    tasks: tuple[Task, ...]
    spec: dict[str, Any]
    files: Files = field(default_factory=Files)
    held_out: tuple[Task, ...] = ()
