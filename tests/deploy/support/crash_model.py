"""An adversarial file system in memory: every state that a power cut may leave, and no root needed.

What POSIX promises, and nothing more: the bytes of a file are sure after `fsync` of the file, a
name after `fsync` of its folder, and a rename happens wholly or not at all. Everything else that
was done since may or may not be on the disk, each thing for itself.

`Recorder` is a `Disk` that does the work and writes down what it did; `Model` replays that, with
one sync left out if a test says so, and `Model.states` gives the trees that a cut may leave.
"""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecl_deploy.store.disk import Disk

Tree = dict[str, tuple[str, Any]]  # path -> ("file", bytes) | ("link", text) | ("folder", None)
Node = tuple[Any, ...]
FULL = 64  # more combinations than this at one step are sampled, not enumerated
SAMPLES = 16


@dataclass(frozen=True)
class Step:
    """One thing that was done: create, change, link, folder, rename, unlink, sync, may, must."""

    what: str
    path: str
    value: Any = None


class Recorder(Disk):
    """A disk that writes down what is done under a folder, by itself and by others.

    Files of others (downloads, the TUF cache, locks) are taken in before each of its own
    operations.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.steps: list[Step] = []
        self._known = self._scan()

    @contextmanager
    def promising(self, key: Any, value: Any) -> Iterator[None]:
        """Say that `key` may have the value from here on, and must have it once this ends well."""
        self.look()
        self.steps.append(Step("may", "", (key, value)))
        yield
        self.look()
        self.steps.append(Step("must", "", (key, value)))

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self.look()

    def link(self, text: str, path: Path) -> None:
        super().link(text, path)
        self.look()

    def remove(self, path: Path) -> None:
        self.look()
        super().remove(path)
        self.look()

    def rename(self, source: Path, target: Path) -> None:
        self.look()
        super().rename(source, target)
        self.steps.append(Step("rename", self._name(source), self._name(target)))
        self._known = self._scan()

    def sync(self, path: Path) -> None:
        self.look()
        super().sync(path)
        if path == self.base or self.base in path.parents:
            self.steps.append(Step("sync", self._name(path)))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.base))

    def look(self) -> None:
        """Write down what changed since the last look."""
        now = self._scan()
        for name, node in now.items():
            before = self._known.get(name)
            if before == node:
                continue
            if node[0] == "file" and before is not None and before[:2] == node[:2]:
                self.steps.append(Step("change", name, node[2]))
                continue
            if before is not None and node[0] != "file":  # nobody renames over these
                self.steps.append(Step("unlink", name))
            self.steps.append(Step("create" if node[0] == "file" else node[0], name, node[2]))
        for name in reversed(self._known):
            if name not in now:
                self.steps.append(Step("unlink", name))
        self._known = now

    def _scan(self) -> dict[str, Node]:
        """Parents come before what is in them."""
        found: dict[str, Node] = {}
        for path in sorted(self.base.rglob("*")):
            name = self._name(path)
            if path.is_symlink():
                found[name] = ("link", 0, str(path.readlink()))
            elif path.is_dir():
                found[name] = ("folder", 0, None)
            else:
                found[name] = ("file", path.stat().st_ino, path.read_bytes())
        return found


@dataclass(eq=False)
class Inode:
    """A file, a link or a folder, wherever its name is."""

    kind: str
    data: Any = None  # as a process sees it
    sure: Any = None  # as the disk has it; None if it was never synced
    durable: bool = False  # `data` is `sure`
    names: dict[str, "Inode"] = field(default_factory=dict)  # of a folder, as a process sees it
    kept: dict[str, "Inode"] = field(default_factory=dict)  # of a folder, as the disk has it

    def choices(self) -> list[bytes]:
        """What a cut may leave of it."""
        if self.kind != "file" or self.durable:
            return [self.data]
        if self.sure is None:
            return [self.data, b""]
        torn = self.data[: (len(self.sure) + len(self.data)) // 2]
        return [self.data, self.sure, b"" if not self.data.startswith(self.sure) else torn]


@dataclass(eq=False)
class Change:
    """A change of names that is not yet sure: `inode` gets a name, loses one, or both at once."""

    inode: Inode
    gains: tuple[Inode, str] | None = None
    loses: tuple[Inode, str] | None = None
    moved: bool = False  # the old name of a file whose new one is sure

    def apply(self, folders: dict[int, dict[str, Inode]]) -> None:
        if self.loses is not None:
            folder, name = self.loses
            held = _of(folders, folder)
            if held.get(name) is self.inode:
                del held[name]
        if self.gains is not None:
            folder, name = self.gains
            _of(folders, folder)[name] = self.inode


def _of(folders: dict[int, dict[str, Inode]], folder: Inode) -> dict[str, Inode]:
    return folders.setdefault(id(folder), dict(folder.kept))


class Model:
    """What is on the disk, what is not yet, and what a cut may leave of it."""

    def __init__(self) -> None:
        self.root = Inode("folder", durable=True)
        self.pending: list[Change] = []

    def settle(self) -> None:
        """Let everything be on the disk, as long before the scenario."""
        self.pending = []
        for inode in self._all():
            inode.sure, inode.durable, inode.kept = inode.data, True, dict(inode.names)

    def _all(self) -> list[Inode]:
        found = [self.root]
        for inode in found:
            found.extend(inode.names.values())
        return found

    def do(self, step: Step) -> None:
        """Do what was done."""
        getattr(self, f"_{step.what}")(step.path, step.value)

    def _find(self, path: str) -> Inode:
        inode = self.root
        for name in Path(path).parts:
            inode = inode.names[name]
        return inode

    def _place(self, path: str) -> tuple[Inode, str]:
        return self._find(str(Path(path).parent)), Path(path).name

    def _new(self, path: str, inode: Inode) -> None:
        folder, name = self._place(path)
        folder.names[name] = inode
        self.pending.append(Change(inode, gains=(folder, name)))

    def _create(self, path: str, data: bytes) -> None:
        self._new(path, Inode("file", data))

    def _link(self, path: str, text: str) -> None:
        self._new(path, Inode("link", text, text, durable=True))

    def _folder(self, path: str, _: None) -> None:
        self._new(path, Inode("folder", durable=True))

    def _change(self, path: str, data: bytes) -> None:
        inode = self._find(path)
        inode.data, inode.durable = data, False

    def _unlink(self, path: str, _: None) -> None:
        folder, name = self._place(path)
        self.pending.append(Change(folder.names.pop(name), loses=(folder, name)))

    def _rename(self, source: str, target: str) -> None:
        (old, name), (new, other) = self._place(source), self._place(target)
        inode = old.names.pop(name)
        new.names[other] = inode
        self.pending.append(Change(inode, gains=(new, other), loses=(old, name)))

    def _sync(self, path: str, _: None) -> None:
        inode = self._find(path)
        if inode.kind == "folder":
            self._sync_names(inode)
        else:
            inode.sure, inode.durable = inode.data, True

    def _sync_names(self, folder: Inode) -> None:
        left = []
        for change in self.pending:
            gains, loses = change.gains, change.loses
            if loses is not None and loses[0] is folder:  # a rename is atomic: both or none
                self._keep(change)
            elif gains is not None and gains[0] is folder:
                self._keep(Change(change.inode, gains=gains))
                if loses is not None:
                    left.append(Change(change.inode, loses=loses, moved=True))
            else:
                left.append(change)
        self.pending = left

    @staticmethod
    def _keep(change: Change) -> None:
        folders: dict[int, dict[str, Inode]] = {}
        change.apply(folders)
        for place in (change.loses, change.gains):
            if place is not None:
                place[0].kept = folders[id(place[0])]

    def idle(self, path: str) -> bool:
        """Say whether a sync of this path would change nothing."""
        inode = self._find(path)
        if inode.kind != "folder":
            return inode.durable
        places = [p for each in self.pending for p in (each.gains, each.loses) if p is not None]
        return all(place[0] is not inode for place in places)

    def states(self) -> Iterator[Tree]:
        """Give the trees that a power cut may leave now; the first is the one of a process."""
        loose = [inode for inode in self._reachable() if len(inode.choices()) > 1]
        groups = self._groups()
        spans = [2] * len(groups) + [len(inode.choices()) for inode in loose]
        for chosen in _selections(spans):
            yield self._tree(groups, loose, chosen)

    def _groups(self) -> list[list[Change]]:
        """What happens or not for itself; names that go after a move go together, per folder."""
        groups: list[list[Change]] = []
        moved: dict[int, list[Change]] = {}
        for change in self.pending:
            if change.loses is None or not change.moved:
                groups.append([change])
            else:
                moved.setdefault(id(change.loses[0]), []).append(change)
        return [*groups, *moved.values()]

    def _reachable(self) -> list[Inode]:
        found = {id(inode): inode for inode in self._all()}
        for folder in list(found.values()):
            found |= {id(inode): inode for inode in folder.kept.values()}
        found |= {id(change.inode): change.inode for change in self.pending}
        return list(found.values())

    def _tree(
        self, groups: list[list[Change]], loose: list[Inode], chosen: tuple[int, ...]
    ) -> Tree:
        folders: dict[int, dict[str, Inode]] = {}
        for group, drop in zip(groups, chosen, strict=False):
            for change in group:
                if not drop:
                    change.apply(folders)
        data = {
            id(inode): inode.choices()[choice]
            for inode, choice in zip(loose, chosen[len(groups) :], strict=True)
        }
        tree: Tree = {}
        todo = [("", self.root)]
        while todo:
            prefix, folder = todo.pop()
            for name, inode in folders.get(id(folder), folder.kept).items():
                path = f"{prefix}{name}"
                tree[path] = (inode.kind, data.get(id(inode), inode.data))
                if inode.kind == "folder":
                    todo.append((f"{path}/", inode))
        return tree


def _selections(spans: list[int]) -> Iterator[tuple[int, ...]]:
    """Choose one of `spans[i]` things for every i; 0 is what a process sees.

    All combinations if there are few; else every point in time, everything but one thing, one
    thing alone, and some at random.
    """
    total = 1
    for span in spans:
        total *= span
    if total <= FULL:
        yield from itertools.product(*(range(span) for span in spans))
        return
    yield (0,) * len(spans)
    for number in range(len(spans)):
        for choice in range(1, spans[number]):
            yield (*(0,) * number, choice, *(0,) * (len(spans) - number - 1))
        ones = tuple(1 for _ in spans)
        yield (*ones[:number], 0, *ones[number + 1 :])
        yield (*(0,) * number, *ones[number:])
    rng = random.Random(len(spans))  # noqa: S311  not a secret
    for _ in range(SAMPLES):
        yield tuple(rng.randrange(span) for span in spans)


def materialise(tree: Tree, folder: Path) -> None:
    """Write a tree into an empty folder."""
    for name in sorted(tree):
        kind, value = tree[name]
        path = folder / name
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(value)
        else:
            path.write_bytes(value)


@dataclass(frozen=True)
class Cut:
    """A state after a power cut, and what must be true of it: key -> the values it may have."""

    step: int
    tree: Tree
    allowed: dict[Any, list[Any]]


class History:
    """What a scenario did, and every cut that may interrupt it.

    Args:
        before: What was done before the scenario; it is on the disk.
        steps: What the scenario did.
        allowed: What is true before it.
    """

    def __init__(self, before: list[Step], steps: list[Step], allowed: dict[Any, Any]) -> None:
        self.before, self.steps = before, steps
        self.allowed = {key: [value] for key, value in allowed.items()}

    def syncs(self) -> list[int]:
        """Give the steps that sync something that needs it."""
        model, found = self._begin(), []
        for number, step in enumerate(self.steps):
            if step.what == "sync" and not model.idle(step.path):
                found.append(number)
            if step.what not in {"may", "must"}:
                model.do(step)
        return found

    def _begin(self) -> Model:
        model = Model()
        for step in self.before:
            if step.what not in {"may", "must", "sync"}:
                model.do(step)
        model.settle()
        return model

    def cuts(self, without: int | None = None) -> Iterator[Cut]:
        """Give every cut; with a sync left out, only those after it."""
        model, allowed = self._begin(), dict(self.allowed)
        states: list[Tree] = list(model.states())
        if without is None:
            yield from (Cut(-1, tree, dict(allowed)) for tree in states)
        for number, step in enumerate(self.steps):
            if step.what in {"may", "must"}:
                key, value = step.value
                held = allowed.get(key, [None])
                allowed[key] = [*held, value] if step.what == "may" else [value]
                if step.what == "may":
                    continue
            elif number != without:
                model.do(step)
                states = []
            if without is None or number >= without:
                states = states or list(model.states())
                yield from (Cut(number, tree, dict(allowed)) for tree in states)
