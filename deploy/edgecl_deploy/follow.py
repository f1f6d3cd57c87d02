"""A process that follows a store: it takes every release that `current` comes to point to.

Laws: whatever goes wrong here, the release that answers goes on answering; the store is only
read, but for the reports under `health/`.
"""

import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from edgecl_deploy.errors import one_line
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.recover import standing_ground
from edgecl_deploy.store.store import Store

if TYPE_CHECKING:
    from edgecl_deploy.runtime import Accept, Classifier

LOOK = 0.2  # seconds between two looks at `current`
RETRY, RAREST = 1.0, 60.0  # seconds until a release that failed is tried again: doubled each time


class Follower:
    """Keeps one classifier at the release that a store says.

    Args:
        classifier: The classifier; it is not kept alive by this.
        store: The store.
        accept: The application's own test of a new release.
    """

    def __init__(self, classifier: "Classifier", store: Store, accept: "Accept | None") -> None:
        self._classifier = weakref.ref(classifier)
        self._store = store
        self._accept = accept
        self._reporter = Reporter(store.path)
        self._said: Report | None = None
        self._generation: int | None = None  # that answers
        self._seen: int | None = None  # that `current` pointed to when it was last looked at
        self._again, self._pause = 0.0, RETRY  # when to try it again if it failed (monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgecl-follow", daemon=True)

    def begin(self) -> None:
        """Take the first release, then follow.

        If the release that `current` names fails, the last good one answers, or one before it. If
        there is none that works, the error is that of the release that `current` names.
        """
        classifier = self._classifier()
        assert classifier is not None  # noqa: S101  the caller holds it
        self._seen = self._store.current()
        try:
            self._take(classifier)
        except Exception as error:  # of `accept` too, which is the application's
            self._failed(error)
            if not self._stand(classifier):
                if not self._on_trial():  # else the update must hear of it
                    self._reporter.close()
                raise
        self._thread.start()

    def _stand(self, classifier: "Classifier") -> bool:
        for other in standing_ground(self._store, self._seen):
            with suppress(Exception):
                classifier.take(self._store.read(other.number))
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
            classifier = self._classifier()
            if classifier is None:
                break
            try:
                self._look(classifier)
            except Exception as error:  # nothing here may end it
                self._failed(error)
            del classifier
        self._reporter.close()

    def _look(self, classifier: "Classifier") -> None:
        number = self._store.current()
        if number != self._seen:
            self._seen, self._again, self._pause = number, 0.0, RETRY
        if number not in {None, self._generation} and time.monotonic() >= self._again:
            self._take(classifier)
        if number is not None and number == self._generation and self._on_trial():
            tally = classifier.loaded.tally
            self._report(number, "", tally.images, tally.failed)

    def _on_trial(self) -> bool:
        state = self._store.state
        return state is not None and state.phase.on_trial

    def _take(self, classifier: "Classifier") -> None:
        number, files = self._store.read_current()
        classifier.take(files, self._accept)
        self._seen = self._generation = number

    def _failed(self, error: Exception) -> None:
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, RAREST)
        self._report(self._seen, one_line(error))

    def _report(self, number: int | None, error: str, images: int = 0, failed: int = 0) -> None:
        report = Report(-1 if number is None else number, images, failed, error)
        if report != self._said and report.generation >= 0:
            self._said = report
            self._reporter.write(report)
