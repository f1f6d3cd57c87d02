"""A disk that fails, and a process that ends, at an operation of one's choice."""

import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from edgecl_deploy.store.disk import Disk


class Killed(BaseException):
    """The process ends here; no `except` of the code may notice."""


class Faulty(Disk):
    """A disk on which one operation fails, or all from that one on."""

    def __init__(self, at: int, fault: Callable[[], BaseException], lasting: bool = False) -> None:
        self.at, self.fault, self.lasting = at, fault, lasting
        self.count = 0

    def _next(self) -> None:
        number, self.count = self.count, self.count + 1
        if number == self.at or (self.lasting and number > self.at):
            raise self.fault()

    def write(self, path: Path, data: bytes) -> None:
        self._next()
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._next()
        super().append(path, data)

    def sync(self, path: Path) -> None:
        self._next()

    def rename(self, source: Path, target: Path) -> None:
        self._next()
        super().rename(source, target)

    def link(self, text: str, path: Path) -> None:
        self._next()
        super().link(text, path)

    def remove(self, path: Path) -> None:
        self._next()
        super().remove(path)


def in_a_child(work: Callable[[], object]) -> int:
    """Run something in a forked process, whose exit status is 1 if it raises; give its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """Wait for a child; give its exit status, negative if a signal ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
