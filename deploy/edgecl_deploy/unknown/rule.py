"""The p-value of every class, and the set of classes that an image may be of.

With s_k(x) the score of image x for class k (`own`) and s_1..s_n those of its training images,

    p_k(x) = (1 + #{i: s_i <= s_k(x)}) / (n + 1),   C(x) = {k: p_k(x) > alpha}

(class-conditional conformal prediction: Vovk, ACML 2012, section 3, https://arxiv.org/abs/1209.2673;
an empty set reads as an outlier: Guan and Tibshirani, JRSS-B 2022, https://arxiv.org/abs/1905.04396).
An image of k that is exchangeable with its training images is outside of C with a probability of at
most alpha, whatever other classes there are or will be. p and alpha are compared as whole numbers:
with n = 19, p = 1 / 20 is not above 0.05, which floats do not promise.

A class of fewer than 1 / alpha - 1 scores could never be left out. It is judged by its `pooled`
distances (`table`), which promises the rate over all such classes, not for each. One without a
score (of one image, of sums) is supposed to have the usual mean. A class that a device knows by its
`name` alone has no image at all: the same, and a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecl_deploy.errors import OptionError
from edgecl_deploy.format import ALPHAS
from edgecl_deploy.unknown.own import unit
from edgecl_deploy.unknown.table import POOL, Table, ranks

ALPHA = 0.05  # share of the images of a class that may be called unknown, where nobody chose
OF_CLASS, POOLED, NAME = "class", "pooled", "name"  # what a p-value is based on
_WHOLE = 1_000_000  # alpha is a number of millionths
_AT_ONCE = 1 << 22  # comparisons


def checked_alpha(alpha: float) -> float:
    """Return alpha.

    Raises:
        OptionError: It is out of range.
    """
    least, most = ALPHAS
    if not least <= alpha <= most:
        raise OptionError(
            f"alpha must be in [{least:g}, {most:g}]",
            f"{alpha:g}",
            f"It is the share of known images that may be called unknown; {ALPHA} is usual.",
        )
    return alpha


@dataclass(frozen=True, eq=False)
class Part:
    """The class rows of one task, or of the device.

    Attributes:
        classes: Of each row.
        live: Whether each row counts.
        rows: [c, w], what images are compared with; or [c, d, w], subspaces.
        columns: The part of `feature` that is: begin and end.
        named: The rows are embeddings of names that no image was seen of.
    """

    table: Table
    classes: Sequence[str]
    live: Sequence[bool]
    rows: np.ndarray
    columns: tuple[int, int]
    named: bool = False


def with_subspaces(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Add the subspaces that the tables of a model have.

    A class all of whose rows have one is compared with them alone. They are of the images of their
    own task, so they count where a later task has moved the row.

    Args:
        parts: Of the rows, [c, w].
    """
    has = [_subspaces(part.table) for part in parts]
    missing = {
        name
        for part, there in zip(parts, has, strict=True)
        for name, one in zip(part.classes, there, strict=True)
        if not one
    }
    found = []
    for part in parts:
        rows = zip(part.live, part.classes, strict=True)
        found.append(replace(part, live=[live and name in missing for live, name in rows]))
    for part, there in zip(parts, has, strict=True):
        if part.table.angles is not None and part.table.directions is not None:
            spaces = part.table.directions
            found.append(Part(part.table.angles, part.classes, there, spaces, part.columns))
    return tuple(found)


