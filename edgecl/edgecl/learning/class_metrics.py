"""The figures of each class, from what was answered for labelled images, one at a time.

They are bounded: three counts a class, the most confused pairs, the worst mistakes.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecl.learning.fields import Fields, Reader, count, listed, number, optional, refuse, text
from edgecl.learning.pictures import picture, thumbnail

PAIRS = 200  # of classes that are confused, the most frequent ones
MISTAKES = 48  # the most certain ones


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another one."""

    wanted: str
    said: str
    images: int

    @classmethod
    def from_json(cls, value: object, where: str) -> "Pair":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            wanted=fields.take("wanted", text),
            said=fields.take("said", text),
            images=fields.take("images", count),
        )
        fields.done()
        return found


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class.

    Attributes:
        image: its name.
        score: that of the class that was answered; None where it is no finite number.
        picture: a small picture of it, see `pictures.thumbnail`; empty where none is stored.
    """

    image: str
    wanted: str
    said: str
    score: float | None
    picture: str = ""

    @classmethod
    def from_json(cls, value: object, where: str) -> "Mistake":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            image=fields.take("image", text),
            wanted=fields.take("wanted", text),
            said=fields.take("said", text),
            score=fields.take("score", optional(number)),
            picture=fields.take("picture", picture),
        )
        fields.done()
        return found


Named = TypeVar("Named", Pair, Mistake)


def renamed_all(found: Sequence[Named], old: str, new: str) -> tuple[Named, ...]:
    """Return pairs or mistakes under another name of a class, without what is right then."""
    changed = (
        replace(
            each,
            wanted=new if each.wanted == old else each.wanted,
            said=new if each.said == old else each.said,
        )
        for each in found
    )
    return tuple(each for each in changed if each.wanted != each.said)


@dataclass(frozen=True)
class ClassFigures:
    """What was answered for labelled images, by class.

    Attributes:
        names: of the classes that may be answered, and of others that images were of.
        images: of each class, how many were asked.
        right: of each class, how many of them were answered with it.
        said: of each class, how many of all images were answered with it.
        pairs: the most confused ones, the most frequent first.
        pairs_left_out: how many more there are.
        mistakes: the worst, by the score of the wrong class, highest first.
        mistakes_left_out: how many more there are.
    """

    names: tuple[str, ...]
    images: tuple[int, ...]
    right: tuple[int, ...]
    said: tuple[int, ...]
    pairs: tuple[Pair, ...] = ()
    pairs_left_out: int = 0
    mistakes: tuple[Mistake, ...] = ()
    mistakes_left_out: int = 0

    def __post_init__(self) -> None:
        columns = (self.images, self.right, self.said)
        if len(set(self.names)) != len(self.names):
            refuse("classes.names", "names of classes, each once", self.names)
        if any(len(column) != len(self.names) for column in columns):
            refuse("classes", f"three counts for each of {len(self.names)} classes", columns)
        if any(r > min(i, s) for i, r, s in zip(*columns, strict=True)):
            refuse("classes.right", "at most the images and the answers of each class", self.right)
        if sum(self.images) != sum(self.said):
            refuse("classes.said", f"answers to {sum(self.images)} images", self.said)

    def renamed(self, old: str, new: str) -> "ClassFigures":
        """Return the figures under another name of a class, which may be that of another class.

        Pairs that were left out stay unknown: images of two classes that become one and were taken
        for one another count as right as far as they are listed.
        """
        if old not in self.names:
            return self
        confused = [pair for pair in self.pairs if {pair.wanted, pair.said} == {old, new}]
        columns: dict[str, list[int]] = {}
        for name, *counts in zip(self.names, self.images, self.right, self.said, strict=True):
            held = columns.setdefault(new if name == old else name, [0, 0, 0])
            held[:] = (one + other for one, other in zip(held, counts, strict=True))
        columns[new][1] += sum(pair.images for pair in confused)
        images, right, said = zip(*columns.values(), strict=True)
        pairs: Counter[tuple[str, str]] = Counter()
        for pair in renamed_all(self.pairs, old, new):
            pairs[pair.wanted, pair.said] += pair.images
        return replace(
            self,
            names=tuple(columns),
            images=images,
            right=right,
            said=said,
            pairs=tuple(Pair(*of, images) for of, images in pairs.most_common()),
            mistakes=renamed_all(self.mistakes, old, new),
        )

    @property
    def accuracy(self) -> float | None:
        """Return the share of images with the right answer; None without an image."""
        return quotient(sum(self.right), sum(self.images))

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Return, of each class, the share of its images that were answered with it.

        None of a class without images.
        """
        return tuple(map(quotient, self.right, self.images))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Return, of each class, the share of the answers with it that were right.

        None of a class that was never answered.
        """
        return tuple(map(quotient, self.right, self.said))

    @property
    def without_images(self) -> tuple[str, ...]:
        """Return the classes that no image was of."""
        return tuple(name for name, each in zip(self.names, self.images, strict=True) if not each)

    def without_pictures(self) -> "ClassFigures":
        """Return the same figures without the pictures of the mistakes."""
        return replace(self, mistakes=tuple(replace(each, picture="") for each in self.mistakes))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, where: str) -> "ClassFigures":
        """Read what `to_json` gives; what is none is a RecordError."""
        fields = Fields(value, where)
        counts: Reader[tuple[int, ...]] = listed(count)
        found = cls(
            names=fields.take("names", listed(text)),
            images=fields.take("images", counts),
            right=fields.take("right", counts),
            said=fields.take("said", counts),
            pairs=fields.take("pairs", listed(Pair.from_json)),
            pairs_left_out=fields.take("pairs_left_out", count),
            mistakes=fields.take("mistakes", listed(Mistake.from_json)),
            mistakes_left_out=fields.take("mistakes_left_out", count),
        )
        fields.done()
        return found


def quotient(part: int, whole: int) -> float | None:
    """Return a share; None of nothing."""
    return part / whole if whole else None


class ClassTally:
    """Counts answers as they come; what it holds is bounded by the classes and their pairs.

    Args:
        names: of the classes that may be answered.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(dict.fromkeys(names))
        self._answers: Counter[tuple[str, str]] = Counter()
        self._worst: list[tuple[float, int, Mistake]] = []  # a heap, the least certain first
        self._mistakes = 0

    def add(
        self,
        image: str,
        wanted: str,
        said: str,
        score: float,
        pixels: Callable[[], NDArray[np.uint8]] | None = None,
    ) -> None:
        """Count the answer to one image.

        Args:
            image: its name.
            pixels: return uint8 [h, w, 3], if the record is to hold a small picture of a mistake.
        """
        self._answers[wanted, said] += 1
        if wanted == said:
            return
        self._mistakes += 1
        finite = math.isfinite(score)
        # Of equal scores the first image stays: the same images give the same record.
        rank = (score if finite else -math.inf, -self._mistakes)
        full = len(self._worst) == MISTAKES
        if full and rank < self._worst[0][:2]:
            return
        small = "" if pixels is None else thumbnail(pixels())
        mistake = Mistake(image, wanted, said, score if finite else None, small)
        (heapq.heappushpop if full else heapq.heappush)(self._worst, (*rank, mistake))

    def figures(self) -> ClassFigures:
        """Return the figures of what was counted."""
        images: Counter[str] = Counter()
        said: Counter[str] = Counter()
        for (wanted, answer), number_of in self._answers.items():
            images[wanted] += number_of
            said[answer] += number_of
        wrong = [Pair(*names, n) for names, n in self._answers.items() if names[0] != names[1]]
        wrong.sort(key=lambda pair: (-pair.images, pair.wanted, pair.said))
        worst = sorted(self._worst, reverse=True)
        names = tuple(dict.fromkeys((*self.names, *images)))
        return ClassFigures(
            names=names,
            images=tuple(images[name] for name in names),
            right=tuple(self._answers[name, name] for name in names),
            said=tuple(said[name] for name in names),
            pairs=tuple(wrong[:PAIRS]),
            pairs_left_out=max(0, len(wrong) - PAIRS),
            mistakes=tuple(mistake for _, _, mistake in worst),
            mistakes_left_out=self._mistakes - len(worst),
        )
