"""The run folder: what a learner knows, one folder per task, written whole or not at all.

RUN/run.json                      method, configuration, backbone, stream, seed
RUN/tasks/000/learned.safetensors the task's part: what its pack holds, in float32
RUN/tasks/000/task.json           `records.TaskRecord`: classes, images, seconds
RUN/tasks/000/canary.safetensors  one preprocessed training image, for the self-test of devices
RUN/tasks/000/state.safetensors   what the next task needs and no pack holds; of the newest task
                                  only, and only where a method leaves any
RUN/tasks/000/evaluation.json     `records.Evaluation` of the tasks so far; null without test images
RUN/metrics.json, RUN/report.html computed from the above
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.learning.exemplars import split_state
from edgecl.learning.fields import RecordError
from edgecl.learning.records import Evaluation, Knowledge, LearnedTask, TaskRecord
from edgecl.program.learned import Tensors
from edgecl_deploy.manifest import names
from edgecl_deploy.manifest.whole import TEMPORARY, whole_folder, write_whole

FORMAT = "edgecl-run/3"
HEADER = "run.json"
PART = "learned.safetensors"
CANARY = "canary.safetensors"
STATE = "state.safetensors"
RECORD = "task.json"
EVALUATION = "evaluation.json"

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
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path = path
        self.header = header

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "Run":
        """Start a run in an empty or absent folder.

        Raises:
            RunError: if the folder holds something.
        """
        if path.exists() and not (path.is_dir() and all(map(is_left, path.iterdir()))):
            raise RunError(
                f"--out must be a new or an empty folder, got {path}. "
                f"Choose another, or continue that run with --resume {path}."
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, {"format": FORMAT, **header})
        write_whole(path / HEADER, json_bytes(run.header))
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run.

        Raises:
            RunError: if the folder is no run, or one of another format.
        """
        try:
            header = json.loads((path / HEADER).read_text(encoding="utf-8"))
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

    def _folder(self, task: int) -> Path:
        return self.path / "tasks" / f"{task:03d}"

    def __len__(self) -> int:
        """Return the number of finished tasks."""
        count = 0
        while self._folder(count).is_dir():
            count += 1
        return count

    def record(self, task: int) -> TaskRecord:
        """Return how a task was learned."""
        return self._json(task, RECORD, TaskRecord.from_json)

    def records(self) -> list[TaskRecord]:
        return [self.record(task) for task in range(len(self))]

    def evaluation(self, task: int) -> Evaluation | None:
        """Return the evaluation after a task; None if no test images were at hand."""

        def read(value: object) -> Evaluation | None:
            return None if value is None else Evaluation.from_json(value)

        return self._json(task, EVALUATION, read)

    def _json(self, task: int, name: str, read: Callable[[object], T]) -> T:
        path = self._folder(task) / name
        try:
            return read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecordError) as error:
            raise damaged(path, error) from error

    def part(self, task: int) -> Tensors:
        """Return the tensors that a task added or replaced."""
        return self._tensors(task, PART)

    def canary(self, task: int) -> UInt8[Tensor, "n h w 3"]:
        """Return the images that a task stored for self-tests."""
        return self._tensors(task, CANARY)["images"]

    def state(self) -> Tensors:
        """Return what the newest task left for the next one, remembered images included."""
        newest = len(self) - 1
        if newest < 0 or not self.record(newest).state:
            return {}
        return self._tensors(newest, STATE)

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
        return Knowledge(tuple(self.parts()), tuple(self.records()), state, memory)

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

    def commit(self, task: LearnedTask, evaluation: Evaluation | None) -> None:
        """Add the next task: all its files or none; then drop the state of earlier tasks.

        Raises:
            RunError: if the record is of another task.
        """
        count = len(self)
        if task.record.task != count:
            raise RunError(
                f"The next task of {self.path} must be number {count}, got {task.record.task}. "
                "Learn it again from what the run holds now."
            )
        self.check_names(count, task.record.name, task.record.classes)
        files = {PART: task.part, CANARY: {"images": task.canary}}
        if task.state:
            files[STATE] = task.state
        for left in filter(is_left, self.path.glob("tasks/*")):
            shutil.rmtree(left)
        with whole_folder(self._folder(count)) as folder:
            for name, tensors in files.items():
                save_file({key: each.contiguous() for key, each in tensors.items()}, folder / name)
            (folder / RECORD).write_bytes(json_bytes(task.record.to_json()))
            (folder / EVALUATION).write_bytes(json_bytes(evaluation and evaluation.to_json()))
        for earlier in range(count):  # all of them: a kill in this loop is mended by the next task
            drop(self._folder(earlier) / STATE)


def is_left(path: Path) -> bool:
    """Return whether a process that was killed left a file or a folder before it was whole."""
    return path.name.startswith(TEMPORARY)


def damaged(path: Path, error: Exception) -> RunError:
    """Return the error of a finished task's file that cannot be read."""
    return RunError(
        f"A finished task has a readable {path.name}, got {error}. Restore {path} from a copy."
    )
