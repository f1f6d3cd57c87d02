"""Which files a run has learned from: names, digests and the account of their folder.

RUN/files.json.gz           of the folder that the run's stream is, as it was when it was read last
RUN/tasks/000/files.json.gz of a folder that was learned as one task
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgecl.learning.fields import Fields, RecordError, listed, named, text
from edgecl.learning.records import TaskRecord
from edgecl.learning.summary import read_files
from edgecl.streams import Files, ImageSet, Reason, Stream, Task
from edgecl.streams.folders.tree import SHOWN, some
from edgecl_deploy.manifest.names import spelled

FORMAT = "edgecl-files/1"
NAME = "files.json.gz"
LOST = "not usable when it was decoded"
TRAINED = "a test image that the run was trained on before"


@dataclass(frozen=True)
class TaskFiles:
    """The files of one task: their digests by their names, relative to the folder."""

    train: dict[str, str]
    test: dict[str, str]

    @classmethod
    def of(cls, task: Task) -> "TaskFiles":
        return cls(_digests(task.train), _digests(task.test))


def _digests(images: ImageSet) -> dict[str, str]:
    names: Sequence[str] = getattr(images.source, "names", ())
    digests: Sequence[bytes] = getattr(images.source, "digests", ())
    return {spelled(names[p]): digests[p].hex() for p in images.positions} if digests else {}


@dataclass(frozen=True)
class RunFiles:
    """files.json.gz.

    Attributes:
        account: of the folder.
        tasks: those of the stream, or the one that was learned.
        held_out: tasks of the stream that are only tested.
    """

    account: Files
    tasks: tuple[TaskFiles, ...]
    held_out: tuple[TaskFiles, ...] = ()

    @classmethod
    def of_stream(cls, stream: Stream) -> "RunFiles":
        tasks, held_out = (
            tuple(map(TaskFiles.of, each)) for each in (stream.tasks, stream.held_out)
        )
        return cls(stream.files, tasks, held_out)

    @classmethod
    def of_task(cls, task: Task) -> "RunFiles":
        return cls(task.files, (TaskFiles.of(task),))

    def to_bytes(self) -> bytes:
        """Return the same bytes for the same files, at any time."""
        value = {"format": FORMAT, **asdict(self)}
        if not self.held_out:
            del value["held_out"]
        text = json.dumps(value, ensure_ascii=False)
        return gzip.compress(text.encode(), mtime=0)

    @classmethod
    def read(cls, path: Path) -> "RunFiles | None":
        """Read a file; None where there is none.

        Raises:
            RecordError: it holds something else.
        """
        try:
            fields = Fields(json.loads(gzip.decompress(path.read_bytes())), NAME)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError) as error:
            raise RecordError(
                f"A run must have a readable {NAME}, got {error}. Restore {path} from a copy, or "
                "remove it: changed files are not noticed then."
            ) from error
        fields.form(FORMAT)
        found = cls(
            fields.take("account", read_files),
            fields.take("tasks", listed(_task)),
            fields.give("held_out", listed(_task), ()),
        )
        fields.done()
        return found

    def changes(self, now: "RunFiles") -> list[str]:
        """Return a line for each kind of difference to the files of today."""
        before, after = dict(self._all()), dict(now._all())
        known = set(before.values())
        lost = [name for name in before if name not in after]
        left = {before[name] for name in lost}
        fresh = [name for name in after if name not in before]
        there = set(after.values())
        kinds = {
            "new": [name for name in fresh if after[name] not in known],
            "gone": [name for name in lost if before[name] not in there],
            "moved": [name for name in fresh if after[name] in left],
            "changed": [name for name in before if after.get(name, before[name]) != before[name]],
        }
        return [
            f"{len(names)} {kind} since the run began: {some(names)}"
            for kind, names in kinds.items()
            if names
        ]

    def _all(self) -> Iterator[tuple[str, str]]:
        for task in (*self.tasks, *self.held_out):
            yield from task.train.items()
            yield from task.test.items()

    def continued(self, now: "RunFiles", finished: int) -> "RunFiles":
        """Return the files of today, but those of the finished tasks as they were learned."""
        return replace(now, tasks=(*self.tasks[:finished], *now.tasks[finished:]))

    def trained(self, finished: int) -> set[bytes]:
        """Return the digests of what the finished tasks were trained on and never tested on."""
        tested = {digest for task in (*self.tasks, *self.held_out) for digest in task.test.values()}
        learned = {digest for task in self.tasks[:finished] for digest in task.train.values()}
        return {bytes.fromhex(digest) for digest in learned - tested}

    def after(self, records: Sequence[TaskRecord], tested: Sequence[int]) -> Files:
        """Return the account with what was lost when the images were decoded.

        Args:
            records: of the tasks that are learned.
            tested: of each of them that was evaluated, how many test images.
        """
        training = test = 0
        first: list[str] = []
        for index, (task, record) in enumerate(zip(self.tasks, records, strict=False)):
            lost = max(len(task.train) - record.train_images, 0)
            training += lost
            lines = record.skipped[len(record.skipped) - lost :][: SHOWN - len(first)]
            first += [next((n for n in task.train if f"/{n}: " in line), line) for line in lines]
            if index < len(tested):
                test += max(len(task.test) - tested[index], 0)
        if not training + test:
            return self.account
        account, reason = self.account, Reason(LOST, training + test, tuple(first))
        return replace(
            account,
            training=account.training - training,
            test=account.test - test,
            skipped=(*account.skipped, reason),
        )


def _task(value: object, where: str) -> TaskFiles:
    fields = Fields(value, where)
    found = TaskFiles(fields.take("train", named(text)), fields.take("test", named(text)))
    fields.done()
    return found


def without_trained(stream: Stream, trained: set[bytes]) -> Stream:
    """Leave out the test images that a run was trained on before.

    Args:
        trained: their digests.
    """
    left: list[str] = []

    def without(task: Task) -> Task:
        source: Any = task.test.source
        digests = getattr(source, "digests", ())
        kept = [
            index
            for index, position in enumerate(task.test.positions)
            if not digests or digests[position] not in trained
        ]
        gone = sorted(set(range(len(task.test))) - set(kept))
        left.extend(spelled(source.names[task.test.positions[index]]) for index in gone)
        return replace(task, test=task.test.subset(kept)) if gone else task

    tasks, held_out = (tuple(map(without, each)) for each in (stream.tasks, stream.held_out))
    if not left:
        return stream
    reason = Reason(TRAINED, len(left), tuple(left[:SHOWN]))
    files = stream.files
    files = replace(files, test=files.test - len(left), skipped=(*files.skipped, reason))
    return replace(stream, tasks=tasks, held_out=held_out, files=files)
