"""Streams from image folders and tables, and one new task from a folder (docs/streams.md).

`tree` looks at every file once, `layouts` and `table` find what the folders mean, `reading` and
`index` read the images, `account` tells what became of every file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from edgecl.streams._build import DataSet, check_classes, check_name, class_incremental, finish
from edgecl.streams._errors import StreamError
from edgecl.streams._held_out import held_out
from edgecl.streams._options import (
    TEST_FRACTION,
    ClassOptions,
    HeldOutOptions,
    ProtocolOptions,
    option,
    refuse,
)
from edgecl.streams._registry import TABLES, register_stream
from edgecl.streams._types import Stream, StreamProtocol, Task
from edgecl.streams.folders.account import FileSource, Found
from edgecl.streams.folders.index import Index
from edgecl.streams.folders.layouts import Item, Layout, LayoutError, base_of, understand
from edgecl.streams.folders.table import by_tables, find_tables
from edgecl.streams.folders.tree import Tree, scan, some
from edgecl_deploy.manifest import names as rule
from edgecl_deploy.manifest.names import spelled
from edgecl_deploy.progress import Reporter

_REPORTER: ContextVar[Reporter] = ContextVar("reporter", default=Reporter())  # noqa: B039 it has no state


@contextmanager
def progress(reporter: Reporter) -> Iterator[None]:
    """Show the reading of folders, inside the block, by a reporter."""
    token = _REPORTER.set(reporter)
    try:
        yield
    finally:
        _REPORTER.reset(token)


@dataclass(frozen=True)
class FolderOptions(ProtocolOptions, HeldOutOptions, ClassOptions):
    """Options of a folder of images."""

    root: str | None = option("The folder, or a table of labels in it.", path=True)
    shared_names: bool | None = option(
        "A name in several tasks is several classes, TASK/NAME; as with --protocol mtil."
    )


@register_stream("folder", FolderOptions)
def folder(options: FolderOptions) -> Stream:
    """Build a stream from a folder of images.

    Raises:
        StreamError: the folder does not exist, has another layout, or has an empty or a duplicate
            class.
    """
    root = None if options.root is None else Path(options.root)
    if root is None or not (root.is_dir() or (root.suffix.lower() in TABLES and root.is_file())):
        raise StreamError(
            f"Stream 'folder' needs a folder of images as root; got {options.root!r}. "
            "Give an existing folder, as root or in place of the stream's name."
        )
    tree, layout = layout_of(root, options.protocol)
    if layout.tasks is None:  # where a name is one folder
        return _class_folders(tree, layout, replace(options, shared_names=None))
    return _task_folders(tree, layout, options)


def layout_of(root: Path, protocol: str | None = None) -> tuple[Tree, Layout]:
    """Look at a folder and find what its folders, or its tables, mean.

    Raises:
        LayoutError: it is not understood.
        StreamError: a table contradicts itself.
    """
    if root.is_file():
        tree = scan(root.parent)
        return tree, by_tables(tree, find_tables(tree, tree.top, root.name), protocol)
    tree = scan(root)
    base = base_of(tree)
    try:
        by_folders = understand(tree, base)
    except LayoutError as error:
        tables = find_tables(tree, base, None)
        if not tables:
            raise
        try:
            return tree, by_tables(tree, tables, protocol)
        except LayoutError:
            raise error  # noqa: B904 the folders are what a person sees
    one_class = len({item.label for item in by_folders.items}) == 1  # or a folder of all images
    try:
        tables = find_tables(tree, base, None)
        tabled = by_tables(tree, tables, protocol) if tables else None
    except LayoutError:
        return tree, by_folders
    except StreamError:
        if one_class:
            raise
        return tree, by_folders
    if tabled is None or one_class:
        return tree, tabled or by_folders
    _agree(tree, by_folders, tabled)
    return tree, by_folders


def _agree(tree: Tree, by_folders: Layout, tabled: Layout) -> None:
    """Check that a table and the folders give every image one label.

    Raises:
        LayoutError: they do not.
    """
    labels = {id(item.file): item.label for item in by_folders.items}
    for item in tabled.items:
        if labels.get(id(item.file), item.label) != item.label:
            raise LayoutError(
                tree,
                f"A table and the folders must give an image one label; "
                f"{spelled(item.file.name)} is {spelled(item.label)!r} by the {tabled.name}. Give "
                "the path of the table in place of the folder, or move the table out.",
            )


def read(
    tree: Tree,
    layout: Layout,
    fraction: float,
    seed: int | None,
    *,
    decode: bool = False,
) -> Found:
    """Read the images of a layout and hold some out, if it has no test part.

    A class without an image that can be used is an error.

    Args:
        tree: what was found.
        layout: what it means.
        fraction: of the images that are held out.
        seed: of the choice.
        decode: decode every image, in place of its header.
    """
    _need_images(layout, layout.items)
    index = Index(tree.root)
    readings = index.readings(
        [item.file for item in layout.items], decode=decode, reporter=_REPORTER.get()
    )
    pairs = list(zip(layout.items, readings, strict=True))
    found = Found(
        tree,
        layout,
        [item for item, reading in pairs if reading.usable],
        [reading for _, reading in pairs if reading.usable],
        [item for item, reading in pairs if not reading.usable],
    )
    _need_images(layout, found.items, len(found.broken))
    if layout.fixed is None and fraction > 0:
        spared = _hold_out(found, fraction, seed, index.trained())
        if not decode:  # a look learns nothing
            index.remember(spared)
    tested = {(item.task, item.label) for item in found.items if item.held}
    without = [cell for cell in layout.trained if cell not in tested]
    if without:
        times = Counter(label for _, label in layout.trained)
        names = [
            label if task is None or times[label] == 1 else apart((layout.tasks or {})[task], label)
            for task, label in without
        ]
        kind = "classes" if len(times) == len(layout.trained) else "classes of tasks"
        found.notes.append(
            f"{len(without)} of {len(layout.trained)} {kind} have no test image: {some(names)}"
        )
    if index.note:
        found.notes.append(index.note)
    return found


def _hold_out(found: Found, fraction: float, seed: int | None, trained: set[bytes]) -> set[bytes]:
    """Hold images out; return the digests of those that are not, for the sake of their class."""
    cells = [(item.task, item.label) for item in found.items]
    digests = [bytes.fromhex(reading.digest) for reading in found.readings]
    held, spared = held_out(cells, digests, fraction, seed, trained=trained)
    found.items = [item._replace(held=out) for item, out in zip(found.items, held, strict=True)]
    return spared


def _need_images(layout: Layout, items: Sequence[Item], broken: int = 0) -> None:
    """Refuse a class without an image to train on.

    Raises:
        StreamError: there is one.
    """
    full = {(item.task, item.label) for item in items if not item.held}
    for cell, place in layout.trained.items():
        if cell not in full:
            raise StreamError(
                f"Every class folder must hold a readable image; {place} holds none "
                f"({broken} broken so far). Add images, or remove the folder."
            )


def _class_folders(tree: Tree, layout: Layout, options: FolderOptions) -> Stream:
    refuse(options, ("hold_out",), f"The folder {tree.root} has classes and no domains")
    if options.increment is None:
        raise StreamError(
            f"A folder of classes must be divided into tasks; got {tree.root} without an increment."
            " Give increment = classes per task, or use folders task_00/CLASS, task_01/CLASS, ..."
        )
    if options.protocol not in (None, "cil"):
        raise StreamError(
            f"A folder of classes is class-incremental; got protocol {options.protocol!r}. "
            "Use folders task_00/CLASS, task_01/CLASS, ... for domains."
        )
    classes = sorted(label for _, label in layout.trained)
    check_classes(classes, str(tree.root))
    found = read(tree, layout, _fraction(layout, options), options.seed)
    label = {name: index for index, name in enumerate(classes)}
    train, test = found.sets(found.source(), label, None)
    data = DataSet(tuple(classes), train, test, found.skipped(None))
    stream = class_incremental(data, options, options.increment)
    return replace(stream, files=found.files(stream.tasks))


def _task_folders(tree: Tree, layout: Layout, options: FolderOptions) -> Stream:
    refuse(
        options,
        ("classes", "increment", "base", "class_order", "blurry", "disjoint", "stochastic"),
        f"The folders of {tree.root} fix the tasks",
    )
    assert layout.tasks is not None
    protocol = options.protocol or "cil"
    of_task = {
        key: sorted(label for task, label in layout.trained if task == key) for key in layout.tasks
    }
    if protocol != "cil":
        refuse(options, ("shared_names",), f"With protocol {protocol} a name is one class")
    shared = _shared(of_task.values()) if options.shared_names else set()
    class_of = {
        key: {n: apart(layout.tasks[key], n) if rule.folded(n) in shared else n for n in names}
        for key, names in of_task.items()
    }
    every = [name for names in class_of.values() for name in names.values()]
    if protocol == "cil":
        check_classes(every, more=" Or give --shared-names, if they are different classes.")
    classes = tuple(dict.fromkeys(every))
    check_classes(classes)
    found = read(tree, layout, _fraction(layout, options), options.seed)
    all_are_tests = set() if layout.fixed else set(options.hold_out or ())
    if all_are_tests:
        found.drop_copies({key for key, title in layout.tasks.items() if title in all_are_tests})
    source, label = found.source(), {name: index for index, name in enumerate(classes)}
    tasks = []
    for key, known_as in class_of.items():
        labels = {name: label[identity] for name, identity in known_as.items()}
        names = sorted(known_as, key=labels.__getitem__)
        title = layout.tasks[key]
        train, test = found.sets(source, labels, key)
        if title in all_are_tests:
            train, test = train.subset([]), found.all_of(source, labels, key)
        identities = tuple(known_as[name] for name in names)
        texts = () if identities == tuple(names) else tuple(names)
        tasks.append(Task(title, identities, train, test, found.skipped(key), texts=texts))
    stream = finish(protocol, classes, tasks, options, shared_names=bool(shared) or None)
    return replace(stream, files=found.files((*stream.tasks, *stream.held_out)))


def _shared(of_task: Iterable[Sequence[str]]) -> set[str]:
    """Return the names, folded, that several tasks have."""
    count = Counter(rule.folded(name) for names in of_task for name in names)
    return {name for name, tasks in count.items() if tasks > 1}


def apart(task: str, name: str) -> str:
    """Return the class of a name that other tasks have too."""
    return f"{task}/{name}"


def _fraction(layout: Layout, options: FolderOptions) -> float:
    if layout.fixed is None:
        return options.fraction
    refuse(options, ("test_fraction",), f"Nothing is held out where there is {layout.fixed}")
    return 0.0


def task_from_folder(
    path: str | Path,
    known_classes: Sequence[str],
    *,
    name: str | None = None,
    protocol: StreamProtocol = "cil",
    test_fraction: float = TEST_FRACTION,
    seed: int | None = 1993,
) -> Task:
    """Read PATH/CLASS/*.jpg, or another layout of one task, as one new task of a stream.

    Labels are indices of the known classes followed by the new ones, sorted by name. With protocol
    "cil" a known class is refused; with another one the task may have images of known classes.
    PATH/TASK/CLASS is the known class TASK/CLASS, where a stream named one so.

    Raises:
        StreamError: the folder does not exist, a class is empty, a name is not unique, or it may be
            that of several known classes.
    """
    root = Path(path)
    if not root.is_dir() and not (root.suffix.lower() in TABLES and root.is_file()):
        raise StreamError(
            f"A new task must be a folder with one folder of images per class; {root} is no "
            "folder. Give the folder above the classes."
        )
    tree, layout = layout_of(root)
    if layout.tasks is not None and len(layout.tasks) > 1:
        raise StreamError(
            f"A new task must be one; {root} has {len(layout.tasks)} ({layout.name}). Give the "
            "folder of one of them, one after the other."
        )
    key = next(iter(layout.tasks)) if layout.tasks else None
    known_as = _known_as(layout, key, known_classes)
    present = sorted(set(known_as.values()))
    known = set(known_classes)
    fresh = [c for c in present if protocol == "cil" or c not in known]
    check_classes([*known_classes, *fresh], "the stream and its new task")
    classes = [*known_classes, *fresh]
    label = {each: index for index, each in enumerate(classes)}
    present.sort(key=label.__getitem__)
    found = read(tree, layout, test_fraction, seed)
    labels = {given: label[each] for given, each in known_as.items()}
    train, test = found.sets(found.source(), labels, key)
    title = check_name(name or (root.parent if root.is_file() else root).resolve().name, "A task")
    task = Task(title, tuple(present), train, test, found.skipped(key))
    return replace(task, files=found.files([task]))


def _known_as(layout: Layout, key: str | None, known_classes: Sequence[str]) -> dict[str, str]:
    """Return the class of every name in a new task.

    Raises:
        StreamError: classes of several tasks are called so.
    """
    known = {rule.canonical(name): name for name in known_classes}
    found: dict[str, str] = {}
    for name in sorted({label for _, label in layout.trained}):
        of_task = "" if key is None or layout.tasks is None else apart(layout.tasks[key], name)
        found[name] = known.get(rule.canonical(of_task), name)
        end = apart("", rule.folded(name))
        of_others = [each for each in known_classes if rule.folded(each).endswith(end)]
        if of_others and found[name] not in known_classes:
            raise StreamError(
                f"Images of a class whose name several tasks have must be in a folder of its task; "
                f"{rule.quoted(name)} may be {some(of_others)}. Make folders TASK/CLASS, or rename "
                "the known class with `edgecl classes rename`; rename the folder if it is another "
                "class."
            )
    return found


__all__ = [
    "FileSource",
    "FolderOptions",
    "apart",
    "folder",
    "layout_of",
    "progress",
    "task_from_folder",
]
