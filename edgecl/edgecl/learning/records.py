"""What learning passes on, and what a run stores of each finished task.

A stored record has one reader and one writer. Values only: `runs.Run` reads and writes the files.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones.text_encoder import ClassText, class_texts
from edgecl.learning.class_metrics import ClassFigures
from edgecl.learning.exemplars import Memory, split_state
from edgecl.learning.fields import (
    Fields,
    count,
    listed,
    named,
    optional,
    refuse,
    seconds,
    share,
    text,
)
from edgecl.learning.unknown_figures import UnknownFigures
from edgecl.program.learned import Tensors
from edgecl_deploy.format import live_rows
from edgecl_deploy.unknown.table import Table

Shares: TypeAlias = tuple[float | None, ...]  # None of a task without test images
Counts: TypeAlias = tuple[tuple[int, ...], ...]
FORGOTTEN = "forgotten"  # the name of a task that left a gap
POLICY_STATE = "policy."  # how the names of the tensors begin that policies keep in the state
TEXTS = (
    "texts",
    "templates",
    "sources",
)  # fields of task.json that are there only where they hold something


@dataclass(frozen=True)
class TaskRecord:
    """task.json: how one task was learned, or that it was forgotten: a gap, without classes.

    Attributes:
        task: its position in the run, from 0.
        classes: of its class rows, in their order.
        known: those of its classes that earlier tasks had.
        class_images: how many images of each class were learned.
        skipped: one line for every image that could not be read.
        seconds: of learning.
        state_bytes: of what is stored for the next task.
        exemplars: training images among it.
        state: the names of the tensors in state.safetensors; none where there is no such file.
        moved: those of `known` whose class rows of earlier tasks no longer count.
        constant: one line for every image that has one colour after preprocessing.
        learned_as: the names of the class rows in the images; none where nobody changed them since.
        texts: by which a text tower reads the class rows; none where by their names.
        templates: in which it reads them; none where in those of the method.
        sources: what the sums are of that the task was learned from; none where it had images.
    """

    task: int
    name: str
    classes: tuple[str, ...]
    known: tuple[str, ...]
    class_images: tuple[int, ...]
    skipped: tuple[str, ...]
    seconds: float
    state_bytes: int = 0
    exemplars: int = 0
    state: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    learned_as: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        gap = not self.classes and self.name == FORGOTTEN
        if not (gap or self.classes) or len(set(self.origin)) < len(self.origin):
            refuse("task.classes", "names of one class or more, each once", self.origin)
        if len(self.origin) != len(self.classes):
            refuse("task.learned_as", "one name for each class row, or none", self.learned_as)
        if not set(self.known) <= set(self.classes):
            refuse("task.known", "among the task's classes", self.known)
        if not set(self.moved) <= set(self.known):
            refuse("task.moved", "among the known classes", self.moved)
        if self.texts and len(self.texts) != len(self.classes):
            refuse("task.texts", "one text for each class row, or none", self.texts)
        if len(self.class_images) != len(self.classes):
            refuse("task.class_images", "one count for each class", self.class_images)

    @property
    def origin(self) -> tuple[str, ...]:
        """Return the names of its class rows in the images; `classes` may have others since."""
        return self.learned_as or self.classes

    @property
    def train_images(self) -> int:
        """Return how many images were learned."""
        return sum(self.class_images)

    @property
    def read_as(self) -> tuple[ClassText, ...]:
        """Return how a text tower reads the class rows."""
        return class_texts(self.texts or self.classes, self.templates)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        return {key: value[key] for key in value if value[key] or key not in TEXTS}

    @classmethod
    def from_json(cls, value: object) -> "TaskRecord":
        """Read task.json; what is no record is a RecordError."""
        fields = Fields(value, "task")
        record = cls(
            task=fields.take("task", count),
            name=fields.take("name", text),
            classes=fields.take("classes", listed(text)),
            known=fields.take("known", listed(text)),
            class_images=fields.take("class_images", listed(count)),
            skipped=fields.take("skipped", listed(text)),
            seconds=fields.take("seconds", seconds),
            state_bytes=fields.take("state_bytes", count),
            exemplars=fields.take("exemplars", count),
            state=fields.take("state", listed(text)),
            moved=fields.take("moved", listed(text)),
            constant=fields.take("constant", listed(text)),
            learned_as=fields.take("learned_as", listed(text)),
            texts=fields.give("texts", listed(text), ()),
            templates=fields.give("templates", listed(text), ()),
            sources=fields.give("sources", listed(text), ()),
        )
        fields.done()
        return record


def renamed(record: TaskRecord, rows: Sequence[Sequence[str]], task: int) -> TaskRecord:
    """Return a task's record with other names of its class rows.

    What a text tower reads changes with the name, unless it is another text.

    Args:
        rows: of each task of the run, the names of its class rows.
    """
    classes = tuple(rows[task])
    new = dict(zip(record.classes, classes, strict=True))
    former = {name for names in rows[:task] for name in names}
    return replace(
        record,
        classes=classes,
        known=tuple(dict.fromkeys(name for name in classes if name in former)),
        moved=tuple(dict.fromkeys(new.get(name, name) for name in record.moved)),
        learned_as=() if classes == record.origin else record.origin,
        texts=tuple(
            now if text == before else text
            for before, now, text in zip(record.classes, classes, record.texts, strict=False)
        ),
    )


@dataclass(frozen=True)
class HeldOut:
    """The test images of a task that is never trained, after one task.

    Attributes:
        accuracy: over all classes learned so far.
        images: how many were tested.
    """

    name: str
    accuracy: float | None
    images: int

    @classmethod
    def from_json(cls, value: object, where: str) -> "HeldOut":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            name=fields.take("name", text),
            accuracy=fields.take("accuracy", optional(share)),
            images=fields.take("images", count),
        )
        fields.done()
        return found


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json: the test images of all tasks after one task.

    Attributes:
        accuracy: of each task learned so far, over all classes learned so far.
        images: of each task learned so far, how many were tested.
        confusion: counts, rows the true task, columns the task that owns the predicted class row.
        match: how often each entry of the bank was matched; empty where nothing is matched.
        matched: as `confusion`, columns the task that was matched; None where no matcher chooses
            among tasks.
        oracle: of each task of the stream, learned or not, the accuracy with its own classes as the
            only candidates (MTIL). As `open`, of methods that read class names; else None.
        open: of each task of the stream, the accuracy over the classes of all its tasks.
        classes: the figures of each class learned so far, over the test images of all tasks.
        held_out: of each task of the stream that is only tested.
        given: as `accuracy`, with the classes of the image's task as the only candidates; None of a
            run of a former release.
        ahead: the same of the next task, before it is learned; None where not all of its classes
            can be answered.
        unknown: how well images of no class are told; None where features do not last.
    """

    accuracy: Shares
    images: tuple[int, ...]
    confusion: Counts
    match: dict[str, int]
    matched: Counts | None = None
    oracle: Shares | None = None
    open: Shares | None = None
    classes: ClassFigures | None = None
    held_out: tuple[HeldOut, ...] = ()
    given: Shares | None = None
    ahead: float | None = None
    unknown: UnknownFigures | None = None

    def __post_init__(self) -> None:
        tasks = len(self.accuracy)
        if not tasks or len(self.images) != tasks:
            refuse(
                "evaluation.images",
                f"one count for each of the {tasks} accuracies, and one at least",
                self.images,
            )
        if self.given is not None and len(self.given) != tasks:
            refuse("evaluation.given", f"shares of {tasks} tasks", self.given)
        for name, table in (("confusion", self.confusion), ("matched", self.matched)):
            if table is not None and not is_square(table, tasks):
                refuse(f"evaluation.{name}", f"a table of {tasks} x {tasks} counts", table)
        for index in self.match:
            if not index.isdecimal():
                refuse("evaluation.match", "counts by whole numbers", index)
        by_name = [shares for shares in (self.oracle, self.open) if shares is not None]
        if len(by_name) == 1 or any(len(shares) < tasks for shares in by_name):
            refuse(
                "evaluation.oracle and .open",
                f"both null, or shares of {tasks} tasks at least",
                (self.oracle, self.open),
            )

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        for name in ("held_out", "unknown"):
            if not value[name]:
                del value[name]
        return value

    @classmethod
    def from_json(cls, value: object) -> "Evaluation":
        """Read evaluation.json; what is no evaluation is a RecordError."""
        fields = Fields(value, "evaluation")
        evaluation = cls(
            accuracy=fields.take("accuracy", listed(optional(share))),
            images=fields.take("images", listed(count)),
            confusion=fields.take("confusion", listed(listed(count))),
            match=fields.take("match", named(count)),
            matched=fields.take("matched", optional(listed(listed(count)))),
            oracle=fields.take("oracle", optional(listed(optional(share)))),
            open=fields.take("open", optional(listed(optional(share)))),
            classes=fields.take("classes", optional(ClassFigures.from_json)),
            held_out=fields.give("held_out", listed(HeldOut.from_json), ()),
            given=fields.give("given", optional(listed(optional(share))), None),
            ahead=fields.give("ahead", optional(share), None),
            unknown=fields.give("unknown", optional(UnknownFigures.from_json), None),
        )
        fields.done()
        return evaluation


