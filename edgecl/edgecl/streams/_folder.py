"""Streams from image folders, and one new task from a folder.

Layouts (docs/streams.md): ROOT/CLASS/*.jpg with `increment`; ROOT/task_NN/CLASS/*.jpg; either of
the two under ROOT/train and ROOT/test. Hidden files and files with other endings are ignored.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecl.streams._build import DataSet, check_classes, check_name, class_incremental, finish
from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._options import (
    TEST_FRACTION,
    ClassOptions,
    HeldOutOptions,
    ProtocolOptions,
    option,
    refuse,
)
from edgecl.streams._registry import register_stream
from edgecl.streams._select import hold_out
from edgecl.streams._sources import PathSource, open_image
from edgecl.streams._types import ImageSet, Stream, StreamProtocol, Task

ENDINGS = frozenset({
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".avif",
})
TASK_FOLDER = re.compile(r"task[_-]?(\d+)$")


@dataclass(frozen=True)
class FolderOptions(ProtocolOptions, HeldOutOptions, ClassOptions):
    """Options of a folder of images."""

    root: str | None = option("The folder.", path=True)


@register_stream("folder", FolderOptions)
def folder(options: FolderOptions) -> Stream:
    """Build a stream from a folder of images.

    Raises:
        StreamError: the folder does not exist, has another layout, or has an empty or a duplicate
            class.
    """
    if options.root is None or not Path(options.root).is_dir():
        raise StreamError(
            f"Stream 'folder' needs a folder of images as root; got {options.root!r}. "
            "Give an existing folder, as root or in place of the stream's name."
        )
    root = Path(options.root)
    train_root, test_root = root, None
    if {child.name for child in _folders(root)} == {"train", "test"}:
        train_root, test_root = root / "train", root / "test"
    if all(TASK_FOLDER.match(child.name) for child in _folders(train_root)):
        return _task_folders(train_root, test_root, options)
    return _class_folders(train_root, test_root, options)


def _class_folders(root: Path, test_root: Path | None, options: FolderOptions) -> Stream:
    if options.increment is None:
        raise StreamError(
            f"A folder of classes must be divided into tasks; got {root} without an increment. "
            "Give increment = classes per task, or use folders task_00/CLASS, task_01/CLASS, ..."
        )
    if options.protocol not in (None, "cil"):
        raise StreamError(
            f"A folder of classes is class-incremental; got protocol {options.protocol!r}. "
            "Use folders task_00/CLASS, task_01/CLASS, ... for domains."
        )
    classes = tuple(_of_classes(root))
    train, test, skipped = _read(root, test_root, classes, classes, options, "folder")
    data = DataSet(classes, train, test, skipped)
    return class_incremental(data, options, options.increment)


def _task_folders(root: Path, test_root: Path | None, options: FolderOptions) -> Stream:
    refuse(options, ("classes", "increment", "base"), f"The folders of {root} fix the tasks")
    protocol = options.protocol or "cil"
    folders = sorted(_folders(root), key=lambda path: (_number(path), path.name))
    if not folders:
        raise StreamError(
            f"A stream needs a folder of images per class; {root} has no folder. "
            "See docs/streams.md for the layouts."
        )
    of_task = [list(_of_classes(path)) for path in folders]
    if protocol == "cil":
        check_classes([name for names in of_task for name in names])
    classes = tuple(dict.fromkeys(name for names in of_task for name in names))
    check_classes(classes)
    tasks = []
    for path, names in zip(folders, of_task, strict=True):
        held = None if test_root is None else test_root / path.name
        names = sorted(names, key=classes.index)
        train, test, skipped = _read(path, held, names, classes, options, path.name)
        tasks.append(Task(path.name, tuple(names), train, test, skipped))
    return finish(protocol, classes, tasks, options)


def _read(
    root: Path,
    test_root: Path | None,
    classes: Sequence[str],
    all_classes: Sequence[str],
    options: FolderOptions,
    key: str,
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    check_classes(classes, str(root))
    images, skipped = read_classes(root, classes, all_classes)
    if test_root is None:
        names = dict(enumerate(all_classes))
        return *hold_out(images, options.fraction, names, key, options.seed), skipped
    refuse(options, ("test_fraction",), f"Nothing is held out where there is {test_root}")
    held = _of_classes(test_root)
    unknown = held.keys() - set(classes)
    if unknown:
        raise StreamError(
            f"The test part must hold classes of {root} only; {test_root} has also "
            f"{', '.join(sorted(unknown))}. Remove these, or add training images."
        )
    present = [name for name in classes if name in held]
    test, broken = read_classes(test_root, present, all_classes)
    return images, test, skipped + broken


def read_classes(
    root: Path, classes: Sequence[str], all_classes: Sequence[str]
) -> tuple[ImageSet, tuple[str, ...]]:
    """Read ROOT/CLASS/* for some classes; labels are indices of `all_classes`.

    Each file's header is read, which finds most broken files: they are left out and named in the
    second value. Other damage is found when the image is decoded.

    Raises:
        StreamError: a class has no readable image.
    """
    paths: list[Path] = []
    labels: list[int] = []
    skipped: list[str] = []
    folders = _of_classes(root)
    label_of = {name: label for label, name in enumerate(all_classes)}
    for name in classes:
        before = len(paths)
        for path in sorted(folders[name].iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in ENDINGS:
                continue
            try:
                open_image(path, str(path), header_only=True)
            except BrokenImageError:
                skipped.append(str(path))
                continue
            paths.append(path)
            labels.append(label_of[name])
        if len(paths) == before:
            raise StreamError(
                f"Every class folder must hold a readable image; {folders[name]} holds none "
                f"({len(skipped)} broken so far). Add images ({', '.join(sorted(ENDINGS))}), or "
                "remove the folder."
            )
    return ImageSet.of(PathSource(paths), labels, [str(path) for path in paths]), tuple(skipped)


def task_from_folder(
    path: str | Path,
    known_classes: Sequence[str],
    *,
    name: str | None = None,
    protocol: StreamProtocol = "cil",
    test_fraction: float = TEST_FRACTION,
    seed: int | None = 1993,
) -> Task:
    """Read PATH/CLASS/*.jpg (or PATH/train, PATH/test) as one new task of a stream.

    Labels are indices of the known classes followed by the new ones, sorted by name. With protocol
    "cil" a known class is refused; with another one the task may have images of known classes.

    Raises:
        StreamError: the folder does not exist, a class is empty, or a name is not unique.
    """
    root = Path(path)
    if not root.is_dir():
        raise StreamError(
            f"A new task must be a folder with one folder of images per class; {root} is no "
            "folder. Give the folder above the classes."
        )
    test_root = None
    if {child.name for child in _folders(root)} == {"train", "test"}:
        root, test_root = root / "train", root / "test"
    found = list(_of_classes(root))
    fresh = [c for c in found if protocol == "cil" or c not in known_classes]
    check_classes([*known_classes, *fresh], "the stream and its new task")
    classes = [*known_classes, *fresh]
    present = sorted(found, key=classes.index)
    fraction = None if test_root is not None else test_fraction
    options = FolderOptions("folder", seed=seed, test_fraction=fraction)
    title = check_name(name or Path(path).resolve().name, "A task")
    train, test, skipped = _read(root, test_root, present, classes, options, title)
    return Task(title, tuple(present), train, test, skipped)


def _folders(root: Path) -> list[Path]:
    """Return the visible sub-folders, sorted by name; none where root is not a folder."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _of_classes(root: Path) -> dict[str, Path]:
    """Return the class folders by the name of their class, sorted; it may be spelled otherwise."""
    folders = _folders(root)
    if not folders:
        return {}
    named = zip(check_classes([path.name for path in folders], str(root)), folders, strict=True)
    return dict(sorted(named))


def _number(path: Path) -> int:
    match = TASK_FOLDER.match(path.name)
    assert match is not None
    return int(match.group(1))
