"""The run folder: what a learner knows, one folder per task, written whole or not at all.

RUN/run.json                      method, configuration, backbone, stream, seed
RUN/tasks/000/learned.safetensors the task's part: what its pack holds, in float32
RUN/tasks/000/task.json           `records.TaskRecord`: classes, images, seconds
RUN/tasks/000/canary.safetensors  one preprocessed training image, for the self-test of devices
RUN/tasks/000/state.safetensors   what the next task needs and no pack holds; of the newest task
                                  only, and only where a method leaves any
RUN/tasks/000/evaluation.json     `records.Evaluation` of the tasks so far; null without test images
RUN/files.json.gz                 `run_files.RunFiles` of the stream, where it is a folder
RUN/tasks/000/files.json.gz       the same of a folder that was learned as one task
RUN/metrics.json, RUN/report.html computed from the above
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.learning import run_files
from edgecl.learning.exemplars import split_state
from edgecl.learning.fields import RecordError
from edgecl.learning.records import Evaluation, Knowledge, LearnedTask, TaskRecord
from edgecl.learning.run_files import RunFiles
from edgecl.program.learned import Tensors
from edgecl.streams import Files
from edgecl_deploy.manifest.whole import TEMPORARY, whole_folder, write_whole

FORMAT = "edgecl-run/2"
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
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


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

    def stream_files(self) -> RunFiles | None:
        """Return the files of the folder that the run's stream is; None where it is not one."""
        return RunFiles.read(self.path / run_files.NAME)

    def store_stream_files(self, files: RunFiles) -> None:
        """Store the files of the folder that the run's stream is."""
        write_whole(self.path / run_files.NAME, files.to_bytes())

    def move_stream(self, root: str) -> None:
        """Store that the folder of the run's stream is somewhere else now."""
        self.header["stream"] = {**self.header["stream"], "root": root}
        write_whole(self.path / HEADER, json_bytes(self.header))

    def accounts(self) -> tuple[Files, ...]:
        """Return what became of every file of the folders that were learned, the stream's first."""
        records, accounts = self.records(), []
        evaluations = [one for task in range(len(self)) if (one := self.evaluation(task))]
        if (found := self.stream_files()) is not None:
            accounts.append(found.after(records, evaluations[-1] if evaluations else None))
        for task, record in enumerate(records):
            if (found := RunFiles.read(self._folder(task) / run_files.NAME)) is not None:
                accounts.append(found.after([record], None))
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

    def commit(
        self, task: LearnedTask, evaluation: Evaluation | None, files: RunFiles | None = None
    ) -> None:
        """Add the next task: all its files or none; then drop the state of earlier tasks.

        Args:
            task: what was learned.
            evaluation: of all tasks so far.
            files: of the folder that the task was learned from, where that holds this task alone.

        Raises:
            RunError: if the record is of another task.
        """
        count = len(self)
        if task.record.task != count:
            raise RunError(
                f"The next task of {self.path} must be number {count}, got {task.record.task}. "
                "Learn it again from what the run holds now."
            )
        tensors_of = {PART: task.part, CANARY: {"images": task.canary}}
        if task.state:
            tensors_of[STATE] = task.state
        for left in filter(is_left, self.path.glob("tasks/*")):
            shutil.rmtree(left)
        with whole_folder(self._folder(count)) as folder:
            for name, tensors in tensors_of.items():
                save_file({key: each.contiguous() for key, each in tensors.items()}, folder / name)
            (folder / RECORD).write_bytes(json_bytes(task.record.to_json()))
            if files is not None:
                (folder / run_files.NAME).write_bytes(files.to_bytes())
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
