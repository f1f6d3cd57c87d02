"""An e-detector of Shiryaev-Roberts type for the mean of a number in [0, 1].

Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
NEJSDS 2024 (https://arxiv.org/abs/2203.03532), definition 2.4 and section 4 on bounded means.

Law: for any stream whose next number has, whatever came before, a mean of at least `level`, an
alarm comes after `run_length` numbers or more on average. Nothing is assumed about how they are
distributed, nor that they are independent; the level is fixed and is never learned from the stream.
"""

import math
from dataclasses import dataclass

import numpy as np

BETS = (0.1, 0.25, 0.5, 1.0, 1.5)  # lambda, for a level of 1/2
_MIDDLE = 3  # of BETS: the one by which the begin of a change is dated
_HALF = 0.5


@dataclass(frozen=True)
class Detector:
    """What is bet against a level.

    Attributes:
        level: The mean that the numbers have, or exceed, while nothing changes.
    """

    level: float = _HALF

    @property
    def bets(self) -> np.ndarray:
        """The bets: float64 [k]; a number of 1 leaves the same share of the evidence at any level.

        A bet is less than 1 / (1 - level), so no factor is 0.
        """
        return np.array(BETS) * (_HALF / (1.0 - self.level))

    def start(self, *shape: int) -> np.ndarray:
        """Return the state before the first number: float64 [..., k], log(1 + R) of each bet.

        Args:
            shape: Of the streams that are followed side by side; none for one stream.
        """
        return np.zeros((*shape, len(BETS)))

    def step(self, state: np.ndarray, number: float | np.ndarray) -> np.ndarray:
        """Return the state after one more number.

        R <- (R + 1)(1 + lambda (level - u)), as log(1 + R), which no stream overflows.

        Args:
            state: float64 [..., k].
            number: In [0, 1], one of each stream: [...].
        """
        gain = self._gains(number)
        return np.asarray(np.logaddexp(0.0, state + gain))

    def _gains(self, number: float | np.ndarray) -> np.ndarray:
        below = self.level - np.asarray(number, np.float64)[..., None]
        return np.asarray(np.log1p(self.bets * below))

    def evidence(self, state: np.ndarray) -> np.ndarray:
        """Return log(1 + mean R) over the bets: float64 [...] of [..., k].

        A mean of e-detectors is one (proposition 4.1), so no bet has to be chosen.
        """
        return np.asarray(np.logaddexp.reduce(state, axis=-1) - math.log(len(BETS)))

    def recent(self, score: float, number: float) -> float:
        """Return the evidence since its last low: the sum of gains, begun anew below 0.

        Where it last was 0 is the likeliest begin of a change (Page, Biometrika 1954).

        Args:
            score: That before.
            number: In [0, 1].
        """
        return max(0.0, score + float(self._gains(number)[_MIDDLE]))


def threshold(run_length: float) -> float:
    """Return the evidence at which an alarm is given.

    Args:
        run_length: Numbers between two false alarms, at least, on average.
    """
    return math.log1p(run_length)
