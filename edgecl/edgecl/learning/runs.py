"""The run folder: what a learner knows, one folder per task, written whole or not at all.

RUN/run.json                      method, configuration, backbone, stream, seed, augmentation; how
                                  many tasks back `edgecl undo` can go (`keep`)
RUN/tasks/000/learned.safetensors the task's part: what its pack holds, in float32
RUN/tasks/000/task.json           `records.TaskRecord`: classes, images, seconds
RUN/tasks/000/canary.safetensors  one preprocessed training image, for the self-test of devices
RUN/tasks/000/state.safetensors   what the next task needs and no pack holds; of the newest task and
                                  `keep` former ones, and only where a method leaves any
RUN/tasks/000/sums.safetensors    the sums over the images of the task, where the head is made of
                                  sums and the run keeps them (`classifiers.task_sums`)
RUN/tasks/000/unknown.safetensors the scores of its images for their own class, where features last
RUN/tasks/000/examples.json       a small picture of a training image of each class, for reports
RUN/tasks/000/evaluation.json     `records.Evaluation` of the tasks so far; null without test images
RUN/files.json.gz                 `run_files.RunFiles` of the stream, where it is a folder
RUN/tasks/000/files.json.gz       the same of a folder that was learned as one task
RUN/metrics.json, RUN/report.html computed from the above
RUN/.lock, RUN/.reading           locks: of whoever changes the run, and of whoever reads it whole
RUN/.names.json                   class names that are being changed (`learning.changes`)
RUN/.rewritten                    tasks that are being replaced (`learning.rewriting`)
RUN/forgotten.json                what was forgotten, without a name (`learning.forgotten`)

One process at a time changes a run, from counting its tasks to the end of what it writes
(`Run.writing`). A new task needs no more: a reader counts the tasks once. What takes a task away or
changes its record also waits for those that read the run whole (`Run.reading`).
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.learning import rewriting, run_files
from edgecl.learning.exemplars import split_state
from edgecl.learning.fields import RecordError, named
from edgecl.learning.pictures import picture, thumbnail
from edgecl.learning.records import Evaluation, Knowledge, LearnedTask, TaskRecord, renamed
from edgecl.learning.rewriting import Change
from edgecl.learning.run_files import RunFiles
from edgecl.program.classifiers.task_sums import TaskSums
from edgecl.program.learned import Tensors
from edgecl.streams import Files
from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import read_tensors, write_tensors
from edgecl_deploy.manifest import lock, names
from edgecl_deploy.manifest.whole import TEMPORARY, sync, whole_folder, write_whole
from edgecl_deploy.unknown.table import Table

FORMAT = "edgecl-run/3"
HEADER = "run.json"
LOCK = ".lock"
READING = ".reading"
NAMES = ".names.json"
PART = "learned.safetensors"
CANARY = "canary.safetensors"
STATE = "state.safetensors"
SUMS = "sums.safetensors"
SCORES = "unknown.safetensors"
RECORD = "task.json"
EVALUATION = "evaluation.json"
EXAMPLES = "examples.json"
KEEP = 1  # tasks that can be taken back where nobody chose

log = logging.getLogger("edgecl")
T = TypeVar("T")


class RunError(EdgeclError):
    """A run folder cannot be made, read or continued."""


def drop(path: Path) -> None:
    """Remove a file that may be gone already."""
    path.unlink(missing_ok=True)


def json_bytes(value: object) -> bytes:
    """Return a JSON value as people read it."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate gets JSON's own escape