def _subspaces(table: Table) -> list[bool]:
    """Return whether each row of a table has a subspace."""
    return [False] * len(table.count) if table.angles is None else list(table.angles.count > 0)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the rule finds for b images and k classes.

    Attributes:
        p: float64 [b, k].
        inside: bool [b, k], whether the class is in the set of the image.
        pooled: bool [b, k], whether p is based on pooled distances.
        named: bool [k], whether no row of the class is of images.
    """

    p: np.ndarray
    inside: np.ndarray
    pooled: np.ndarray
    named: np.ndarray

    def basis(self, image: int, label: int) -> str:
        """Return what the p-value of a class is based on."""
        if self.named[label]:
            return NAME
        return POOLED if self.pooled[image, label] else OF_CLASS


@dataclass(frozen=True, eq=False)
class Reference:
    """What the p-values of a model are taken from. A class is as typical as its best row.

    Attributes:
        names: Of the k classes.
        parts: That it was made of, without subspaces.
    """

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    _columns: tuple[int, int]
    _rows: np.ndarray  # float64 [r, w], of length 1: rows and directions, sorted by class
    _first: np.ndarray  # int64 [c], where those of each row begin
    _space: np.ndarray  # bool [c], whether it is a subspace
    _starts: np.ndarray  # int64 [k], where each class begins
    _count: np.ndarray  # int64 [c]
    _order: np.ndarray  # float32 [c, 64]
    _next: np.ndarray  # int64 [c, 65], 1 + how many scores are at most one at each place
    _centre: np.ndarray  # float32 [c]
    _pool: np.ndarray  # int64 [c], the pool of each row
    _residual: np.ndarray  # float32 [pools, 256], infinity after the last
    _size: np.ndarray  # int64 [pools]
    _named: np.ndarray  # bool [k]
    _usual: np.ndarray  # float64 [u, w], c r of each row that counts, sorted by class: `away`
    _begins: np.ndarray  # int64 [k], where each class begins in it

    @classmethod
    def of(cls, names: Sequence[str], parts: Sequence[Part]) -> "Reference | None":
        """Join the parts of a model; None of no parts.

        Args:
            names: Its classes; each has a row that counts.
            parts: Of one and the same part of `feature`; subspaces are added.
        """
        if not parts:
            return None
        own, parts = tuple(parts), with_subspaces(parts)
        place = {name: i for i, name in enumerate(names)}
        usual, begins = _usual(own, place)
        owner = np.array([place[name] for part in parts for name in part.classes], np.int64)
        live = np.array([each for part in parts for each in part.live], bool)
        index = np.argsort(owner, kind="stable")
        index = index[live[index]]
        tables = [part.table for part in parts]
        count = np.concatenate([each.count for each in tables]).astype(np.int64)[index]
        pool = np.repeat(np.arange(len(parts)), [len(part.classes) for part in parts])[index]
        residual = np.full((len(parts), POOL), np.inf, np.float32)
        for row, each in zip(residual, tables, strict=True):
            row[: len(each.residual)] = each.residual
        named = np.repeat([part.named for part in parts], [len(part.classes) for part in parts])
        starts = np.searchsorted(owner[index], np.arange(len(names)))
        every = [row for part in parts for row in part.rows]  # each [w], or [d, w]
        rows = [np.atleast_2d(every[at]) for at in index]
        return cls(
            names=tuple(names),
            parts=own,
            _columns=parts[0].columns,
            _rows=unit(np.concatenate(rows)),
            _first=np.cumsum([0, *map(len, rows[:-1])]),
            _space=np.array([every[at].ndim > 1 for at in index], bool),
            _starts=starts,
            _count=count,
            _order=np.concatenate([each.order for each in tables])[index],
            _next=np.column_stack([ranks(count), count + 1]),
            _centre=np.concatenate([each.centre for each in tables])[index],
            _pool=pool,
            _residual=residual,
            _size=np.array([len(each.residual) for each in tables], np.int64),
            _named=np.logical_and.reduceat(named[index], starts),
            _usual=usual,
            _begins=begins,
        )

    @property
    def width(self) -> int:
        """How long `feature` must be at least."""
        return self._columns[1]

    def cosines(self, feature: np.ndarray) -> np.ndarray:
        """Return the score of every row that counts, -infinity where it is no number.

        Args:
            feature: [b, f].

        Returns:
            float32 [b, c], sorted by class.
        """
        begin, end = self._columns
        along = unit(feature[:, begin:end]) @ self._rows.T
        scores = along[:, self._first]
        if self._space.any():
            lengths = np.sqrt(np.add.reduceat(along * along, self._first, axis=1))
            scores = np.where(self._space, lengths, scores)
        scores = scores.astype(np.float32)
        found: np.ndarray = np.where(np.isnan(scores), np.float32(-np.inf), scores)
        return found

    def away(self, feature: np.ndarray, label: int) -> np.ndarray:
        """Return how far a feature is from what is usual of a class: x - c r, float64 [w].

        With x the feature at length 1, r the row of the class that is nearest to it, and c the mean
        score of that row's images: the mean of such x is c r.

        Args:
            feature: [f].
            label: The class.
        """
        begin, end = self._columns
        (x,) = unit(feature[None, begin:end])
        first = self._begins[label]
        last = self._begins[label + 1] if label + 1 < len(self._begins) else len(self._usual)
        usual = self._usual[first:last]
        found: np.ndarray = x - usual[int((usual @ x).argmax())]
        return found

    def judge(self, feature: np.ndarray, alpha: float) -> Judged:
        """Return the p-value of every class for every image.

        Args:
            feature: [b, f].
            alpha: The share of images of a class that may be left out of its set.
        """
        return self.judge_scores(self.cosines(feature), alpha)

    def judge_scores(self, scores: np.ndarray, alpha: float) -> Judged:
        """Return what `judge` does, of scores that are there already.

        Args:
            scores: float32 [b, c], as of `cosines`.
            alpha: As of `judge`.
        """
        cut = round(alpha * _WHOLE)
        above = np.broadcast_to(self._count + 1, scores.shape).copy()  # the denominators
        below = np.take_along_axis(self._next, _at_most(self._order, scores).T, axis=1).T
        few = cut * (self._count + 1) < _WHOLE  # [c]: could never be left out
        if few.any():
            away = scores[:, few] - self._centre[few]
            pools = self._pool[few]
            below[:, few] = 1 + _at_most(self._residual[pools], away)
            above[:, few] = 1 + self._size[pools]
        p, inside = below / above, below * _WHOLE > cut * above
        best = np.maximum.reduceat(p, self._starts, axis=1)  # b k
        rows = np.diff(np.append(self._starts, len(self._count)))
        of_class = (p == np.repeat(best, rows, axis=1)) & ~few
        return Judged(
            p=best,
            inside=np.logical_or.reduceat(inside, self._starts, axis=1),
            pooled=~np.logical_or.reduceat(of_class, self._starts, axis=1),
            named=self._named,
        )


def _usual(parts: Sequence[Part], place: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return what is usual of the rows of classes that count, and where each class begins.

    Args:
        parts: Without subspaces.
        place: Of each class.

    Returns:
        float64 [u, w], sorted by class, and int64 [k].
    """
    owner = np.array([place[name] for part in parts for name in part.classes], np.int64)
    index = np.argsort(owner, kind="stable")
    index = index[np.array([live for part in parts for live in part.live], bool)[index]]
    centre = np.concatenate([part.table.centre for part in parts])[index]
    rows = unit(np.concatenate([part.rows for part in parts])[index])
    begins = np.searchsorted(owner[index], np.arange(len(place)))
    return rows * centre[:, None].astype(np.float64), begins


def _at_most(order: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return how many numbers of each row are at most a score.

    Args:
        order: [c, k].
        scores: [b, c].

    Returns:
        int64 [b, c].
    """
    step = max(1, _AT_ONCE // max(1, order.size))
    blocks = [scores[i : i + step] for i in range(0, len(scores), step)]
    found = [(order <= each[:, :, None]).sum(axis=2, dtype=np.int64) for each in blocks]
    return np.concatenate([*found, np.empty((0, scores.shape[1]), np.int64)])
