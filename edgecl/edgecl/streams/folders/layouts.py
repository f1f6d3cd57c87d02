"""What the folders of a tree mean: parts, tasks and classes, or a refusal with a drawing.

From the root down there is at most one level of parts (train, val, test) and one of task folders,
in either order, and then the classes; what is below a class belongs to it. A name of a part is
never taken for a class where it could be a part.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from edgecl.streams._build import check_classes
from edgecl.streams._errors import StreamError
from edgecl.streams.folders.tree import File, Folder, Tree, some
from edgecl_deploy.manifest.names import spelled

Part = Literal["train", "val", "test"]
TASK = re.compile(r"task[ _-]?(\d+)", re.IGNORECASE)
PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
PART = re.compile(
    rf"({'|'.join(sorted(PARTS, key=len, reverse=True))})"
    r"(?:[ _-]?(?:sets?|data|images?|imgs?|splits?|parts?|[0-9]+))*",
    re.IGNORECASE,
)
OUTSIDE = "an image outside of every class folder"
UNUSED_VAL = "a validation part next to a test part, which nothing uses"
UNUSED_TABLE = "a table that gives no label, as the folders or another table do"

UNDERSTOOD = """understood would be
  ROOT/CLASS/*.jpg                   a folder per class; folders in it belong to the class
  ROOT/task_00/CLASS/*.jpg           task folders
  ROOT/train/...  ROOT/test/...      either of the two in parts: train, val or valid, test
  ROOT/task_00/train/CLASS/*.jpg     parts in task folders
  ROOT/labels.csv or .jsonl          a table: file, label; also task, split, domain, or a column per
                                     class; or such a table in each part, as _classes.csv"""


class Item(NamedTuple):
    """One image and where the layout puts it.

    Attributes:
        held: it is for testing.
        task: the key of its task; None where nothing but the classes divides the images.
    """

    file: File
    held: bool
    task: str | None
    label: str


@dataclass(eq=False)
class Layout:
    """A tree that was understood.

    Attributes:
        name: in words.
        items: every image that may be used.
        tasks: the names of the tasks by their keys, in order; None where there are none.
        fixed: where the test images are of, if the layout has any; then nothing is held out.
        trained: where the training images of each task's classes are, for messages.
        aside: files that the layout leaves out, each after the reason.
        notes: what else a person should know.
    """

    name: str
    items: list[Item]
    tasks: dict[str, str] | None
    fixed: str | None
    trained: dict[tuple[str | None, str], str] = field(default_factory=dict)
    aside: list[tuple[str, File]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Group:
    """The class folders of one part of one task; either may be absent."""

    part: Part | None
    task: str | None
    place: Folder
    classes: dict[str, Folder]


def part_of(name: str) -> Part | None:
    """Return which part a folder or a table of this name is, if any."""
    found = PART.fullmatch(name.strip())
    return PARTS[found[1].lower()] if found else None


def task_of(name: str) -> str | None:
    """Return the key of a task folder, which is its number; None of any other folder."""
    found = TASK.fullmatch(name.strip())
    return str(int(found[1])) if found else None


class LayoutError(StreamError):
    """Folders that are not understood: the reason, what was found and what would be understood."""

    def __init__(self, tree: Tree, reason: str) -> None:
        super().__init__(f"{reason}\nfound\n{drawing(tree)}\n{UNDERSTOOD}")


def drawing(tree: Tree, deep: int = 3, wide: int = 4) -> str:
    """Draw the upper folders of a tree."""
    lines = [f"  {spelled(str(tree.root))}/"]

    def draw(folder: Folder, depth: int) -> None:
        indent = "  " * (depth + 1)
        for index, inner in enumerate(folder.folders.values()):
            if index == wide:
                lines.append(f"{indent}... {len(folder.folders) - wide} folders more")
                break
            lines.append(f"{indent}{spelled(inner.name)}/  {_images(inner.total)}")
            if depth < deep:
                draw(inner, depth + 1)
        if folder.images:
            lines.append(
                f"{indent}{spelled(_base(folder.images[0]))}  {_images(len(folder.images))}"
            )
        if folder.tables:
            lines.append(f"{indent}{spelled(_base(folder.tables[0]))}")

    draw(tree.top, 1)
    return "\n".join(lines)


def _images(count: int) -> str:
    return "(1 image)" if count == 1 else f"({count} images)"


def _base(file: File) -> str:
    return file.name.rpartition("/")[2]


def base_of(tree: Tree) -> Folder:
    """Return the folder that the layout begins at: the root, or the only folder in it.

    An archive often adds a folder above the parts or the tasks. A single folder above others may
    also be a class, so those above classes are not passed.
    """
    base = tree.top
    while not base.images:
        full = [inner for inner in base.folders.values() if inner.total]
        if len(full) != 1 or part_of(full[0].name) or task_of(full[0].name) is not None:
            return base
        below = [inner.name for inner in full[0].folders.values() if inner.total]
        if not below or not all(part_of(name) or task_of(name) is not None for name in below):
            return base
        base = full[0]
    return base


def understand(tree: Tree, base: Folder) -> Layout:
    """Find the parts, tasks and classes of a tree.

    Raises:
        LayoutError: the tree is not understood.
    """
    groups = list(_groups(tree, base))
    training = [group for group in groups if group.part in (None, "train")]
    if not training:
        raise LayoutError(
            tree, f"A stream needs images to train on; {tree.path(base)} has no part 'train'. "
            "Rename the part that is for training, or give the folder of the classes."
        )  # fmt: skip
    if not any(group.classes for group in training):
        raise LayoutError(
            tree,
            f"At least one class is needed; {tree.path(training[0].place)} has none. Make one "
            "folder of images per class. See docs/streams.md for the layouts.",
        )
    _not_one_level_short(tree, training)
    used: Part | None = None
    for part in ("test", "val"):
        with_images = [c for g in groups if g.part == part for c in g.classes.values() if c.total]
        if with_images:
            used = part
            break
    held = [group for group in groups if group.part not in (None, "train")]
    fixed = (
        tree.path(next((g.place for g in held if g.part == used), held[0].place)) if held else None
    )
    layout = Layout(_name(groups), [], _tasks(tree, training), fixed)
    _take(tree, layout, training, held=False)
    _take(tree, layout, [group for group in held if group.part == used], held=True)
    for group in held:
        if group.part != used:
            for folder in group.classes.values():
                layout.aside += [(UNUSED_VAL, file) for file in folder.all_images()]
    if held and used is None:
        layout.notes.append(f"the test part {fixed} holds no image in a class folder")
    if used == "val":
        layout.notes.append("the validation part is the test part, as there is no other")
    layout.aside += _outside(tree, groups)
    return layout


def _groups(tree: Tree, base: Folder) -> Iterator[Group]:
    """Yield the class folders of every part and task."""
    parts = _parts(tree, base)
    for part, folder in (parts or {None: base}).items():
        tasks = _task_folders(tree, folder)
        if tasks is None:
            yield Group(part, None, folder, _classes(tree, folder, part))
            continue
        for key, task in tasks.items():
            inner = None if part else _parts(tree, task)
            for inner_part, place in (inner or {part: task}).items():
                yield Group(inner_part, key, place, _classes(tree, place, inner_part))


def _parts(tree: Tree, folder: Folder) -> dict[Part | None, Folder] | None:
    """Return the parts in a folder; None where it has none.

    Raises:
        LayoutError: other folders with images are next to them, or a part is there twice.
    """
    named = {inner.name: part_of(inner.name) for inner in folder.folders.values()}
    if not any(named.values()):
        return None
    others = [name for name, part in named.items() if not part and folder.folders[name].total]
    if others:
        first = next(name for name, part in named.items() if part)
        raise LayoutError(
            tree, f"A folder named {spelled(first)!r} must be a part of the images, next to other "
            f"parts only; {tree.path(folder)} has also {some(others)}. Move the classes into the "
            f"parts; if {spelled(first)!r} is a class, put all classes into a folder 'train', or "
            "rename it."
        )  # fmt: skip
    parts: dict[Part | None, Folder] = {}
    for name, part in named.items():
        if part and part in parts:
            raise LayoutError(
                tree, f"A part must be one folder; {tree.path(folder)} has {parts[part].name!r} "
                f"and {spelled(name)!r}. Merge the two, or move one out."
            )  # fmt: skip
        if part:
            parts[part] = folder.folders[name]
    return parts


def _task_folders(tree: Tree, folder: Folder) -> dict[str, Folder] | None:
    """Return the task folders in a folder by number, in order; None where it has none.

    Raises:
        LayoutError: other folders with images are next to them, or a number is there twice.
    """
    keys = {inner.name: task_of(inner.name) for inner in folder.folders.values()}
    if all(key is None for key in keys.values()):
        return None
    others = [name for name, key in keys.items() if key is None and folder.folders[name].total]
    if others:
        raise LayoutError(
            tree, f"Task folders must be next to task folders only; {tree.path(folder)} has also "
            f"{some(others)}. Move these into a task folder, or out."
        )  # fmt: skip
    tasks: dict[str, Folder] = {}
    for name, key in sorted(keys.items(), key=lambda pair: (int(pair[1] or 0), pair[0])):
        if key is not None and key in tasks:
            raise LayoutError(
                tree, f"A task must be one folder; {tree.path(folder)} has {tasks[key].name!r} and "
                f"{name!r}. Merge the two, or give one another number."
            )  # fmt: skip
        if key is not None:
            tasks[key] = folder.folders[name]
    return tasks


def _classes(tree: Tree, folder: Folder, part: Part | None) -> dict[str, Folder]:
    """Return the class folders in a folder.

    Raises:
        LayoutError: a part or a task is where the classes are, or below.
    """
    classes = dict(folder.folders)
    named = [name for name in classes if part_of(name) or task_of(name) is not None]
    # Under a part, one folder of images named like a part is a class: "train", next to "bus".
    a_class = part is not None and len(named) == 1 and part_of(named[0]) is not None
    if named and not (a_class and not classes[named[0]].folders):
        raise LayoutError(
            tree, f"The name of a part or a task is no class; {tree.path(folder)} has "
            f"{some(named)} where classes are. Have one level of parts and one of tasks, or "
            "rename the class."
        )  # fmt: skip
    for inner in classes.values():
        for below in inner.all_folders():
            if below is not inner and (part_of(below.name) or task_of(below.name) is not None):
                raise LayoutError(
                    tree, f"Parts and tasks must be above the classes; {tree.path(below)} is below "
                    f"{spelled(inner.name)!r}. Move it above, or rename it."
                )  # fmt: skip
    if not classes:
        return {}
    return dict(zip(check_classes(list(classes), tree.path(folder)), classes.values(), strict=True))


def _not_one_level_short(tree: Tree, groups: list[Group]) -> None:
    """Refuse a single class whose images are all in folders: these may be the classes.

    Raises:
        LayoutError: there is one.
    """
    full = {c.name: c for g in groups for c in g.classes.values() if c.total}
    one = next(iter(full.values())) if len(full) == 1 else None
    if one is not None and not one.images:
        raise LayoutError(
            tree, f"A single folder whose images are all in folders is a class or a folder above "
            f"the classes, which cannot be told; found {tree.path(one)}. Give that folder in "
            "place of the one above it; if it is a class, move its images up."
        )  # fmt: skip


def _tasks(tree: Tree, groups: list[Group]) -> dict[str, str] | None:
    """Return the names of the tasks by their keys; None where there are none."""
    folders = {group.task: group for group in groups}
    if None in folders:
        return None
    names = {}
    for key, group in folders.items():
        place = group.place
        while task_of(place.name) is None and place.above is not None:
            place = place.above
        names[str(key)] = place.name
    return names


def _take(tree: Tree, layout: Layout, groups: list[Group], *, held: bool) -> None:
    """Add the images of class folders; test images go to the tasks of their classes.

    Raises:
        LayoutError: a task of the test part is not trained.
        StreamError: a class of the test part is not trained.
    """
    trained: dict[str, set[str | None]] = {}
    for task, label in layout.trained:
        trained.setdefault(label, set()).add(task)
    for group in groups:
        strangers = sorted(name for name in group.classes if held and name not in trained)
        if layout.tasks is not None and group.task is not None and held:
            if group.task not in layout.tasks:
                raise LayoutError(
                    tree, f"A task of the test part must be one of the training part; "
                    f"{tree.path(group.place)} is not. Remove it, or add training images."
                )  # fmt: skip
            strangers = sorted(n for n in group.classes if group.task not in trained.get(n, ()))
        if strangers:
            raise StreamError(
                f"The test part must hold classes of the training part only; "
                f"{tree.path(group.place)} has also {some(strangers)}. Remove these, or add "
                "training images."
            )
        for label, folder in group.classes.items():
            task = group.task if layout.tasks is not None else None
            if held and layout.tasks is not None and task is None:
                task = _only_task(tree, label, trained[label])
            if not held:
                layout.trained[task, label] = tree.path(folder)
            layout.items += [Item(file, held, task, label) for file in folder.all_images()]


def _only_task(tree: Tree, label: str, tasks: set[str | None]) -> str | None:
    """Return the task that trains a class.

    Raises:
        LayoutError: there are several.
    """
    if len(tasks) > 1:
        raise LayoutError(
            tree, f"A test part by class needs every class in one task; {spelled(label)!r} is in "
            f"{len(tasks)}. Make the task folders in the test part too."
        )  # fmt: skip
    return next(iter(tasks), None)


def _outside(tree: Tree, groups: list[Group]) -> list[tuple[str, File]]:
    """Return the images and tables that belong to no class, each after the reason."""
    in_class = {id(f) for g in groups for c in g.classes.values() for f in c.all_folders()}
    found: list[tuple[str, File]] = []
    for folder in tree.top.all_folders():
        if id(folder) not in in_class:
            found += [(OUTSIDE, file) for file in folder.images]
        found += [(UNUSED_TABLE, file) for file in folder.tables]
    return found


def _name(groups: list[Group]) -> str:
    """Return a layout in words."""
    count = len({name for group in groups for name in group.classes})
    words = f"{count} class folder{'s' if count != 1 else ''}"
    tasks = {group.task for group in groups} - {None}
    if tasks:
        words += f" in {len(tasks)} task folder{'s' if len(tasks) != 1 else ''}"
    found = {group.part for group in groups}
    if parts := [name for name in ("train", "val", "test") if name in found]:
        words += f", part{'s' if len(parts) > 1 else ''} {' and '.join(parts)}"
    return words
