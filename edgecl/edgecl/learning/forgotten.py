"""forgotten.json: what a run has forgotten, without the names.

A name is stored as the SHA-256 of a random salt and the name. That keeps it out of sight; whoever
has a name in mind and the file can still find out whether it is the one.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning.fields import Fields, RecordError, count, listed, optional, text
from edgecl.learning.records import TaskRecord
from edgecl.learning.runs import Run, RunError, damaged, json_bytes
from edgecl.program.learned import Tensors
from edgecl_deploy.format import Hidden, hidden
from edgecl_deploy.manifest.canonical import canonical, digest
from edgecl_deploy.unknown.table import Table

FORMAT = "edgecl-forgotten/1"
NAME = "forgotten.json"
# What is left equals what a run that never saw it has: bit for bit; but for the lambda of the head,
# which was chosen when it was there; but for what tells an image of no class, of classes of more
# than 64 images; to the rounding of sums; or to that of embedded texts. The strictest first.
Exactness: TypeAlias = Literal["bitwise", "lambda kept", "heads bitwise", "1e-10", "1e-6"]
ORDER: tuple[Exactness, ...] = get_args(Exactness)


@dataclass(frozen=True)
class Entry:
    """What was forgotten at one time.

    Attributes:
        kind: `class` or `task`.
        tasks: those that changed because they had it; a task without classes left is a gap.
        digests: of the names of the classes that are gone.
        before: what each task was, see `task_id`.
        after: what each task is; null of a gap.
        exactness: all that holds, with a comma and a space between: `lambda kept, 1e-10`.
        date: in UTC.
    """

    kind: str
    tasks: tuple[int, ...]
    digests: tuple[str, ...]
    method: str
    exactness: str
    before: tuple[str | None, ...]
    after: tuple[str | None, ...]
    commands: tuple[str, ...]
    date: str

    @classmethod
    def from_json(cls, value: object, where: str) -> "Entry":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            kind=fields.take("kind", text),
            tasks=fields.take("tasks", listed(count)),
            digests=fields.take("digests", listed(text)),
            method=fields.take("method", text),
            exactness=fields.take("exactness", text),
            before=fields.take("before", listed(optional(text))),
            after=fields.take("after", listed(optional(text))),
            commands=fields.take("commands", listed(text)),
            date=fields.take("date", text),
        )
        fields.done()
        return found

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why what is left is not equal bit for bit; or that it is."""
        return tuple(self.exactness.split(", "))


@dataclass(frozen=True)
class Forgotten:
    """forgotten.json.

    Attributes:
        salt: of the digests of names.
    """

    salt: str = field(default_factory=lambda: secrets.token_hex(16))
    entries: tuple[Entry, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Return the digests of all names that are gone."""
        return tuple(dict.fromkeys(each for entry in self.entries for each in entry.digests))

    def hides(self, classes: Iterable[str]) -> list[str]:
        """Return which of some classes were forgotten once."""
        gone = set(self.digests)
        return [name for name in classes if hidden(name, self.salt) in gone]

    def published(self) -> Hidden | None:
        """Return what a release tells devices; None if no name is gone."""
        return Hidden(self.salt, self.digests) if self.digests else None

    def after(self, entry: Entry) -> "Forgotten":
        return replace(self, entries=(*self.entries, entry))

    def to_bytes(self) -> bytes:
        entries = [asdict(entry) for entry in self.entries]
        return json_bytes({"format": FORMAT, "salt": self.salt, "entries": entries})

    @classmethod
    def of(cls, run: Run) -> "Forgotten | None":
        """Read what a run has forgotten; None if it never did."""
        return cls.read(run.file(NAME))

    @classmethod
    def read(cls, path: Path) -> "Forgotten | None":
        """Read a file; None where there is none.

        Raises:
            damaged: a RunError of one that cannot be read.
        """
        try:
            fields = Fields(json.loads(path.read_text(encoding="utf-8")), NAME)
            fields.form(FORMAT)
            salt = fields.take("salt", text)
            bytes.fromhex(salt)
            found = cls(salt, fields.take("entries", listed(Entry.from_json)))
            fields.done()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecordError) as error:
            raise damaged(path, error) from error
        return found


@dataclass(frozen=True, eq=False)
class Pieces:
    """What the pack of a task is made from."""

    record: TaskRecord
    part: Tensors
    table: Table | None

    @classmethod
    def of(cls, run: Run, task: int) -> "Pieces":
        return cls(run.record(task), run.part(task), run.scores(task))


def task_id(run: Run, task: int, pieces: Pieces | None = None) -> str | None:
    """Return a digest of all that the pack of a task is made from; None of a gap.

    Tasks of one id have packs of one id.

    Args:
        pieces: instead of those that the run has.
    """
    own = pieces or Pieces.of(run, task)
    record = own.record
    if not record.classes:
        return None
    table = {} if own.table is None else own.table.to_tensors()
    return digest(
        canonical({
            "task": task,
            "name": record.name,
            "interface": run.header["interface"],
            "classes": list(record.classes),
            "known": list(record.known),
            "moved": list(record.moved),
            "tensors": {name: _bits(each) for name, each in own.part.items()},
            "scores": {name: _array(each) for name, each in table.items()},
        })
    )


def _bits(tensor: Tensor) -> str:
    return _array(tensor.contiguous().numpy())


def _array(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)} {digest(array.tobytes())}"


def check_stream(run: Run) -> None:
    """Check that a run may go on with its stream.

    Raises:
        RunError: if it has forgotten something.
    """
    if run.file(NAME).exists():
        raise RunError(
            f"A run goes on with its stream while it has forgotten nothing of it, got {run.path} "
            "with a forgotten.json. Add images with `edgecl learn RUN IMAGES`."
        )
