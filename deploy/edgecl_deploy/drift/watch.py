"""Counts images as they are answered.

Laws: nothing here makes an answer fail or wait: an error is logged once and ends the counting; one
image a second is measured at most; images of one thing are one observation, so those that are near
in time do not count; what answers is counted alone: another release, or local generation, begins
anew.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgecl_deploy.drift.measures import Measured
from edgecl_deploy.drift.pictures import Picture, least
from edgecl_deploy.drift.shift import Shift
from edgecl_deploy.drift.state import ATYPICAL, Mark, State
from edgecl_deploy.errors import one_line

if TYPE_CHECKING:
    from edgecl_deploy.loaded import Prediction

SKIPPED = 200  # images after a release has begun to answer, which do not count
_LEAST_GAP = 1.0  # seconds between two images that count, unless `every` is less
_KEPT = 256  # classes whose last time is remembered
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What an operator decides.

    Attributes:
        run_length: Images that count between two false alarms, at least, on average: devices x
            such images a day x days between two false alarms of the fleet.
        every: Seconds in which images with the same answer are one observation.
        pictures: How many of the least typical images are kept.
    """

    run_length: float = 1e6
    every: float = 10.0
    pictures: int = 0


class Watch:
    """What was seen of the images of one process; many threads may tell it.

    Args:
        settings: What the operator decided; it may be replaced at any time.
        now: The clock: seconds since 1970.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        settings: Settings = Settings(),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._now, self._clock = now, clock
        self._lock = threading.Lock()
        self._state: State | None = None
        self._answered, self._unreadable = 0, 0  # that the state does not have yet
        self._last = float("-inf")  # when an image counted
        self._times: dict[str, float] = {}  # by class
        self._image = b""  # the digest of the last one
        self._pictures: tuple[Picture, ...] = ()
        self._shift = Shift()
        self._broken = False

    @property
    def state(self) -> State | None:
        """What is remembered now; None before the first answer."""
        with self._lock:
            return self._whole()

    @property
    def shift(self) -> float | None:
        """How far features have moved together, since this process or release began: `Shift`."""
        return self._shift.ratio

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The least typical images, as many as the settings ask for."""
        with self._lock:
            self._pictures = least(self._pictures, self.settings.pictures)
            return self._pictures

    def resume(self, state: State, pictures: tuple[Picture, ...] = ()) -> None:
        """Go on from what an earlier process remembered."""
        with self._lock:
            self._state, self._pictures = state, pictures

    def follow(self, mark: Mark) -> None:
        """Begin anew if another release answers, although no image came since."""
        with self._lock:
            if self._state is not None and self._state.mark.digest != mark.digest:
                self._begin(mark)

    def acknowledge(self) -> None:
        """Take an alarm back, and begin anew."""
        with self._lock:
            state = self._whole()
            self._state = None if state is None else state.acknowledged(self._now())
            self._pictures, self._shift = (), Shift()

    def saw(
        self,
        mark: Mark,
        found: "Sequence[Prediction]",
        images: Sequence[np.ndarray | Exception | None],
    ) -> None:
        """Count the images of an answer.

        Args:
            mark: What answers now; an answer that another release gave is late, and not counted.
            found: The answers.
            images: Of each: uint8 [side, side, 3], or something else where there is none.
        """
        if self._broken:
            return
        try:
            place = self._chosen(mark, found)
            image = None if place is None else images[place]
            if place is not None and isinstance(image, np.ndarray):
                self._count(mark, found[place], image)
        except Exception as error:  # whatever it is, the answer must not fail
            self._broken = True
            _LOG.warning("drift-ended: images are no longer counted: %s", one_line(error))

    def _chosen(self, mark: Mark, found: "Sequence[Prediction]") -> int | None:
        """Return which image of an answer counts; None if none does."""
        now = self._clock()
        with self._lock:
            if self._state is None:
                self._state = State(mark, self._now())
            elif self._state.mark != mark:
                self._begin(mark)
            self._answered += len(found)
            self._unreadable += sum(each.error is not None for each in found)
            every = self.settings.every
            if (
                now - self._last < min(_LEAST_GAP, every)
                or self._state.answered + self._answered <= SKIPPED
            ):
                return None
            for place, each in enumerate(found):
                late = (each.release, each.local) != (mark.release, mark.local)
                if each.label is None or late:
                    continue
                if now - self._times.get(each.label, float("-inf")) < every:
                    continue
                self._last = now
                if len(self._times) >= _KEPT:
                    self._times = {k: t for k, t in self._times.items() if now - t < every}
                self._times[each.label] = now
                return place
        return None

    def _begin(self, mark: Mark) -> None:
        whole = self._whole()
        assert whole is not None  # noqa: S101  the caller looked
        self._state = whole.followed_by(mark, self._now())
        self._times.clear()
        self._pictures, self._shift = (), Shift()

    def _whole(self) -> State | None:
        """Return the state with what was answered since, and keep it so; needs the lock."""
        state = self._state
        if state is None or not self._answered:
            return state
        camera = state.camera
        unreadable = camera.unreadable.having(self._unreadable, self._answered)
        self._state = replace(
            state,
            answered=state.answered + self._answered,
            camera=replace(camera, unreadable=unreadable),
        )
        self._answered = self._unreadable = 0
        return self._state

    def _count(self, mark: Mark, answer: "Prediction", image: np.ndarray) -> None:
        measured = Measured.of(image)  # without the lock: it takes a millisecond
        with self._lock:
            state = self._whole()
            if state is None or state.mark != mark or answer.label is None:
                return
            same = measured.digest == self._image
            self._image = measured.digest
            camera = state.camera
            camera = replace(
                camera,
                brightness=camera.brightness.having(measured.brightness),
                sharpness=camera.sharpness.having(measured.sharpness),
                same=camera.same + 1 if same else 1,
                repeated=camera.repeated + same,
            )
            state = replace(state, camera=camera)
            if not same:  # else it tells nothing that the one before did not
                self._keep(answer.typical, image)
                self._shift = self._shift.having(answer.away)
                rung = state.tracks[ATYPICAL].alarm
                state = state.having(
                    answer.label,
                    answer.known,
                    answer.typical,
                    self.settings.run_length,
                    self._now(),
                )
                if rung is None and state.tracks[ATYPICAL].alarm is not None:
                    _LOG.warning(
                        "drift: images are less like those that release %s learned: see "
                        "`edgecl-device drift`",
                        mark.version,
                    )
            self._state = state

    def _keep(self, typical: float | None, image: np.ndarray) -> None:
        """Keep an image if it is among the least typical; needs the lock."""
        most = self.settings.pictures
        if most and typical is not None:
            full = len(self._pictures) >= most
            if not full or typical <= self._pictures[-1].typical:
                new = Picture(typical, self._now(), image.copy())
                self._pictures = least((*self._pictures, new), most)
