"""What waits to be run, and the one thread that runs it.

Laws: images that are prepared, wait or run are bounded; nothing waits for others, a run takes what
is there; all images of a run are answered by one release; a request that is late is never run; no
error ends the thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edgecl_deploy.errors import RequestError
from edgecl_deploy.loaded import LoadedRelease
from edgecl_deploy.programs import Scores
from edgecl_deploy.server.limits import BATCH


@dataclass(frozen=True, eq=False)
class Ran:
    """The part of a run that is one request's."""

    loaded: LoadedRelease  # that answered
    out: Scores
    waited: float  # seconds
    seconds: float  # of the run


@dataclass(frozen=True, eq=False)
class _Work:
    images: np.ndarray  # uint8 [b, side, side, 3]
    answer: "Future[Ran]" = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Room:
    """Counts something that is bounded: images, or bytes.

    Args:
        most: How much there is room for.
        what: Its name in messages.
    """

    def __init__(self, most: int, what: str) -> None:
        self.most, self._what = most, what
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Take some of the room.

        Raises:
            RequestError: There is too little left.
        """
        with self._lock:
            if self.used + count > self.most:
                raise RequestError(
                    503,
                    f"at most {self.most} {self._what} may be in work",
                    f"{self.used}, and {count} more",
                    "Ask again in a moment.",
                )
            self.used += count

    def give(self, count: int) -> None:
        """Give some back."""
        with self._lock:
            self.used -= count

    @contextmanager
    def share(self) -> "Iterator[Share]":
        """Return a share that is given back in the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.give(share.count)


class Share:
    """What one request has of a room; it may grow."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.count = 0

    def grow(self, count: int) -> None:
        """Take so much more."""
        self._room.take(count)
        self.count += count


class Runner:
    """Runs what waits, in the order in which it came.

    Args:
        current: Returns the release that answers now; it is asked once for each run.
        ran: Is told the number of images and the seconds of each run.
    """

    def __init__(
        self, current: Callable[[], LoadedRelease], ran: Callable[[int, float], None]
    ) -> None:
        self._current, self._ran = current, ran
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="edgecl-run", daemon=True)
        self._thread.start()

    def submit(self, images: np.ndarray) -> "Future[Ran]":
        """Let images be run.

        Args:
            images: uint8 [b, side, side, 3].

        Returns:
            Their answer; cancel it if nobody wants it any more.
        """
        work = _Work(images)
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()
        return work.answer

    def close(self) -> None:
        """End the thread after its run; what waits is not run."""
        with self._changed:
            self._ended = True
            for work in self._waiting:
                work.answer.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while works := self._next():
            self._run(works)

    def _next(self) -> list[_Work]:
        """Return what is run next, nothing at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return []
                works: list[_Work] = []
                count = 0
                while self._waiting:
                    size = len(self._waiting[0].images)
                    if works and count + size > BATCH:
                        break
                    work = self._waiting.popleft()
                    if work.answer.set_running_or_notify_cancel():
                        works.append(work)
                        count += size
                if works:
                    return works

    def _run(self, works: list[_Work]) -> None:
        begin = time.perf_counter()
        try:
            images = [work.images for work in works]
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            loaded, out = self._current().scored(batch)
        except BaseException as error:  # whatever it is, those who wait must hear of it
            for work in works:
                work.answer.set_exception(error)
            return
        seconds, at = time.perf_counter() - begin, 0
        self._ran(len(out.scores), seconds)
        for work in works:
            part = slice(at, at + len(work.images))
            at = part.stop
            scores = Scores(
                out.scores[part], out.feature[part], out.match[part], out.match_score[part]
            )
            work.answer.set_result(Ran(loaded, scores, begin - work.since, seconds))
