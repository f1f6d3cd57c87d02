"""A process that follows a store: it takes every release that `current` comes to point to.

Laws: whatever goes wrong here, the release that answers goes on answering; the store is only
read, but for the reports under `health/` and what a classifier keeps in `local/`.
"""

import os
import threading
import time
import weakref
from contextlib import suppress

from edgecl_deploy.errors import (
    AcceptError,
    DigestError,
    EngineMissingError,
    MissingFileError,
    SizeError,
    StoreError,
    SymlinkError,
    one_line,
)
from edgecl_deploy.files import is_passing
from edgecl_deploy.serving import Judge, Serving
from edgecl_deploy.store.health import APPLICATION, DEVICE, RELEASE, Report, Reporter
from edgecl_deploy.store.recover import rollback_candidates
from edgecl_deploy.store.store import Store

LOOK = 0.2  # seconds between two reads of `current`
_FILES = 8  # that a process must be able to open, else what fails is its own
_DEVICES = (
    DigestError,  # the bytes were right when they were stored
    EngineMissingError,
    MissingFileError,
    OSError,
    SizeError,
    StoreError,
    SymlinkError,
)  # errors that say nothing about a release
RETRY, RAREST = 1.0, 60.0  # seconds until a release that failed is tried again: doubled each time


class Follower:
    """Keeps a process at the release that its store names.

    Args:
        serving: What answers; the follower does not keep it alive.
        judge: The application's own test of a new release.
    """

    def __init__(self, serving: Serving, store: Store, judge: Judge | None) -> None:
        self._serving = weakref.ref(serving)
        self._store = store
        self._judge = judge
        self._reporter = Reporter(store.path)
        self._reported: Report | None = None
        self._generation: int | None = None  # that answers
        self._seen: int | None = None  # that `current` named when it was last read
        self._again, self._pause = 0.0, RETRY  # when to try it again if it failed (monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgecl-follow", daemon=True)

    @property
    def store(self) -> Store:
        """The store that it reads."""
        return self._store

    def begin(self) -> None:
        """Take the first release, then follow.

        If the release that `current` names fails, the last good one answers, or one before it. If
        none of them works, the error is that of the release that `current` names.
        """
        serving = self._serving()
        assert serving is not None  # noqa: S101  the caller holds it
        self._seen = self._store.current()
        try:
            self._take(serving)
        except Exception as error:  # of the judge too, which is the application's
            self._failed(error)
            if not self._fall_back(serving):
                if not self._on_trial():  # else the update must read the report
                    self._reporter.close()
                raise
        self._thread.start()

    def _fall_back(self, serving: Serving) -> bool:
        for other in rollback_candidates(self._store, self._seen):
            with suppress(Exception):
                serving.take(self._store.read(other.number))
                self._generation = other.number
                return True
        return False

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._reporter.close()

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            serving = self._serving()
            if serving is None:
                break
            try:
                self._look(serving)
            except Exception as error:  # nothing here may end it
                self._failed(error)
            del serving
        self._reporter.close()

    def _look(self, serving: Serving) -> None:
        number = self._store.current()
        if number != self._seen:
            self._seen, self._again, self._pause = number, 0.0, RETRY
        if number not in {None, self._generation} and time.monotonic() >= self._again:
            self._take(serving)
        serving.look()
        if number is not None and number == self._generation and self._on_trial():
            loaded = serving.loaded
            tally = loaded.tally
            self._report(number, "", tally.images, tally.failed, fallback=loaded.fallback)

    def _on_trial(self) -> bool:
        state = self._store.state
        return state is not None and state.phase.on_trial

    def _take(self, serving: Serving) -> None:
        number, files = self._store.read_current()
        serving.take(files, self._judge)
        self._seen = self._generation = number

    def _failed(self, error: Exception) -> None:
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, RAREST)
        if not _passes(error):  # else it is tried again, and nobody is blamed
            self._report(self._seen, one_line(error), whose=_whose(error))

    def _report(
        self,
        number: int | None,
        error: str,
        images: int = 0,
        failed: int = 0,
        whose: str = RELEASE,
        fallback: str = "",
    ) -> None:
        report = Report(-1 if number is None else number, images, failed, error, whose, fallback)
        if report != self._reported and report.generation >= 0:
            self._reported = report
            self._reporter.write(report)


def _passes(error: Exception) -> bool:
    """Return whether an error comes from a shortage of this process, of memory or open files."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        cause = cause.__cause__ or cause.__context__
    return is_passing(error) or not _can_open()


def _can_open() -> bool:
    """Return whether this process can open more files; an engine does not say why it fails."""
    handles = []
    try:
        for _ in range(_FILES):
            handles.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        for handle in handles:
            os.close(handle)
    return True


def _whose(error: Exception) -> str:
    if isinstance(error, AcceptError):
        return APPLICATION
    return DEVICE if isinstance(error, _DEVICES) else RELEASE
