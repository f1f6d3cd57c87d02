"""Linear discriminants that are solved again for more images, without the images before them.

Of the workstation's images there are the mean and the number of each class and their scatter within
the classes. New images move the mean of their class, and add to the scatter what they are from it;
the covariance is shrunk anew, and all rows are solved (`edgecl`'s classifier of the same name). An
image is left out exactly but for the shrinkage, which stays that of all images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl_deploy.enrol.ridge import Solved, balanced, expanded
from edgecl_deploy.errors import NonFiniteError, TensorShapeError
from edgecl_deploy.format import SHRINKAGES, Enrol, Factor, packed_size

FACTOR, MEANS, COUNTS, ROWS = "factor", "means", "counts", "rows"
_ACTION = "Make the release again with `edgecl export release --enrolment`."


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the workstation's images.

    Attributes:
        scatter: float64 [m, m], of all images from the mean of their class.
        means: float64 [k, m].
        counts: float64 [k], images of each class.
        rows: int [r], the class of each row of the head.
    """

    scatter: np.ndarray
    means: np.ndarray
    counts: np.ndarray
    rows: np.ndarray

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], declared: Factor, rows: int) -> "Known":
        """Read it from the object of a release.

        Args:
            tensors: Of the object.
            declared: In the release.
            rows: Of its head.

        Raises:
            TensorShapeError: It is not what the release declares.
            NonFiniteError: It is damaged.
        """
        size = declared.size
        classes = len(tensors[COUNTS]) if COUNTS in tensors and tensors[COUNTS].ndim else 0
        wanted = {
            FACTOR: (np.float32, (packed_size(size),)),
            MEANS: (np.float32, (classes, size)),
            COUNTS: (np.int32, (classes,)),
            ROWS: (np.int32, (rows,)),
        }
        for name, (dtype, shape) in wanted.items():
            held = tensors.get(name)
            if held is None or held.dtype != dtype or held.shape != shape:
                raise TensorShapeError(
                    f"{name} of a discriminant's factor must be {np.dtype(dtype)} {list(shape)}",
                    "none" if held is None else f"{held.dtype} {list(held.shape)}",
                    _ACTION,
                )
        means, counts, owner = tensors[MEANS], tensors[COUNTS], tensors[ROWS]
        triangle = np.zeros((size, size))
        triangle[np.tril_indices(size)] = tensors[FACTOR]
        finite = np.isfinite(triangle).all() and np.isfinite(means).all()
        whole = counts.min(initial=1) > 0 and int(counts.sum(dtype=np.int64)) == declared.images
        inside = owner.min(initial=0) >= 0 and owner.max(initial=-1) < classes
        if not (finite and whole and inside):
            raise NonFiniteError(
                "the factor of the release must be that of images of its classes", "one of none",
                _ACTION,
            )  # fmt: skip
        covariance = triangle @ triangle.T - declared.weight * np.eye(size)
        return cls(
            declared.images * covariance, means.astype(np.float64), counts.astype(np.float64), owner
        )


def solved(
    enrol: Enrol,
    learned: Mapping[str, np.ndarray],
    rows: Sequence[str],
    live: Sequence[bool],
    known: Known,
    classes: Mapping[str, np.ndarray],
) -> tuple[Solved, dict[str, np.ndarray]]:
    """Solve the head again.

    Args:
        enrol: How the program takes a class.
        learned: The learned tensors of the release.
        rows: The class of every row of its head.
        live: Whether each of them counts.
        known: What it was solved from.
        classes: The features of each class that was enrolled, float32 [n, f].

    Returns:
        The head, of the rows of the release and then of the classes that it has not, and its
        tensors by name.
    """
    scatter, means, counts = known.scatter.copy(), list(known.means), list(known.counts)
    place: dict[str, int] = {}
    for row, name in enumerate(rows):
        if live[row]:
            place[name] = int(known.rows[row])  # more images of a class go to its newest row
    seen, owner = [], []
    for name, features in classes.items():
        own = expanded(enrol, learned, features).astype(np.float64)
        mean, count = own.mean(axis=0), len(own)
        away = own - mean
        scatter += away.T @ away
        at = place.setdefault(name, len(means))
        if at == len(means):
            means.append(mean)
            counts.append(float(count))
        else:
            step, total = mean - means[at], counts[at] + count
            scatter += counts[at] * count / total * np.outer(step, step)
            means[at] = means[at] + count / total * step
            counts[at] = total
        seen.append(own)
        owner += [at] * count
    new = range(len(known.means), len(means))
    every = np.array([*known.rows, *new])
    head = _Head.of(np.stack(means), np.array(counts), scatter, enrol.shrinkage or SHRINKAGES[0])
    names = tuple(dict.fromkeys((*rows, *classes)))
    added = [name for name in classes if place[name] in new]
    left = head.left_out(np.concatenate(seen) if seen else np.zeros((0, len(scatter))), owner)
    live_rows = [*live, *(True for _ in added)]
    by_class = np.full((len(left), len(names)), -np.inf)
    for row, name in enumerate((*rows, *added)):
        if live_rows[row]:
            column = names.index(name)
            by_class[:, column] = np.maximum(by_class[:, column], left[:, every[row]])
    weight, bias = head.weight[every], head.bias[every]
    part, scale = balanced(weight)
    assert enrol.scale is not None  # noqa: S101  read so
    assert enrol.bias is not None  # noqa: S101  read so
    tensors = {enrol.tensor: part, enrol.scale: scale, enrol.bias: bias.astype(np.float32)}
    return Solved(names, weight.T, by_class), tensors


