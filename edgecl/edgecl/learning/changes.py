"""Other names for the classes of a run; no tensor changes.

Classes are rows of the classifier (ADR 0009), so a name is a label of rows: one class gets another
name, or the rows of two classes get one. `Run.rename` stores it, all of it or nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecl.backbones.text_encoder import ClassText
from edgecl.learning.records import TaskRecord, renamed
from edgecl.learning.runs import Run, RunError
from edgecl.streams import Stream, Task
from edgecl_deploy.format import live_rows
from edgecl_deploy.manifest import names

Rows = list[list[str]]


@dataclass(frozen=True)
class ClassFacts:
    """A class of a run.

    Attributes:
        tasks: that brought a row of it.
        images: that it was learned from.
        learned_as: its names in the images, where they are others.
    """

    name: str
    tasks: tuple[int, ...]
    rows: int
    images: int
    learned_as: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "rows": self.rows,
            "images": self.images,
            "learned_as": list(self.learned_as),
        }


def classes_of(records: Sequence[TaskRecord]) -> list[ClassFacts]:
    """Return the classes of a run, in the order in which they came."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for record in records:
        rows = zip(record.classes, record.class_images, record.origin, strict=True)
        for name, images, origin in rows:
            found.setdefault(name, []).append((record.task, images, origin))
    return [
        ClassFacts(
            name=name,
            tasks=tuple(dict.fromkeys(task for task, _, _ in rows)),
            rows=len(rows),
            images=sum(images for _, images, _ in rows),
            learned_as=tuple(dict.fromkeys(origin for _, _, origin in rows if origin != name)),
        )
        for name, rows in found.items()
    ]


def rename_class(run: Run, old: str, new: str) -> str:
    """Give a class another name; return the form in which it is stored.

    Raises:
        RunError: if there is no such class, or the name is taken or none for a pack.
    """
    wrong = names.fault(new)
    if wrong is not None:
        raise RunError(
            f"A class must have {names.RULE}, got {names.quoted(new)}: {wrong}. Choose another."
        )
    new = names.canonical(new)
    with run.writing():
        rows = rows_of(run)
        old = known_class(run, rows, old)
        for other in {name for task in rows for name in task} - {old}:
            if names.folded(other) == names.folded(new):
                raise RunError(
                    f"The new name of {names.quoted(old)} must be free, got "
                    f"{names.both(other, new)}, which are one name. Choose another, or put the "
                    f"two together with `edgecl classes merge`."
                )
        store(run, rows, old, new)
    return new


def merge_classes(run: Run, one: str, into: str) -> None:
    """Let two classes be one: the rows of both have the name of the second.

    Raises:
        RunError: if a class is not there, or both are one.
    """
    with run.writing():
        rows = rows_of(run)
        one, into = known_class(run, rows, one), known_class(run, rows, into)
        if one == into:
            raise RunError(f"Two classes must be given, got {names.quoted(one)} twice.")
        store(run, rows, one, into)


def rows_of(run: Run) -> Rows:
    """Return the name of every class row, by task."""
    return [list(classes) for classes in run.class_rows()]


def known_class(run: Run, rows: Rows, name: str) -> str:
    """Return a class of the run by its name, however it is spelled.

    Raises:
        RunError: if there is none.
    """
    known = {each for task in rows for each in task}
    if name in known:
        return name
    if names.canonical(name) in known:
        return names.canonical(name)
    raise RunError(
        f"The class must be one of {run.path}, got {names.quoted(name)}. "
        f"`edgecl classes list {run.path}` shows them."
    )


def store(run: Run, rows: Rows, old: str, new: str) -> None:
    """Store the new name of a class.

    Raises:
        RunError: if a row would count that did not, or the other way round.
    """
    after_rows = [[new if name == old else name for name in task] for task in rows]
    records = run.records()
    after = [renamed(record, after_rows, record.task) for record in records]
    if live_rows(records) != live_rows(after):
        raise RunError(
            "Only classes whose rows all count can be merged, got one that was moved by more "
            "images of it. Take these tasks back with `edgecl undo`, or learn the images of both "
            "classes under one name."
        )
    of_images: dict[str, str] = run.setting("names", {})
    held = {name for task in rows for name in task}
    for name in {old, new} & held - of_images.keys() - set(of_images.values()):
        of_images = {**of_images, name: name}
    of_images = {name: new if each == old else each for name, each in of_images.items()}
    run.rename(old, new, after_rows, of_images)


def read_as_before(run: Run, task: Task) -> Task:
    """Return a new task whose known classes are read by a text tower as they were before.

    Templates are those of a whole task: it has some where all its classes were read in them.
    """
    read = {
        name: text
        for record in run.records()
        for name, text in zip(record.classes, record.read_as, strict=True)
    }
    as_now = [read.get(name, ClassText(name)) for name in task.classes]
    texts = tuple(text.name for text in as_now)
    templates = {text.templates for text in as_now}
    return replace(
        task,
        texts=() if texts == task.classes else texts,
        templates=templates.pop() if len(templates) == 1 else (),
    )


def _renamed(task: Task, new: Mapping[str, str]) -> Task:
    """Return a task of a stream under new names; a text that is no class's name stays."""
    texts: dict[str, str] = {}
    for name, text in zip(task.classes, task.read_names, strict=True):
        now = new.get(name, name)
        texts.setdefault(now, now if text == name else text)
    return replace(task, classes=tuple(texts), texts=tuple(texts.values()) if task.texts else ())


def under_new_names(run: Run, stream: Stream) -> Stream:
    """Return a stream whose classes have the names that the run has for them now.

    Raises:
        RunError: if a finished task is not the stream's, or a class to come has a name that
            another class got.
    """
    new: dict[str, str] = run.setting("names", {})
    tasks, held_out = (
        tuple(_renamed(task, new) for task in each) for each in (stream.tasks, stream.held_out)
    )
    records = run.records()
    for task, record in zip(tasks, records, strict=False):
        if task.classes != tuple(dict.fromkeys(record.classes)):
            raise RunError(
                f"The finished tasks of {run.path} must be the stream's, got "
                f"{list(record.classes)} where {task.name} has {list(task.classes)}. Restore the "
                "stream's images, or begin a new run with --out; a task of another folder comes "
                "after the whole stream."
            )
    taken = {names.folded(name): old for old, name in new.items()}
    learned = {name for record in records for name in record.origin}
    for name in stream.classes:
        old = taken.get(names.folded(name))
        if name not in new and name not in learned and old is not None:
            raise RunError(
                f"A class of the stream that is to come must have a name of its own, got "
                f"{names.quoted(name)}, which {names.quoted(old)} was renamed to. Rename that "
                f"class again with `edgecl classes rename {run.path}`."
            )
    classes = tuple(new.get(name, name) for name in stream.classes)
    if not new:
        return stream
    return replace(stream, classes=classes, tasks=tasks, held_out=held_out)