def is_square(table: Sequence[Sequence[object]], size: int) -> bool:
    """Return whether a table has so many rows of so many entries."""
    return len(table) == size and all(len(row) == size for row in table)


@dataclass(frozen=True, eq=False)
class LearnedTask:
    """What learning one task returns; no run holds it before it is committed.

    Attributes:
        part: the tensors that the task adds or replaces; what its pack holds.
        state: what the next task needs and no pack holds, remembered images included.
        canary: training images for the self-test of devices.
        examples: a training image by class, uint8 [h, w, 3], for the small pictures of reports.
        sums: of the images of the task alone, where the run keeps them.
        scores: of the task's images for their own class; None where features do not last.
        canary_rows: of which class row of the task each canary is.
    """

    record: TaskRecord
    part: Tensors
    state: Tensors
    canary: UInt8[Tensor, "n h w 3"]
    examples: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sums: Tensors = field(default_factory=dict)
    scores: Table | None = None
    canary_rows: Int[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0).long())

    def __post_init__(self) -> None:
        names = tuple(sorted(self.state))
        if self.record.state != names:
            refuse("task.state", f"the names of the state's tensors, {names}", self.record.state)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the finished tasks have learned: all that the next one is given of them.

    Attributes:
        parts: of each task, the tensors that it added or replaced.
        records: of each task, how it was learned.
        state: what the method left for the next task.
        memory: the training images that the run remembers, if there are.
        scores: of each task, those of its images for their own class, where it has them.
    """

    parts: tuple[Tensors, ...]
    records: tuple[TaskRecord, ...]
    state: Tensors
    memory: Memory | None = None
    scores: tuple[Table | None, ...] = ()

    @property
    def class_rows(self) -> tuple[tuple[str, ...], ...]:
        """Return, of each task, the classes of the class rows that it added to the classifier."""
        return tuple(record.classes for record in self.records)

    @property
    def read_as(self) -> tuple[ClassText, ...]:
        """Return how a text tower reads the class of every class row."""
        return tuple(text for record in self.records for text in record.read_as)

    @property
    def live_rows(self) -> tuple[bool, ...]:
        """Return whether each class row counts; a later task may have moved its class."""
        return live_rows(self.records)

    @property
    def row_images(self) -> tuple[int, ...]:
        """Return of how many images each class row is; 0 where it no longer counts."""
        names: list[str] = []
        images: list[int] = []
        for record in self.records:
            held = dict.fromkeys(record.moved, 0)
            for row, name in enumerate(names):
                if name in held:
                    held[name] += images[row]
                    images[row] = 0
            names += record.classes
            for name, each in zip(record.classes, record.class_images, strict=True):
                images.append(each + held.pop(name, 0))
        return tuple(images)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class of every class row; one that came back owns several."""
        return tuple(name for names in self.class_rows for name in names)

    def after(self, task: LearnedTask) -> "Knowledge":
        """Return what is known when one more task is learned."""
        memory, state = split_state(task.state)
        return Knowledge(
            (*self.parts, task.part), (*self.records, task.record), state, memory,
            (*self.scores, task.scores),
        )  # fmt: skip


def split_policies(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return what policies keep, and the rest: a method's own."""
    kept = {name: each for name, each in tensors.items() if name.startswith(POLICY_STATE)}
    return kept, {name: each for name, each in tensors.items() if name not in kept}
