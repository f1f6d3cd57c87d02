"""The run folder: what a learner knows, one folder per task, written whole or not at all.

RUN/run.json                      method, configuration, backbone, stream, seed
RUN/tasks/000/learned.safetensors the task's part: what its pack holds, in float32
RUN/tasks/000/task.json           classes, images, seconds
RUN/tasks/000/canary.safetensors  one preprocessed training image, for the self-test of devices
RUN/tasks/000/state.safetensors   statistics that the next task needs and no pack holds; only of the
                                  newest task, and only where a method keeps any
RUN/tasks/000/evaluation.json     accuracy on the tasks so far (null where no test images were at
hand) RUN/metrics.json, RUN/report.html made again from the above
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.program.learned import Tensors

FORMAT = "edgecl-run/2"
HEADER = "run.json"
PART = "learned.safetensors"
CANARY = "canary.safetensors"
STATE = "state.safetensors"


class RunError(EdgeclError):
    """A run folder cannot be made, read or continued."""


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def drop(path: Path) -> None:
    """Remove a file that may be gone already."""
    path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)


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
        begun = {f".{HEADER}.part"}  # a kill in `create` leaves at most this
        if path.exists() and not (path.is_dir() and {p.name for p in path.iterdir()} <= begun):
            raise RunError(
                f"--out must be a new or an empty folder, got {path}. "
                f"Choose another, or continue that run with --resume {path}."
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, {"format": FORMAT, **header})
        write_json(path / HEADER, run.header)
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
                "Use the release of edgecl that wrote it."
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

    def record(self, task: int) -> dict[str, Any]:
        """Return task.json."""
        return self._json(task, "task.json")

    def evaluation(self, task: int) -> dict[str, Any] | None:
        """Return evaluation.json, what `evaluation.evaluate` gave."""
        return self._json(task, "evaluation.json")

    def _json(self, task: int, name: str) -> Any:
        path = self._folder(task) / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"A finished task has a readable {name}, got {error}. Restore {path} from a copy."
            ) from error

    def part(self, task: int) -> Tensors:
        """Return the tensors that a task added or replaced."""
        return self._tensors(task, PART)

    def canary(self, task: int) -> UInt8[Tensor, "n h w 3"]:
        """Return the images that a task keeps for self-tests."""
        return self._tensors(task, CANARY)["images"]

    def state(self) -> Tensors:
        """Return the statistics that the newest task kept for the next one."""
        newest = len(self) - 1
        if newest < 0 or not self.record(newest).get("kept"):
            return {}
        return self._tensors(newest, STATE)

    def _tensors(self, task: int, name: str) -> Tensors:
        path = self._folder(task) / name
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"A finished task has a readable {name}, got {error}. Restore {path} from a copy."
            ) from error

    def parts(self) -> list[Tensors]:
        return [self.part(task) for task in range(len(self))]

    def class_rows(self) -> list[list[str]]:
        """Return, per task, the classes of the rows that it added to the classifier."""
        return [self.record(task)["classes"] for task in range(len(self))]

    def commit(
        self,
        record: Mapping[str, Any],
        part: Tensors,
        evaluation: Mapping[str, Any] | None,
        canary: UInt8[Tensor, "n h w 3"],
        kept: Tensors | None = None,
    ) -> None:
        """Add the next task: all its files or none; then drop what earlier tasks kept."""
        count = len(self)
        target = self._folder(count)
        files = {PART: part, CANARY: {"images": canary}}
        if kept:
            files[STATE] = kept
            record = {**record, "kept": sorted(kept)}
        temporary = target.with_name(f".{target.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tensors in files.items():
            save_file({key: each.contiguous() for key, each in tensors.items()}, temporary / name)
        write_json(temporary / "task.json", dict(record))
        write_json(temporary / "evaluation.json", evaluation)
        for name in files:
            sync(temporary / name)
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
        for earlier in range(count):  # all of them: a kill in this loop is mended by the next task
            drop(self._folder(earlier) / STATE)
