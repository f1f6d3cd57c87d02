"""One look at a folder: every file under it once, with what its name and kind tell of it.

Files are opened by nobody here. What cannot be an image of the stream goes to the tally of ignored
files at once; the rest are candidates, which the layout and the reading decide on.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecl.streams._errors import StreamError
from edgecl.streams._registry import TABLES
from edgecl.streams._types import Reason
from edgecl_deploy import listing
from edgecl_deploy.manifest.names import spelled

# What a device finds in a folder, and names that get an answer here: why they cannot be read.
ENDINGS = listing.ENDINGS | {
    *(".apng", ".avifs", ".hif", ".jpx", ".jpf", ".tga", ".ico", ".psd", ".dng"),
}
LEFT_BY_SYSTEMS = listing.LEFTOVERS | {
    *(".ds_store", "ehthumbs.db", "#recycle", "system volume information", "lost+found"),
    *(".ipynb_checkpoints", "__pycache__", ".directory", "icon\r"),
}
SHOWN = 5  # names of a reason

HIDDEN = "hidden"
LEFT = "left there by a system"
NO_IMAGE = "without an image's ending"
NO_FILE = "no regular file, or a link to nothing"
CLOSED = "in a folder that cannot be opened, which counts as one"
LOOP = "a link to a folder above it"


class Tally:
    """Counts of files by reason, with the first names of each."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, why: str, name: str) -> None:
        self._count[why] = self._count.get(why, 0) + 1
        first = self._first.setdefault(why, [])
        if len(first) < SHOWN:
            first.append(spelled(name))

    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons, the most frequent first."""
        order = sorted(self._count, key=lambda why: (-self._count[why], why))
        return tuple(Reason(why, self._count[why], tuple(self._first[why])) for why in order)


def some(names: Sequence[str]) -> str:
    """Return the first of some names, in a line."""
    return ", ".join(map(spelled, names[:SHOWN])) + (" ..." if len(names) > SHOWN else "")


@dataclass(slots=True, eq=False)
class File:
    """One file that may be an image or a table.

    Attributes:
        name: relative to the root, with slashes.
        size: in bytes.
        changed: when its content and its entry were changed last, in nanoseconds.
    """

    name: str
    size: int
    changed: tuple[int, int]

    @property
    def ending(self) -> str:
        return ending(self.name)


@dataclass(slots=True, eq=False)
class Folder:
    """One visible folder.

    Attributes:
        name: its own.
        path: relative to the root; nothing for the root.
        folders: in it, by name, sorted.
        images: candidates directly in it.
        tables: files directly in it that may be a table of labels.
        total: candidates in it and below.
        above: the folder it is in.
    """

    name: str
    path: str
    above: "Folder | None" = None
    folders: dict[str, "Folder"] = field(default_factory=dict)
    images: list[File] = field(default_factory=list)
    tables: list[File] = field(default_factory=list)
    total: int = 0

    def all_images(self) -> Iterator[File]:
        """Yield the candidates in it and below."""
        open_ = [self]
        while open_:
            folder = open_.pop()
            yield from folder.images
            open_.extend(reversed(folder.folders.values()))

    def all_folders(self) -> Iterator["Folder"]:
        """Yield it and the folders below."""
        open_ = [self]
        while open_:
            folder = open_.pop()
            yield folder
            open_.extend(reversed(folder.folders.values()))


@dataclass(eq=False)
class Tree:
    """A folder and all that is under it.

    Attributes:
        root: the folder.
        top: it, as it was found.
        total: of all files.
        ignored: those that are no candidates, and what a layout leaves out.
        skipped: images that cannot be used.
    """

    root: Path
    top: Folder
    total: int = 0
    ignored: Tally = field(default_factory=Tally)
    skipped: Tally = field(default_factory=Tally)

    def path(self, folder: Folder) -> str:
        """Return the path of a folder for messages."""
        return spelled(str(self.root / folder.path))


@dataclass(slots=True)
class _Open:
    """A folder that is to be looked at.

    Attributes:
        why: its files are ignored; None where they are not.
        above: device and inode of it and the folders above, against loops of links.
    """

    folder: Folder
    place: str
    why: str | None
    above: frozenset[tuple[int, int]]


def scan(root: Path) -> Tree:
    """Look at every file under a folder once.

    Raises:
        StreamError: the folder cannot be opened.
    """
    tree = Tree(root, Folder(root.name, ""))
    try:
        found = os.stat(root)
        os.scandir(root).close()
    except OSError as error:
        raise StreamError(
            f"A folder of images must be one that can be opened; {spelled(str(root))} cannot "
            f"({error.strerror}). Give read and execute rights to it, or another folder."
        ) from error
    above = frozenset({(found.st_dev, found.st_ino)})
    open_ = [_Open(tree.top, str(root), None, above)]
    while open_:
        here = open_.pop()
        open_.extend(reversed(_look(tree, here)))
    return tree


def _look(tree: Tree, here: _Open) -> list[_Open]:
    """Sort the entries of one folder; return the folders in it."""
    folder, below = here.folder, []
    try:
        with os.scandir(here.place) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        tree.total += 1
        tree.skipped.add(CLOSED, folder.path)
        return []
    for entry in found:
        name = f"{folder.path}/{entry.name}" if folder.path else entry.name
        why = here.why or _by_name(entry.name)
        try:
            state = entry.stat()
        except OSError:  # a link to nothing, or to itself; a file that is gone
            tree.total += 1
            tree.ignored.add(why or NO_FILE, name)
            continue
        if stat.S_ISDIR(state.st_mode):
            below += _folder(tree, here, entry, name, why, state)
            continue
        tree.total += 1
        _file(tree, folder, File(name, state.st_size, (state.st_mtime_ns, state.st_ctime_ns)),
              why or _by_kind(name, state.st_mode))  # fmt: skip
    return below


def _folder(
    tree: Tree,
    here: _Open,
    entry: os.DirEntry[str],
    name: str,
    why: str | None,
    state: os.stat_result,
) -> list[_Open]:
    """Note a folder in a folder; return it unless it is one of those above it."""
    key = (state.st_dev, state.st_ino)
    if key in here.above:
        tree.total += 1
        tree.ignored.add(LOOP, name)
        return []
    inner = Folder(entry.name, name, here.folder)
    if why is None:
        here.folder.folders[entry.name] = inner
    return [_Open(inner, entry.path, why, here.above | {key})]


def _file(tree: Tree, folder: Folder, file: File, why: str | None) -> None:
    """Note a file."""
    if why is not None:
        tree.ignored.add(why, file.name)
    elif ending(file.name) in TABLES:
        folder.tables.append(file)
    else:
        folder.images.append(file)
        above: Folder | None = folder
        while above is not None:
            above.total += 1
            above = above.above


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot."""
    dot = name.rfind(".", max(name.rfind("/"), 0) + 1)  # a name may begin with one
    return "" if dot < 0 else name[dot:].lower()


def _by_name(name: str) -> str | None:
    """Return why what has this name is ignored."""
    if name.lower() in LEFT_BY_SYSTEMS or name.startswith("._"):
        return LEFT
    return HIDDEN if name.startswith(".") else None


def _by_kind(name: str, mode: int) -> str | None:
    """Return why a file of this name and kind is no candidate."""
    if not stat.S_ISREG(mode):
        return NO_FILE
    return None if ending(name) in ENDINGS or ending(name) in TABLES else NO_IMAGE