@dataclass(frozen=True, eq=False)
class _Head:
    """Discriminants of classes, and what leaves an image out of them."""

    means: np.ndarray  # k m
    counts: np.ndarray  # k
    inverse: np.ndarray  # m m
    keep: float  # of the covariance in what was inverted
    usual: float  # what the scores are divided by
    weight: np.ndarray  # k m
    bias: np.ndarray  # k

    @classmethod
    def of(cls, means: np.ndarray, counts: np.ndarray, scatter: np.ndarray, how: str) -> "_Head":
        """Solve it.

        Raises:
            NonFiniteError: The covariance is that of no images.
        """
        images = int(counts.sum())
        covariance = scatter / images
        keep, ridge = shrinking(covariance, images, how)
        away = means - means.mean(axis=0)
        try:
            whole = keep * covariance + ridge * np.eye(len(scatter))
            np.linalg.cholesky(whole)
            inverse = np.linalg.inv(whole)
        except np.linalg.LinAlgError as error:
            raise NonFiniteError(
                "the covariance of the classes must be positive definite",
                "one that is not",
                "Install the release again, or release without `--enrolment`.",
            ) from error
        weight = away @ inverse
        usual = float((weight * away).sum(axis=1).mean() / 2) or 1.0
        weight = weight / usual
        bias = -(weight * (means + means.mean(axis=0))).sum(axis=1) / 2
        return cls(means, counts, inverse, keep, usual, weight, bias)

    def left_out(self, seen: np.ndarray, owner: Sequence[int]) -> np.ndarray:
        """Return the scores of images by the head without each: float64 [n, k].

        Without an image x of a class of n, at d from its mean, the mean is d / (n - 1) further off
        and the scatter n / (n - 1) d d' less: one more product with the inverse.
        """
        found = np.empty((len(seen), len(self.means)))
        of_means, of_seen = self.means @ self.inverse, seen @ self.inverse
        images = self.counts.sum()
        for i, k in enumerate(owner):
            others = self.counts[k] - 1
            means, turned = self.means.copy(), of_means.copy()
            drop, turned_drop = seen[i] - self.means[k], of_seen[i] - of_means[k]
            gain = 0.0
            if others:
                means[k] -= drop / others
                turned[k] -= turned_drop / others
                less = self.keep * self.counts[k] / (others * images)
                gain = less / max(1 - less * float(drop @ turned_drop), 1e-9)
            centre = means.mean(axis=0)
            away, turned = means - centre, turned - turned.mean(axis=0)
            half = seen[i] - (means + centre) / 2
            plain = (turned * half).sum(axis=1)
            found[i] = (plain + gain * (away @ turned_drop) * (half @ turned_drop)) / self.usual
        return found


def shrinking(covariance: np.ndarray, images: int, how: str) -> tuple[float, float]:
    """Return how much of a covariance is kept, and what is added to its diagonal.

    Args:
        covariance: [m, m].
        images: That it is of.
        how: One of `SHRINKAGES`.
    """
    width, trace = len(covariance), float(np.trace(covariance))
    if how == "trace":
        return 1.0, trace / max(1, images - 1)
    variance = trace / width
    spread = float(np.square(covariance).mean())
    over = (images + 1) * (spread - variance**2 / width)
    share = min(1.0, (spread + variance**2) / over) if over > 0 else 1.0
    return 1 - share, share * variance
