"""What is measured: an image that was prepared, and shares of counts."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

WINDOW = 500  # images of a half of a window
_LEARNED = 200  # images by which a camera is known
_ENOUGH = 100  # images without which nothing is said of a camera
_RECENT = 1 / 32  # weight of the newest image in the recent mean
_FAR = 3.0  # standard deviations of single images, by which a mean has moved
_NORMAL = 1.96  # the two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Measured:
    """What a prepared image looks like.

    Attributes:
        digest: Of its pixels; it is compared with the next one, and never written.
        brightness: Mean of the green channel, 0 to 255.
        sharpness: log(1 + variance of the Laplacian of the green channel).
    """

    digest: bytes
    brightness: float
    sharpness: float

    @classmethod
    def of(cls, image: np.ndarray) -> "Measured":
        """Measure an image: uint8 [side, side, 3]."""
        whole = np.ascontiguousarray(image)
        green = whole[..., 1].astype(np.float32)
        edges = (
            4 * green[1:-1, 1:-1]
            - green[:-2, 1:-1]
            - green[2:, 1:-1]
            - green[1:-1, :-2]
            - green[1:-1, 2:]
        )  # [side - 2, side - 2]
        variance = float(edges.var()) if edges.size else 0.0
        digest = hashlib.blake2b(whole.data, digest_size=16).digest()
        return cls(digest, float(green.mean()), math.log1p(variance))


@dataclass(frozen=True)
class Baseline:
    """The first images of a camera, and the last ones.

    Attributes:
        count: Images that it is of, at most 200: then it stays.
        mean: Of them.
        squares: Sum of the squared distances from the mean (Welford, Technometrics 1962).
        recent: Mean of the last images, each with 31/32 of the weight of the next.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    recent: float = 0.0

    def having(self, value: float) -> "Baseline":
        """Return it with one more image."""
        if self.count == 0:
            return Baseline(1, value, 0.0, value)
        recent = self.recent + _RECENT * (value - self.recent)
        if self.count >= _LEARNED:
            return Baseline(self.count, self.mean, self.squares, recent)
        count = self.count + 1
        mean = self.mean + (value - self.mean) / count
        squares = self.squares + (value - self.mean) * (value - mean)
        return Baseline(count, mean, squares, recent)

    @property
    def spread(self) -> float:
        """The standard deviation of single images."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def shift(self, least: float) -> int:
        """Return whether the last images are far above (1) or below (-1) the first, or not (0).

        Args:
            least: A spread that is never taken to be smaller.
        """
        if self.count < _ENOUGH:
            return 0
        moved = self.recent - self.mean
        far = abs(moved) > _FAR * max(self.spread, least)
        return 0 if not far else 1 if moved > 0 else -1


@dataclass(frozen=True)
class Window:
    """How often something held among the last 500 to 1,000 images: two halves, the newer grows.

    Attributes:
        hits: How often in the newer half.
        images: Of the newer half.
        before: How often in the older half.
        of: Images of the older half.
    """

    hits: int = 0
    images: int = 0
    before: int = 0
    of: int = 0

    def having(self, hits: int, images: int = 1) -> "Window":
        """Return it with more images."""
        if self.images >= WINDOW:
            return Window(hits, images, self.hits, self.images)
        return Window(self.hits + hits, self.images + images, self.before, self.of)

    @property
    def rate(self) -> "Rate":
        """The share, with its interval."""
        return Rate.of(self.hits + self.before, self.images + self.of)


@dataclass(frozen=True)
class Rate:
    """A share of images, with its 95 % interval.

    Attributes:
        share: The share that was counted; 0 of no image.
        low: The lower end.
        high: The upper end.
        images: Of how many.
    """

    share: float
    low: float
    high: float
    images: int

    @classmethod
    def of(cls, hits: int, images: int) -> "Rate":
        """Return the interval of Wilson (JASA 1927).

        Args:
            hits: Images of which it holds.
            images: Of how many.
        """
        if images == 0:
            return cls(0.0, 0.0, 1.0, 0)
        square, share = _NORMAL**2, hits / images
        middle = share + square / (2 * images)
        half = _NORMAL * math.sqrt(share * (1 - share) / images + square / (4 * images**2))
        scale = 1 + square / images
        return cls(
            share, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale), images
        )