class Run:
    """One run folder.

    Attributes:
        header: run.json.
        wait: for another command that changes the run; else it is a RunError.
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path = path
        self.header = header
        self.wait = True
        self._writing = 0

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any], *, wait: bool = True) -> "Run":
        """Start a run in an empty or absent folder; one that holds something is a RunError.

        Args:
            wait: see `Run.wait`.
        """
        check_empty(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, {"format": FORMAT, **header})
        run.wait = wait
        with run.writing():
            check_empty(path)
            write_whole(path / HEADER, json_bytes(run.header))
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run.

        Raises:
            RunError: if the folder is no run, or one of another format.
        """
        try:
            text = rewriting.file_of(path, HEADER).read_text(encoding="utf-8")
            header = json.loads(text)
        except (OSError, ValueError) as error:
            raise RunError(
                f"RUN must be a folder that `edgecl train --out` made, got {path} ({error}). "
                "Check the path."
            ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else type(header).__name__
            raise RunError(
                f"This release reads runs of the format {FORMAT}, got {found!r} in {path}. "
                "Use the release of edgecl that wrote it, or learn the stream again with "
                "`edgecl train --out`."
            )
        return cls(path, header)

    # -- who may change it

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that changes the run; the same `Run` may ask again inside.

        Another one that does, where this one is not to wait, is a RunError.
        """
        with ExitStack() as held:
            if not self._writing:
                self._enter(held, LOCK, "changes")
                self._clear()
            self._writing += 1
            try:
                yield
            finally:
                self._writing -= 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the run whole: no finished task goes or changes meanwhile; new ones may come."""
        with lock.locked(self.path / READING, shared=True, waiting=self._waiting("changes")):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Change finished tasks: also wait for those that read the run whole."""
        with self.writing(), self._read_by_none():
            yield

    @contextmanager
    def _read_by_none(self) -> Iterator[None]:
        with ExitStack() as held:
            self._enter(held, READING, "reads")
            yield

    def _enter(self, held: ExitStack, name: str, does: str) -> None:
        wait = float("inf") if self.wait else 0.0
        try:
            found = held.enter_context(
                lock.locked(self.path / name, wait=wait, waiting=self._waiting(does))
            )
        except lock.HeldError as error:
            raise RunError(
                f"One command at a time must change {self.path}, found that {error.holder} {does} "
                "it. Try again when it has ended, or leave --no-wait out."
            ) from error
        if not found:
            log.warning("%s has no locks here: run one command at a time on it", self.path)

    def _waiting(self, does: str) -> Callable[[str], None]:
        def say(holder: str) -> None:
            log.warning("waiting for %s, which %s %s", holder, does, self.path)

        return say

    def _clear(self) -> None:
        """Finish what a killed process began, and remove what it did not finish."""
        if rewriting.begun(self.path):
            with self._read_by_none():
                self._finish_rewriting()
        if (self.path / NAMES).exists():
            self._store_names()
        for folder in ("tasks/*", "tasks/*/*", "*"):
            for left in filter(is_left, self.path.glob(folder)):
                shutil.rmtree(left) if left.is_dir() else drop(left)

    # -- what it holds

    def file(self, name: str) -> Path:
        """Return the path of a file of the run itself as it counts; it need not be there."""
        return rewriting.file_of(self.path, name)

    def _folder(self, task: int) -> Path:
        return rewriting.folder_of(self.path, f"{task:03d}")

    def setting(self, name: str, default: T) -> T:
        """Return a field of run.json as it is now: another process may have changed it."""
        value = Run.open(self.path).header.get(name, default)
        return value if isinstance(value, type(default)) else default

    def change(self, **settings: object) -> None:
        """Change fields of run.json; for who may change the run."""
        header = {**Run.open(self.path).header, **settings}
        write_whole(self.path / HEADER, json_bytes(header))
        self.header.update(settings)

    def __len__(self) -> int:
        """Return the number of finished tasks."""
        count = 0
        while self._folder(count).is_dir():
            count += 1
        return count

    def record(self, task: int) -> TaskRecord:
        """Return how a task was learned."""
        changed = self._changed_names()  # first: it is gone once the records have the names
        record = self._json(task, RECORD, TaskRecord.from_json)
        return renamed(record, changed, task) if changed else record

    def _changed_names(self) -> list[list[str]]:
        """Return the class names of all tasks while they are being changed; else nothing."""
        try:
            text = (self.path / NAMES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [list(map(str, rows)) for rows in json.loads(text)["rows"]]

    def rename(
        self, old: str, new: str, rows: Sequence[Sequence[str]], of_images: Mapping[str, str]
    ) -> None:
        """Give the rows of a class another name, all of them or none.

        Args:
            rows: of each task, the names of its class rows from now on.
            of_images: the names of classes by those in the images of the run's stream, where they
                differ.
        """
        with self.alone():
            change = {"old": old, "new": new, "rows": rows, "names": of_images}
            write_whole(self.path / NAMES, json_bytes(change))
            self._store_names()

    def _store_names(self) -> None:
        """Write the names that were changed into the files of the tasks and run.json."""
        change = json.loads((self.path / NAMES).read_text(encoding="utf-8"))
        for task, record in enumerate(self.records()):
            write_whole(self._folder(task) / RECORD, json_bytes(record.to_json()))
            evaluation = self.evaluation(task)
            if evaluation is not None and evaluation.classes is not None:
                figures = evaluation.classes.renamed(change["old"], change["new"])
                under_new = replace(evaluation, classes=figures).to_json()
                write_whole(self._folder(task) / EVALUATION, json_bytes(under_new))
        self.change(names=change["names"])
        drop(self.path / NAMES)
        sync(self.path)

    def rewrite(self, tasks: Mapping[int, Change | None], root: Mapping[str, bytes | None]) -> None:
        """Replace tasks and files of the run, all of them or none (`rewriting`).

        Args:
            tasks: the files of each task that change; None for the newest task, if it goes.
            root: files of the run itself, None for one that goes.
        """
        with self.alone():
            rewriting.begin(self.path, {self._folder(t): files for t, files in tasks.items()}, root)
            self._finish_rewriting()

    def _finish_rewriting(self) -> None:
        rewriting.finish(self.path)
        self.header = Run.open(self.path).header

    def records(self) -> list[TaskRecord]:
        return [self.record(task) for task in range(len(self))]

    def evaluation(self, task: int) -> Evaluation | None:
        """Return the evaluation after a task; None if no test images were at hand."""

        def read(value: object) -> Evaluation | None:
            return None if value is None else Evaluation.from_json(value)

        return self._json(task, EVALUATION, read)

    def pictures(self, task: int) -> dict[str, str]:
        """Return a small picture of a training image by the name that the class has in them."""
        return self._json(task, EXAMPLES, lambda value: named(picture)(value, "examples"))

    def examples(self, task: int) -> dict[str, str]:
        """Return a small picture of a training image by class; see `pictures.thumbnail`."""
        found = self.pictures(task)
        record = self.record(task)
        shown: dict[str, str] = {}
        for old, name in zip(record.origin, record.classes, strict=True):
            if old in found:
                shown.setdefault(name, found[old])
        return shown

    def stream_files(self) -> RunFiles | None:
        """Return the files of the folder that the run's stream is; None where it is not one."""
        return RunFiles.read(self.file(run_files.NAME))

    def store_stream_files(self, files: RunFiles) -> None:
        """Store the files of the folder that the run's stream is."""
        write_whole(self.path / run_files.NAME, files.to_bytes())

    def accounts(self) -> tuple[Files, ...]:
        """Return what became of every file of the folders that were learned, the stream's first."""
        records, accounts = self.records(), []
        tested = [one.images if (one := self.evaluation(t)) else () for t in range(len(records))]
        if (found := self.stream_files()) is not None:
            own = [images for images in tested[: len(found.tasks)] if images]
            accounts.append(found.after(records, own[-1] if own else ()))
        for task, record in enumerate(records):
            if (found := RunFiles.read(self._folder(task) / run_files.NAME)) is not None:
                accounts.append(found.after([record], tested[task][task:]))
        return tuple(accounts)

    def _json(self, task: int, name: str, read: Callable[[object], T]) -> T:
        path = self._folder(task) / name
        try:
            return read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecordError) as error:
            raise damaged(path, error) from error

    def part(self, task: int) -> Tensors:
        """Return the tensors that a task added or replaced."""
        return self._tensors(task, PART)

    def scores(self, task: int) -> Table | None:
        """Return the scores of a task's images for their own class; None where it has none."""
        path = self._folder(task) / SCORES
        return self._table(path, len(self.record(task).classes)) if path.exists() else None

    def _table(self, path: Path, classes: int) -> Table:
        try:
            return Table.from_tensors(read_tensors(path.read_bytes()), classes)
        except (OSError, DeployError) as error:
            raise damaged(path, error) from error

    def canary(self, task: int) -> UInt8[Tensor, "n h w 3"]:
        """Return the images that a task stored for self-tests."""
        return self._tensors(task, CANARY)["images"]

    def canary_rows(self, task: int) -> list[int]:
        """Return of which class row of the task each is; nothing where an older version did it."""
        found: list[int] = self._tensors(task, CANARY).get("rows", torch.empty(0)).tolist()
        return found

    def present(self) -> list[int]:
        """Return the tasks that were not forgotten."""
        return [record.task for record in self.records() if record.classes]

    def state(self) -> Tensors:
        """Return what the newest task left for the next one, remembered images included."""
        newest = len(self) - 1
        if newest < 0 or not self.record(newest).state:
            return {}
        return self._tensors(newest, STATE)

    def state_bytes(self, task: int) -> int | None:
        """Return the size of what a task left for the next one; None if it is there no longer."""
        if not self.record(task).state:
            return 0
        path = self._folder(task) / STATE
        return path.stat().st_size if path.exists() else None

    def sums(self, task: int) -> TaskSums | None:
        """Return the sums over the images of a task; None where the run does not keep them."""
        return TaskSums.of_tensors(self._tensors(task, SUMS)) if self.keeps_sums(task) else None

    def keeps_sums(self, task: int) -> bool:
        """Return whether the sums over the images of a task are there."""
        return (self._folder(task) / SUMS).exists()

    def sums_bytes(self) -> int:
        """Return the size of the sums of each task, which are kept for `forget` alone."""
        files = (self._folder(task) / SUMS for task in range(len(self)))
        return sum(path.stat().st_size for path in files if path.exists())

    def kept_bytes(self) -> int:
        """Return the size of what is kept for `undo` and `forget` alone."""
        states = sum(self.state_bytes(task) or 0 for task in range(len(self) - 1))
        return states + self.sums_bytes()

    def undoable(self) -> int:
        """Return how many tasks can be taken back: their former one's state is there."""
        count = len(self)
        for back in range(count):
            before = count - back - 2  # the newest task then
            if before >= 0 and self.state_bytes(before) is None:
                return back
        return count

    def _tensors(self, task: int, name: str) -> Tensors:
        path = self._folder(task) / name
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise damaged(path, error) from error

    def parts(self) -> list[Tensors]:
        return [self.part(task) for task in range(len(self))]

    def class_rows(self) -> list[tuple[str, ...]]:
        """Return, of each task, the classes of the class rows that it added to the classifier."""
        return [record.classes for record in self.records()]

    def knowledge(self) -> Knowledge:
        """Return all that the next task is given of the finished ones."""
        memory, state = split_state(self.state())
        scores = tuple(self.scores(task) for task in range(len(self)))
        return Knowledge(tuple(self.parts()), tuple(self.records()), state, memory, scores)

    def check_names(self, task: int, name: str, classes: Sequence[str]) -> None:
        """Check that packs can hold the names of the next task beside those of the former ones.

        Raises:
            RunError: if not.
        """
        former = dict.fromkeys(each for rows in self.class_rows() for each in rows)
        known = [each for each in classes if each in former]
        wrong = names.task_fault(task, name, classes, known)
        if wrong is not None:
            raise RunError(f"A task must have names that a pack can hold, got {wrong}. Rename it.")
        same = names.one_name((*former, *(each for each in classes if each not in former)))
        if same is not None:
            raise RunError(
                f"The classes of a run must differ in more than case and spelling, got "
                f"{names.both(*same)}. Rename one of the two."
            )

    def commit(
        self, task: LearnedTask, evaluation: Evaluation | None, files: RunFiles | None = None
    ) -> None:
        """Add the next task: all its files or none; then drop the state of tasks too far back.

        Args:
            task: what was learned.
            evaluation: of all tasks so far.
            files: of the folder that the task was learned from, where that holds this task alone.

        Raises:
            RunError: if the record is of another task, or has names that no pack can hold.
        """
        with self.writing():
            count = len(self)
            if task.record.task != count:
                raise RunError(
                    f"The next task of {self.path} must be number {count}, got {task.record.task}. "
                    "Learn it again from what the run holds now."
                )
            self.check_names(count, task.record.name, task.record.classes)
            canary = {"images": task.canary, "rows": task.canary_rows}
            tensors_of = {PART: task.part, CANARY: canary}
            tensors_of |= {STATE: task.state} if task.state else {}
            tensors_of |= {SUMS: task.sums} if task.sums else {}
            pictures = {name: thumbnail(pixels) for name, pixels in task.examples.items()}
            with whole_folder(self._folder(count)) as folder:
                for name, tensors in tensors_of.items():
                    content = {key: each.contiguous() for key, each in tensors.items()}
                    save_file(content, folder / name)
                if task.scores is not None:
                    (folder / SCORES).write_bytes(write_tensors(task.scores.to_tensors()))
                (folder / RECORD).write_bytes(json_bytes(task.record.to_json()))
                (folder / EXAMPLES).write_bytes(json_bytes(pictures))
                if files is not None:
                    (folder / run_files.NAME).write_bytes(files.to_bytes())
                (folder / EVALUATION).write_bytes(json_bytes(evaluation and evaluation.to_json()))
            self.drop_states()

    def drop_states(self) -> None:
        """Drop the state of tasks that are further back than `keep`."""
        keep = self.setting("keep", KEEP)
        for task in range(len(self) - 1 - keep):  # all: a kill in this loop is mended by the next
            drop(self._folder(task) / STATE)

    def undo(self) -> TaskRecord:
        """Take the newest task away; return its record.

        Raises:
            RunError: if there is none, or the run no longer has what the task before it left.
        """
        with self.writing():
            count = len(self)
            if not count:
                raise RunError(f"A task to take back must be there, got {self.path} without one.")
            if not self.undoable():
                keep = self.setting("keep", KEEP)
                raise RunError(
                    f"Taking task {count - 1} back needs what task {count - 2} left for it, which "
                    f"{self.path} keeps for {keep} tasks back only. Release the packs of the first "
                    f"{count - 1} tasks with `edgecl export release --tasks {count - 1}`, or learn "
                    "the run again; `--keep N` keeps more from now on."
                )
            record = self.record(count - 1)
            with self.alone():
                gone = self.path / "tasks" / f"{TEMPORARY}undone-{count - 1:03d}"
                self._folder(count - 1).rename(gone)
                sync(self.path / "tasks")
            shutil.rmtree(gone)
            return record


def check_empty(path: Path) -> None:
    """Check that a run can be begun in a folder.

    Raises:
        RunError: if it holds something.
    """
    if path.exists() and not (path.is_dir() and all(map(is_nothing, path.iterdir()))):
        raise RunError(
            f"--out must be a new or an empty folder, got {path}. "
            f"Choose another, or continue that run with --resume {path}."
        )


def is_nothing(path: Path) -> bool:
    """Return whether a path is no part of a run: a lock, or what a killed process left."""
    return path.name in {LOCK, READING} or is_left(path)


def is_left(path: Path) -> bool:
    """Return whether a process that was killed left a file or a folder before it was whole."""
    return path.name.startswith(TEMPORARY)


def damaged(path: Path, error: Exception) -> RunError:
    """Return the error of a finished task's file that cannot be read."""
    return RunError(
        f"A finished task has a readable {path.name}, got {error}. Restore {path} from a copy."
    )
