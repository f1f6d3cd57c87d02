"""A watch that is told of images by the minute, without a model."""

from collections.abc import Callable, Iterable

import numpy as np
from tests.deploy.support.world import SIDE

from edgecl_deploy.drift.state import Mark
from edgecl_deploy.drift.watch import SKIPPED, Settings, Watch
from edgecl_deploy.loaded import Prediction

FIRST, SECOND = Mark("1" * 64, 1), Mark("2" * 64, 2)


def answer(
    mark: Mark,
    label: str | None = "red",
    known: bool | None = True,
    typical: float | None = None,
) -> Prediction:
    top = () if label is None else ((label, 1.0),)
    error = "it cannot be read" if label is None else None
    return Prediction(
        label, 1.0, top, [], [], mark.release, known, error, mark.local, typical=typical
    )


def noise(seed: int, brightness: float = 128.0, spread: float = 20.0) -> np.ndarray:
    """A picture that no other one is: uint8 [side, side, 3]."""
    values = np.random.default_rng(seed).normal(brightness, spread, (SIDE, SIDE, 3))
    return values.clip(0, 255).astype(np.uint8)


class Stream:
    """Images that come to a watch, and its clocks."""

    def __init__(self, mark: Mark = FIRST, **settings: float) -> None:
        self.mark, self.time, self.count = mark, 1_000.0, 0
        self.watch = Watch(Settings(**settings), lambda: self.time, lambda: self.time)

    def skip(self) -> "Stream":
        """Let the images pass that do not count."""
        self.watch.saw(self.mark, [answer(self.mark)] * SKIPPED, [noise(0)] * SKIPPED)
        return self

    def tell(
        self,
        typicality: Iterable[float],
        gap: float = 20.0,
        label: str | None = "red",
        picture: Callable[[int], np.ndarray] = noise,
    ) -> "Stream":
        """Tell of one image after the other, so many seconds apart."""
        for u in typicality:
            self.time += gap
            self.count += 1
            found = answer(self.mark, label, u > 0.05, u)
            self.watch.saw(self.mark, [found], [picture(self.count)])
        return self

    @property
    def state(self):
        state = self.watch.state
        assert state is not None
        return state


def uniform(count: int, seed: int = 0, most: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) * most
