"""Taking a class or a task out of a run, so that what is left is as if it had never been.

A task whose classes are all gone leaves a gap: its number, and so the seeds and the packs of the
others, stay. The last task, while the run keeps what the one before it left, is taken back instead:
the next one takes its number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeAlias

import torch
from jaxtyping import Float64
from safetensors.torch import save
from torch import Tensor

from edgecl.learning import run_files
from edgecl.learning.forgettable import Target
from edgecl.learning.forgotten import NAME, ORDER, Entry, Exactness, Forgotten, Pieces, task_id
from edgecl.learning.own_scores import table_without
from edgecl.learning.records import FORGOTTEN, LearnedTask, TaskRecord
from edgecl.learning.rewriting import Change
from edgecl.learning.runs import (
    CANARY,
    EVALUATION,
    EXAMPLES,
    HEADER,
    PART,
    RECORD,
    SCORES,
    STATE,
    SUMS,
    Run,
    RunError,
    json_bytes,
)
from edgecl.methods import AnyMethod
from edgecl.program.classifiers.base import Summing
from edgecl.program.classifiers.ridge import Ridge
from edgecl.program.classifiers.task_sums import After, TaskSums
from edgecl.program.learned import Tensors
from edgecl.streams.protocols import PROTOCOLS
from edgecl_deploy.format import hidden, write_tensors
from edgecl_deploy.manifest.names import folded
from edgecl_deploy.unknown.table import FEW, POOL, Table

# What a subtracted Gram matrix may be below zero by, over its mean eigenvalue: rounding.
NEGATIVE = 1e-9
Shown: TypeAlias = Float64[Tensor, "n m"]
CLOSE = 1e-6  # of the sum of a class: its images against what the run holds of them


@dataclass(frozen=True)
class Report:
    """What was done, and what is left to do.

    Attributes:
        entry: of forgotten.json.
        smallest: the smallest eigenvalue of a Gram matrix from which images were subtracted, over
            the mean one; None where none was.
        erased: what was erased in the run.
    """

    entry: Entry
    erased: tuple[str, ...]
    smallest: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forget(
    run: Run, method: AnyMethod, target: Target, shown: Mapping[int, Shown] | None = None
) -> Report:
    """Take the target out of a run: all of it, or nothing where that fails.

    Args:
        method: of the run.
        target: that it can do without, see `check_can`.
        shown: of a task that keeps other classes, what the sums are of, of the images of the class
            that goes; for a method that keeps sums.
    """
    with run.writing():
        before = tuple(task_id(run, task) for task in range(len(run)))
        truncates = target.is_last and run.undoable() > 0
        if truncates:
            work = Work(run, method, target)
            tasks: dict[int, Change | None] = {len(run) - 1: None}
        else:
            work = Work(run, method, target, dict(shown or {}))
            tasks = dict(work.changes())
        tasks = {**work.earlier(), **tasks}
        salt_of = Forgotten.of(run) or Forgotten()
        digests = tuple(hidden(name, salt_of.salt) for name in target.names)
        entry = Entry(
            kind="class" if target.task is None else "task",
            tasks=target.touched,
            digests=digests,
            method=method.name,
            exactness=work.exactness,
            before=before,
            after=(),
            commands=tuple(commands(target)),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        after = ids_after(run, work, tasks, before)
        root: dict[str, bytes | None] = dict.fromkeys((
            run_files.NAME,
            "metrics.json",
            "report.html",
        ))
        root[HEADER] = json_bytes(work.header(len(run) - truncates))
        root[NAME] = salt_of.after(replace(entry, after=after)).to_bytes()
        run.rewrite(tasks, root)
    return Report(replace(entry, after=after), tuple(work.erased), work.smallest)


def gap(run: Run) -> LearnedTask:
    """Return a task that was never learned: the next one keeps its number and its seed."""
    state = run.state()
    record = TaskRecord(
        task=len(run),
        name=FORGOTTEN,
        classes=(),
        known=(),
        class_images=(),
        skipped=(),
        seconds=0.0,
        state_bytes=sum(each.nbytes for each in state.values()),
        state=tuple(sorted(state)),
    )
    return LearnedTask(record, {}, state, torch.zeros(0, 1, 1, 3, dtype=torch.uint8))


def ids_after(
    run: Run, work: "Work", tasks: Mapping[int, Change | None], before: Sequence[str | None]
) -> tuple[str | None, ...]:
    """Return the id of every task that is left, those that change by what they will be."""
    found = []
    for task, old in enumerate(before):
        if task in tasks and tasks[task] is None:
            continue
        new = task in tasks and task in work.parts
        own = Pieces(work.records[task], work.parts[task], work.tables[task]) if new else None
        found.append(task_id(run, task, own) if new else old)
    return tuple(found)


def commands(target: Target) -> list[str]:
    """Return the commands that do it again, and those that bring it to devices."""
    what = "--class NAME" if target.task is None else f"--task {target.task}"
    return [
        f"edgecl forget RUN {what}",
        "edgecl export pack RUN -o PACKS",
        "edgecl export release PACKS --bundle BUNDLE --number N -o RELEASE",
        "edgecl channel publish RELEASE --bundle BUNDLE --channel CHANNEL --min-release N --purge",
        "edgecl channel prune",
    ]


@dataclass(eq=False)
class Work:
    """The new files of the tasks from the first one on that had the target.

    Attributes:
        erased: what they leave out.
        smallest: see `Report`.
        reasons: why they are not bit for bit those of a run that never saw it.
    """

    run: Run
    method: AnyMethod
    target: Target
    shown: Mapping[int, Shown] = field(default_factory=dict)
    erased: list[str] = field(default_factory=list)
    smallest: float | None = None
    reasons: set[Exactness] = field(default_factory=set)
    records: dict[int, TaskRecord] = field(default_factory=dict)
    parts: dict[int, Tensors] = field(default_factory=dict)
    tables: dict[int, Table | None] = field(default_factory=dict)

    @property
    def exactness(self) -> str:
        """Return how equal what is left is to a run that never saw the target."""
        return ", ".join(sorted(self.reasons, key=ORDER.index)) or "bitwise"

    def earlier(self) -> dict[int, Change]:
        """Return the figures of the tasks before that are not of what came later."""
        found: dict[int, Change] = {}
        first = min(self.target.touched)
        for task in range(first):
            before = self.run.evaluation(task)
            if before is None:
                continue
            ahead = before.ahead if task + 1 < first else None
            left = replace(before, ahead=ahead, oracle=None, open=None, unknown=None)
            if left != before:
                found[task] = {EVALUATION: json_bytes(left.to_json())}
                self.erased.append(f"tasks/{task:03d}: figures of images and names of later tasks")
        return found

    def changes(self) -> dict[int, Change]:
        """Return the files of every task that change."""
        first = min(self.target.touched)
        rows = [
            tuple(record.classes[row] for row in kept)
            for record, kept in zip(self.target.records, self.target.kept, strict=True)
        ]
        solved = self._solved(rows)
        self._tables()
        self._add_reasons()
        found: dict[int, Change] = {}
        for task in range(first, len(rows)):
            former = {name for names in rows[:task] for name in names}
            record = without_rows(self.target.records[task], self.target.kept[task], former)
            part = self._part(task) if record.classes else {}
            files = self._files(task)
            if task in solved:
                new, state, sums = solved[task]
                part |= new if record.classes else {}
                record = replace(
                    record,
                    state=tuple(sorted(state)),
                    state_bytes=sum(each.nbytes for each in state.values()),
                )
                there = bool(self.run.state_bytes(task))
                files[STATE] = save(contiguous(state)) if there and state else None
                files[SUMS] = save(contiguous(sums.to_tensors())) if record.classes else None
            table = self.tables[task]
            if table is not self.run.scores(task):
                files[SCORES] = None if table is None else write_tensors(table.to_tensors())
            self.records[task], self.parts[task] = record, part
            files[PART] = save(contiguous(part))
            files[RECORD] = json_bytes(record.to_json())
            found[task] = files
        return found

    def _tables(self) -> None:
        """Make the tables of own scores without the rows that go.

        That of a task of few images is filled up by the one before it, which may have changed.
        """
        former: list[Table] = []
        for task, kept in enumerate(self.target.kept):
            table = self.run.scores(task)
            touched = task in self.target.touched
            filled = table is not None and int(table.count[table.count >= FEW].sum()) < POOL
            later = task > min(self.target.touched) and filled
            if table is not None and kept and (touched or later):
                table, exact = table_without(table, kept, former)
                self.reasons |= set() if exact else {"heads bitwise"}
            self.tables[task] = table if kept else None
            former += [] if table is None or not kept else [table]

    def _part(self, task: int) -> Tensors:
        """Return a task's tensors without the rows that go."""
        kept = torch.tensor(self.target.kept[task])
        declared = self.method.program.declare()
        part = dict(self.run.part(task))
        for name, tensor in part.items():
            if declared[name].concat_axis == "c":
                part[name] = tensor.index_select(declared[name].axis_names.index("c"), kept)
        return part

    def _files(self, task: int) -> dict[str, bytes | None]:
        """Return what else of a task had the target."""
        record, kept = self.target.records[task], self.target.kept[task]
        files: dict[str, bytes | None] = {EVALUATION: json_bytes(None)}
        self.erased.append(f"tasks/{task:03d}: figures and pictures of test images")
        if task not in self.target.touched:
            return files
        origins = {record.origin[row] for row in kept}
        stored = self.run.pictures(task)
        files[EXAMPLES] = json_bytes({k: v for k, v in stored.items() if k in origins})
        canary, of_row = self.run.canary(task), self.run.canary_rows(task)
        stay = torch.tensor([row in kept for row in of_row], dtype=torch.bool)
        if len(of_row) < len(canary):
            stay = torch.zeros(len(canary), dtype=torch.bool)
        moved = [kept.index(row) for row in of_row if row in kept]
        rows = torch.tensor(moved, dtype=torch.int64)
        files[CANARY] = save({"images": canary[stay].contiguous(), "rows": rows})
        files[run_files.NAME] = None
        self.erased.append(f"tasks/{task:03d}: rows, pictures, names and digests of files")
        if not stay.all():
            self.erased.append(f"tasks/{task:03d}: the canary")
        return files

    def _solved(
        self, rows: Sequence[tuple[str, ...]]
    ) -> dict[int, tuple[Tensors, Tensors, TaskSums]]:
        """Return the part, the state and the own sums of every task, by the sums of what is left.

        Args:
            rows: of each task, the classes of the class rows that stay.
        """
        classifier = self.method.program.classifier
        if self.method.forgets != "sums":
            return {}
        assert isinstance(classifier, Summing)
        found: dict[int, tuple[Tensors, Tensors, TaskSums]] = {}
        state: Tensors = {}
        own = TaskSums(torch.empty(0, 0).double(), torch.empty(0, 0).double())
        images, first = 0, min(self.target.touched)
        for task, names in enumerate(rows):
            part: Tensors = {}
            if names:
                own = self._own_sums(task)
                record, kept = self.target.records[task], self.target.kept[task]
                images += sum(record.class_images[row] for row in kept)
                mixed = task in self.target.mixed
                if task >= first and isinstance(classifier, Ridge):
                    stays = classifier.stays(state, own, changed=mixed)
                    self.reasons |= {"lambda kept"} if stays else set()
                class_rows = tuple(name for before in rows[: task + 1] for name in before)
                result = classifier.refit(state, own, After(class_rows, images, self.moves))
                part, state = result.part, result.state
                own = TaskSums.of_tensors(result.sums) if result.sums else own
            found[task] = part, state, own
        return found

    def _add_reasons(self) -> None:
        """Add what is rounded where a task keeps other classes than those that go."""
        if self.target.mixed and self.method.needs_text:
            self.reasons.add("1e-6")
        if self.target.mixed and self.method.forgets == "sums":
            self.reasons.add("1e-10")

    @property
    def moves(self) -> bool:
        return PROTOCOLS[self.run.header.get("protocol", "cil")].of_stream == "cil"

    def _own_sums(self, task: int) -> TaskSums:
        """Return the sums of a task without those of a class that goes.

        Raises:
            RunError: if the images are not those that were learned.
        """
        sums = self.run.sums(task)
        assert sums is not None
        if task not in self.target.mixed:
            return sums
        kept = self.target.kept[task]
        gone = [row for row in range(sums.moments.shape[1]) if row not in kept]
        rows = self.shown[task]
        wanted = sums.moments[:, gone].sum(dim=1)
        images = sum(self.target.records[task].class_images[row] for row in gone)
        off = float((rows.sum(dim=0) - wanted).norm() / wanted.norm())
        if len(rows) != images or off > CLOSE:
            raise RunError(
                f"--images must hold the {images} images that {self.target.what()} was learned "
                f"from, got {len(rows)} whose sum is off by {off:.1e}. Give those images, or "
                "forget the whole task with --task."
            )
        gram = sums.gram - rows.T @ rows
        values = torch.linalg.eigvalsh(gram)
        self.smallest = float(values[0] / values.mean())
        if self.smallest < -NEGATIVE:
            raise RunError(
                f"Sums without a class must be sums of images, got an eigenvalue of "
                f"{self.smallest:.1e} of their mean. Forget the whole task with --task, or train "
                "again."
            )
        return replace(sums, gram=gram, moments=sums.moments[:, list(kept)])

    def header(self, count: int) -> dict[str, Any]:
        """Return run.json without the names that are gone.

        Args:
            count: of the tasks, gaps included.
        """
        header = dict(Run.open(self.run.path).header)
        gone = set(self.target.names)
        new = header.get("names", {})
        gone |= {old for old, name in new.items() if name in gone}
        header["names"] = {old: name for old, name in new.items() if name not in gone}
        header["stream_tasks"] = header["left_at"] = min(header.get("stream_tasks", 0), count)
        for name in ("stream", "recipe"):
            if name in header and mentions(header[name], {folded(each) for each in gone}):
                header[name] = None
                self.erased.append(f"run.json: {name}, which had the name")
        self.erased.append("files.json.gz, metrics.json and report.html; what is left of the "
                           "figures is written again")  # fmt: skip
        return header


