"""How far the features of images have moved together from where their classes are.

Each feature, at length 1, is compared with what is usual of the class that was answered, so a mix
of classes moves nothing. Information, not an alarm: no law bounds it.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgecl_deploy.drift.state import LEAST


@dataclass(frozen=True, eq=False)
class Shift:
    """Sums over images of the difference d of a feature from what is usual; no single one is kept.

    Attributes:
        images: How many there were.
        total: The sum of d, float64 [w]; None before the first.
        squares: The sum of |d|^2.
    """

    images: int = 0
    total: np.ndarray | None = None
    squares: float = 0.0

    def having(self, away: np.ndarray | None) -> "Shift":
        """Return it with one more image; of none, or of one without numbers, it stays.

        Args:
            away: d, [w].
        """
        if away is None or not np.isfinite(away).all():
            return self
        total = away.astype(np.float64)
        if self.total is not None:
            total = self.total + total
        return Shift(self.images + 1, total, self.squares + float(away @ away))

    @property
    def ratio(self) -> float | None:
        """|mean d| / root of the mean |d|^2: 1 if all moved alike, about 1 / sqrt(images) if none.

        None under 20 images.
        """
        if self.images < LEAST or self.total is None or not self.squares:
            return None
        mean = float(np.linalg.norm(self.total)) / self.images
        return mean / math.sqrt(self.squares / self.images)
