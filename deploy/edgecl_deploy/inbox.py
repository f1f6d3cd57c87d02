"""Classifies the images that come into a folder, each once, over restarts and power cuts.

Laws: the table of results is the record of what was done: a row is one line, synced before its
image is moved, so an image that has a row is never classified again and one that has none was not
moved; a torn last line is cut off before anything is added; a file is taken when
its size and time have not changed for a while, and an answer to a file that changed meanwhile is
dropped; one process writes a table.
"""

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from edgecl_deploy.errors import BusyError, MissingFileError, OptionError, one_line
from edgecl_deploy.listing import images_under
from edgecl_deploy.loaded import Prediction
from edgecl_deploy.stopping import StopRequest
from edgecl_deploy.tables import cells, head, line_of, row_of

FAILED = "failed"  # the folder in the folder of finished files for those without an answer
_ERROR = head(1).index("error")
_RECORD = ("time", "file")  # the columns before those of an answer
_LONGEST = 1.0  # seconds between two looks


@dataclass(frozen=True)
class State:
    """The size and time of a file: what changes while it is written."""

    size: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: str) -> "State | None":
        """Look at a file; None if it is gone, or no plain file."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    def __str__(self) -> str:
        return f"{self.size}-{self.modified}"


class Table:
    """The results, and the record of what was done; locked while it is open.

    Args:
        path: The CSV file; it is made, or continued.
        top: How many classes it has per image.
    """

    def __init__(self, path: Path, top: int) -> None:
        self.path, self._top = path, top
        self._head = [*_RECORD, *head(top)]
        self._file = _locked(path)
        try:
            self._mend()
        except BaseException:
            self.close()
            raise

    def _mend(self) -> None:
        """Cut a torn last line off; write the head of a new table.

        Raises:
            OptionError: The file has other columns.
        """
        end, first = 0, b""
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            first = first or line
            end += len(line)
        expected = _bytes(self._head)
        torn_head = not first and expected.startswith(self._head_of())
        if first != expected and not torn_head:
            raise OptionError(
                f"{self.path} must be new, or a table of this command with {self._top} classes "
                "per image",
                "other columns",
                "Name another file, or give the --top that it was begun with.",
            )
        os.ftruncate(self._file.fileno(), end)
        self._end = end
        if not end:
            self._write(expected)

    def _head_of(self) -> bytes:
        self._file.seek(0)
        return self._file.read(4096)

    def done(self, names: set[str]) -> dict[str, tuple[str, bool]]:
        """Return the files that have a row, by name: their state, and whether they have an answer.

        Args:
            names: Those to look for.
        """
        found = {}
        self._file.seek(0)
        for line in self._file:
            row = row_of(line.decode("utf-8", "replace"))
            if len(row) == len(self._head) and row[len(_RECORD)] in names:
                found[row[len(_RECORD)]] = (row[1], not row[len(_RECORD) + _ERROR])
        return found

    def add(self, name: str, state: State, answer: Prediction) -> None:
        """Write the row of one file, all of it or nothing."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._write(_bytes([now, str(state), *cells(name, answer, self._top)]))

    def _write(self, data: bytes) -> None:
        handle, end = self._file.fileno(), self._end
        try:
            while data:
                written = os.pwrite(handle, data, end)
                data, end = data[written:], end + written
            os.fsync(handle)
        except OSError:
            with suppress(OSError):  # else the next start cuts it off
                os.ftruncate(handle, self._end)
            raise
        self._end = end

    def close(self) -> None:
        """Close the file, which another process may then continue."""
        self._file.close()


def _bytes(row: list[str]) -> bytes:
    return (line_of(row) + "\n").encode("utf-8", "backslashreplace")


def _locked(path: Path) -> BinaryIO:
    """Open a file for one process.

    Raises:
        BusyError: Another process has it.
    """
    import fcntl  # POSIX only

    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BusyError(
            f"one process writes {path}", "another one that does", "Stop it, or name another file."
        ) from error
    return file