def without_rows(record: TaskRecord, kept: Sequence[int], former: set[str]) -> TaskRecord:
    """Return a task's record with some of its class rows only.

    Args:
        former: the classes of the tasks before it.
    """
    whole = len(kept) == len(record.classes)
    classes = tuple(record.classes[row] for row in kept)
    gone = {folded(name) for name in {*record.classes, *record.origin} - {*classes}}
    named = folded(record.name) in gone
    known = tuple(dict.fromkeys(name for name in classes if name in former))
    return replace(
        record,
        name=FORGOTTEN if not kept else f"task_{record.task:02d}" if named else record.name,
        classes=classes,
        known=known,
        class_images=tuple(record.class_images[row] for row in kept),
        skipped=record.skipped if whole else (),
        constant=record.constant if whole else (),
        moved=tuple(name for name in record.moved if name in known),
        learned_as=tuple(record.learned_as[row] for row in kept if record.learned_as),
        texts=tuple(record.texts[row] for row in kept if record.texts),
        templates=record.templates if kept else (),
        sources=record.sources if kept else (),
    )


def mentions(value: object, gone: set[str]) -> bool:
    """Return whether a name is a text in a JSON value, or a part of a path in it."""
    if isinstance(value, dict):
        return any(mentions(each, gone) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(mentions(each, gone) for each in value)
    return isinstance(value, str) and not gone.isdisjoint(
        map(folded, {value, *value.replace("\\", "/").split("/")})
    )


def contiguous(tensors: Tensors) -> Tensors:
    """Return tensors as a file takes them."""
    return {name: each.contiguous() for name, each in tensors.items()}
