"""The account of a folder: what became of every file under it."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from PIL import Image

from edgecl.streams._sources import file_digest, open_image
from edgecl.streams._types import Files, ImageSet, Task
from edgecl.streams.folders.layouts import Item, Layout
from edgecl.streams.folders.reading import Reading
from edgecl.streams.folders.tree import Tree
from edgecl_deploy.manifest.names import spelled

UNREADABLE = "not readable as an image"
LEFT_OUT = "left out by the options (tasks, classes, shots, limits)"
COPY = "a copy of a training image, in a task that is held out"


class FileSource:
    """The images of a folder.

    Attributes:
        root: the folder.
        names: of the files, relative to it.
        digests: of their contents.
    """

    def __init__(self, root: Path, names: Sequence[str], digests: Sequence[bytes]) -> None:
        self.root = root
        self.names = tuple(names)
        self.digests = tuple(digests)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        path = self.root / self.names[index]
        return open_image(path, str(path), least=least)

    def digest(self, index: int, fresh: bool = False) -> bytes:
        """Return the digest of the file."""
        return file_digest(self.root / self.names[index]) if fresh else self.digests[index]

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels, from the header alone."""
        path = self.root / self.names[index]
        return open_image(path, str(path), header_only=True).mode


@dataclass(eq=False)
class Found:
    """A folder that was understood and whose images were read.

    Attributes:
        items: the images that can be used, `held` as they are used.
        readings: of these.
        broken: those that cannot.
    """

    tree: Tree
    layout: Layout
    items: list[Item]
    readings: list[Reading]
    broken: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def source(self) -> FileSource:
        names = [item.file.name for item in self.items]
        digests = [bytes.fromhex(reading.digest) for reading in self.readings]
        return FileSource(self.tree.root, names, digests)

    def sets(
        self, source: FileSource, label: dict[str, int], task: str | None
    ) -> tuple[ImageSet, ImageSet]:
        """Return the training and the test images of a task, or of all where there are no tasks.

        Args:
            source: what `source` returned.
            label: of each class.
        """
        train, test = (self._positions.get((task, held), []) for held in (False, True))
        return self._set(source, label, train), self._set(source, label, test)

    def drop_copies(self, held_out: Set[str]) -> None:
        """Leave out images of held-out tasks that are training images of another task.

        Args:
            held_out: the keys of the tasks.
        """
        pairs = list(zip(self.items, self.readings, strict=True))
        trained = {
            reading.digest for item, reading in pairs if item.task not in held_out and not item.held
        }
        self.items, self.readings = [], []
        for item, reading in pairs:
            if item.task in held_out and reading.digest in trained:
                self.layout.aside.append((COPY, item.file))
            else:
                self.items.append(item)
                self.readings.append(reading)

    def all_of(self, source: FileSource, label: dict[str, int], task: str | None) -> ImageSet:
        """Return all images of a task, those that would be trained too."""
        both = (self._positions.get((task, held), []) for held in (False, True))
        return self._set(source, label, sorted(chain(*both)))

    def _set(self, source: FileSource, label: dict[str, int], positions: Sequence[int]) -> ImageSet:
        positions = sorted(positions, key=lambda position: label[self.items[position].label])
        return ImageSet(
            tuple(label[self.items[position].label] for position in positions),
            tuple(str(self.tree.root / source.names[position]) for position in positions),
            source,
            tuple(positions),
        )

    @cached_property
    def _positions(self) -> dict[tuple[str | None, bool], list[int]]:
        """The positions of the items of each task, for training and for testing."""
        found: dict[tuple[str | None, bool], list[int]] = {}
        for position, item in enumerate(self.items):
            found.setdefault((item.task, item.held), []).append(position)
        return found

    def skipped(self, task: str | None) -> tuple[str, ...]:
        """Return the paths of a task's images that cannot be used."""
        names = [item.file.name for item in self.broken if item.task == task]
        return tuple(spelled(str(self.tree.root / name)) for name in names)

    def files(self, tasks: Iterable[Task] | None = None) -> Files:
        """Return the account of the whole folder.

        Args:
            tasks: use some of the images; None: all are used.
        """
        tree, layout = self.tree, self.layout
        for why, file in layout.aside:
            tree.ignored.add(why, file.name)
        for item in self.broken:
            tree.skipped.add(UNREADABLE, item.file.name)
        if tasks is None:
            training = {p for p, item in enumerate(self.items) if not item.held}
            test = set(range(len(self.items))) - training
        else:
            used = list(tasks)
            training = {p for task in used for p in task.train.positions}
            test = {p for task in used for p in task.test.positions}
        for position, item in enumerate(self.items):
            if position not in training and position not in test:
                tree.ignored.add(LEFT_OUT, item.file.name)
        return Files(
            root=spelled(str(tree.root)),
            layout=layout.name,
            total=tree.total,
            training=len(training),
            test=len(test),
            skipped=tree.skipped.reasons(),
            ignored=tree.ignored.reasons(),
            notes=(*layout.notes, *self.notes),
        )
