"""Prepares images in threads while earlier ones run.

Laws: images are taken from the iterable one by one and answered in their order; what is prepared
and does not run yet is bounded; every thread has ended when the answers end or are closed; an
error of the iterable comes after the answers to the images before it.

Pillow decodes, converts and resizes without Python's lock, and engines run without it: threads are
enough.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from edgecl_deploy.engines.processor import usable_cores

FILES_AHEAD = 4  # batches that are prepared early where the images are files
Item = TypeVar("Item")
Ready = TypeVar("Ready")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pace:
    """How images are grouped and read ahead.

    Attributes:
        most: Images of one run.
        ahead: How many such groups are prepared while one runs; 0 prepares no image early.
        whole: Wait until a group is full or the images end, in place of running what is ready.
    """

    most: int
    ahead: int
    whole: bool


class _Place(Generic[Ready]):
    """An image that was taken: being prepared, ready, or failed."""

    def __init__(self) -> None:
        self.ready: list[Ready] = []  # one, once it is ready
        self.error: BaseException | None = None
        self.done = False


class Ahead(Generic[Item, Ready]):
    """Threads that take images and prepare them.

    Args:
        items: The images; one thread at a time takes from it.
        prepare: Prepares one of them; what it raises is raised by `take`.
        room: How many images are taken and not yet handed out, at most.
    """

    def __init__(self, items: Iterator[Item], prepare: Callable[[Item], Ready], room: int) -> None:
        self._items, self._prepare, self._room = items, prepare, room
        self._places: deque[_Place[Ready]] = deque()  # in the order of the images
        self._ended = False  # nothing more is taken
        self._taking = threading.Lock()  # around the iterable: its order is that of the places
        self._changed = threading.Condition()
        count = min(room, usable_cores())
        self._threads = [
            threading.Thread(target=self._work, name="edgecl-prepare", daemon=True)
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, most: int, *, whole: bool) -> list[Ready]:
        """Return the next images once the first of them is ready; none if there is no more.

        Args:
            most: How many at most.
            whole: Wait for so many, unless the images end before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._enough(most if whole else 1))
            found: list[Ready] = []
            while len(found) < most and self._places and self._places[0].done:
                error = self._places[0].error
                if error is not None:
                    if found:
                        break  # what came before it is answered first
                    raise error
                found += self._places.popleft().ready
            self._changed.notify_all()  # there is room
            return found

    def _enough(self, count: int) -> bool:
        """Return whether so many first images are done, or all that will come."""
        some = list(islice(self._places, count))
        for place in some:
            if not place.done:
                return False
            if place.error is not None:
                return True
        return len(some) == count or self._ended

    def close(self) -> None:
        """End the threads: each finishes the image that it prepares or takes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """Take one image and prepare it; return whether there was one."""
        with self._taking:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or len(self._places) < self._room)
                if self._ended:
                    return False
            place = _Place[Ready]()
            try:
                item = next(self._items)
            except StopIteration:
                self._end(None)
                return False
            except BaseException as error:  # raised where the answers are asked for
                place.error = error
                self._end(place)
                return False
            with self._changed:
                self._places.append(place)
        try:
            place.ready.append(self._prepare(item))
        except BaseException as error:  # likewise
            place.error = error
        with self._changed:
            place.done = True
            self._changed.notify_all()
        return True

    def _end(self, place: _Place[Ready] | None) -> None:
        """Take nothing more; the last place holds the iterable's error."""
        with self._changed:
            self._ended = True
            if place is not None:
                place.done = True
                self._places.append(place)
            self._changed.notify_all()


def answers(
    items: Iterator[Item],
    prepare: Callable[[Item], Ready],
    run: Callable[[list[Ready]], list[Answer]],
    pace: Pace,
) -> Generator[Answer, None, None]:
    """Yield the answer to every image, in order.

    Args:
        items: The images, which may be endless. Without `ahead` they are taken as answers are asked
            for, in the thread that asks.
        prepare: Makes an image ready.
        run: Answers images that are ready, each for itself.
        pace: How many at once, and how many early.
    """
    if not pace.ahead:
        while some := list(islice(items, pace.most)):
            yield from run([prepare(item) for item in some])
        return
    with closing(Ahead(items, prepare, pace.most * pace.ahead)) as early:
        while ready := early.take(pace.most, whole=pace.whole):
            found = run(ready)
            del ready  # while the answers are read, the next images take its memory
            yield from found