@dataclass
class Inbox:
    """A folder that images come into.

    Attributes:
        folder: The folder; those in it are looked through, too.
        table: Where the results are written.
        answers: Classifies the files of paths, in order; it may take some before it answers.
        tell: Gets each file and its answer when the row is written and the file is moved.
        finished: Where finished files are moved; None leaves them where they are.
        settle: Seconds that a file must not have changed.
        clock: Returns seconds; it never goes back.
    """

    folder: Path
    table: Table
    answers: Callable[[Iterable[str]], Generator[Prediction, None, None]]
    tell: Callable[[str, Prediction], None]
    finished: Path | None = None
    settle: float = 2.0
    clock: Callable[[], float] = time.monotonic
    _since: dict[str, tuple[State, float]] = field(default_factory=dict, init=False)
    _done: dict[str, str] = field(default_factory=dict, init=False)  # state by name

    def run(self, stop: StopRequest, *, once: bool = False) -> None:
        """Classify what comes until a stop is requested.

        Args:
            stop: Ends it, after the file at hand.
            once: Look for `settle` seconds, take what did not change in them, and end; what came or
                changed meanwhile is left.

        Raises:
            MissingFileError: The folder is gone, or cannot be read.
        """  # noqa: DOC502  raised by `_names`
        self._go_on()
        end = self.clock() + self.settle
        while True:
            last = once and self.clock() >= end
            looked = time.monotonic()
            ready = self._settled()
            seconds = time.monotonic() - looked
            self._take(ready, stop)
            if (
                last
                or stop.requested
                or stop.wait(max(min(self.settle / 2, _LONGEST), seconds, 0.02))
            ):
                return

    def _go_on(self) -> None:
        """Take up what the process before did: move what has a row, and do it never again."""
        here = {shown(name): name for name in self._names()}
        for row, (state, answered) in self.table.done(set(here)).items():
            name = here[row]
            if str(State.of(self._path(name))) != state:
                continue  # another file of this name
            self._done[name] = state
            self._move(name, answered)

    def _names(self) -> Iterator[str]:
        """Yield the image files in the folder, as paths in it; what is below may be unreadable.

        Raises:
            MissingFileError: The folder is gone, or cannot be read.
        """
        finished = None if self.finished is None else f"{os.path.realpath(self.finished)}{os.sep}"
        try:
            for path in images_under(str(self.folder), skip=True):
                if finished is None or not os.path.realpath(path).startswith(finished):
                    yield os.path.relpath(path, self.folder)
        except OptionError as error:
            raise MissingFileError(
                f"the folder {self.folder} must be there and readable",
                one_line(error.__cause__ or error),
                "Start the command again when it is.",
            ) from error

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _settled(self) -> list[tuple[str, State]]:
        """Look at all files; return those that wait and have not changed for long enough."""
        now, seen, ready = self.clock(), {}, []
        for name in self._names():
            state = State.of(self._path(name))
            if state is None:
                continue
            before = self._since.get(name)
            since = before[1] if before is not None and before[0] == state else now
            seen[name] = (state, since)
            if now - since >= self.settle and self._done.get(name) != str(state):
                ready.append((name, state))
        self._since = seen
        self._done = {name: state for name, state in self._done.items() if name in seen}
        return ready

    def _take(self, ready: list[tuple[str, State]], stop: StopRequest) -> None:
        """Classify what has not changed meanwhile, until a stop is requested."""
        asked: deque[tuple[str, State]] = deque()  # taken, and not yet answered

        def paths() -> Iterator[str]:
            for name, state in ready:
                path = self._path(name)
                if not stop.requested and State.of(path) == state:
                    asked.append((name, state))
                    yield path

        with closing(self.answers(paths())) as answers:
            for answer in answers:
                self._record(*asked.popleft(), answer)
                if stop.requested:
                    return

    def _record(self, name: str, state: State, answer: Prediction) -> None:
        path = self._path(name)
        if State.of(path) != state:
            return  # it was written while it was read
        self.table.add(shown(name), state, answer)
        self._done[name] = str(state)
        self._move(name, answer.error is None)
        self.tell(path, answer)

    def _move(self, name: str, answered: bool) -> None:
        if self.finished is None:
            return
        target = (self.finished if answered else self.finished / FAILED) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        plain, number = target, 1
        while os.path.lexists(target):
            number += 1
            target = plain.with_name(f"{plain.stem}-{number}{plain.suffix}")
        os.rename(self._path(name), target)
        self._done.pop(name, None)


def shown(name: str) -> str:
    """Return a file's name as a table holds it: text, on one line."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text.replace("\n", r"\n").replace("\r", r"\r")


def check_finished(folder: Path, finished: Path) -> None:
    """Make the folder of finished files, and check that a file can be moved there by one rename.

    Raises:
        OptionError: It is the folder itself, a folder above it, or on another file system.
    """
    finished.mkdir(parents=True, exist_ok=True)
    if folder.resolve().is_relative_to(finished.resolve()):
        raise OptionError(
            f"finished files must leave {folder}",
            str(finished),
            "Name another folder, or one in it.",
        )
    if os.stat(folder).st_dev != os.stat(finished).st_dev:
        raise OptionError(
            f"{finished} must be on the file system of {folder}",
            "another one",
            "Name a folder on the same one: a file is moved by one rename.",
        )
