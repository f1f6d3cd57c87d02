"""What is kept of the scores that the training images of a class have with their own class.

Of each class at most 64 order statistics: all of up to 64 scores, of more those whose ranks are
denser at the low end, where a decision is taken. A rank in between counts as the next one that is
kept, so a p-value is never too small. A class of few images is judged by its distance from the mean
score of the class, against such distances of up to 256 images of this task and of those before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecl_deploy.errors import ManifestError, TensorDtypeError, TensorShapeError
from edgecl_deploy.unknown.own import directions, left_out_of_subspace

ORDER = 64  # order statistics of a class
POOL = 256  # distances of a task
FEW = 3  # scores of a class whose distances say something
SIZE = 64  # directions of a class that are read
_SUBSPACE = "subspace_"  # how the names of the tensors of `angles` begin
_REEXPORT = "Export the task again with `edgecl export pack`."


@dataclass(frozen=True, eq=False)
class Table:
    """The scores of the classes of one task, c rows.

    Attributes:
        count: int32 [c], how many scores a class has; 0 where it is of one image.
        order: float32 [c, 64], order statistics, the smallest first, infinity after the last.
        centre: float32 [c], the mean of the scores.
        residual: float32 [r], at most 256, ascending: distances from the mean score of the others.
        mean: float16 [c, w], what images are compared with where no learned tensor is it: the mean
            of features of length 1; None where one is.
        directions: int8 [c, d, w], d up to 16, the subspace of each class (`own`), zeros after its
            last direction; None where no class has one.
        angles: The same table of the cosines with the subspaces; None where `directions` is.
    """

    count: np.ndarray
    order: np.ndarray
    centre: np.ndarray
    residual: np.ndarray
    mean: np.ndarray | None = None
    directions: np.ndarray | None = None
    angles: "Table | None" = None

    @classmethod
    def of(
        cls,
        scores: Sequence[np.ndarray],
        former: Sequence["Table"] = (),
        mean: np.ndarray | None = None,
    ) -> "Table":
        """Make the table of a task.

        Args:
            scores: Of each class row, those of its images, [n].
            former: The tables of the tasks before.
            mean: [c, w], see `Table`.
        """
        ordered = [np.sort(each.astype(np.float32)) for each in scores]
        own = [
            (each - each.mean()) * (len(each) / (len(each) - 1))
            for each in (each.astype(np.float64) for each in ordered)
            if len(each) >= FEW
        ]
        centres = [float(each.mean(dtype=np.float64)) for each in ordered if len(each)]
        if not centres:
            centres = [float(x) for each in former for x in each.centre[each.count > 0]]
        usual = float(np.median(centres)) if centres else 0.0
        return cls(
            count=np.array([len(each) for each in ordered], np.int32),
            order=np.stack([_kept(each) for each in ordered]),
            centre=np.array(
                [each.mean(dtype=np.float64) if len(each) else usual for each in ordered],
                np.float32,
            ),
            residual=_pool(own, former),
            mean=None if mean is None else mean.astype(np.float16),
        )

    def with_subspaces(
        self, features: Iterable[np.ndarray], former: Sequence["Table"] = ()
    ) -> "Table":
        """Add the subspace of each class of two images or more, and the scores with it.

        After tables that have scores and no subspace there is none: the pool of a task of few
        images would be too small to leave any of them out.

        Args:
            features: Of each class row, those of its images, [n, w].
            former: The tables of the tasks before.
        """
        if any(each.angles is None and each.count.any() for each in former):
            return self
        spaces, scores = [], []
        for each in features:
            several = each if len(each) > 1 else each[:0]
            spaces.append(directions(several))
            scores.append(left_out_of_subspace(several))
        known = [each.angles for each in former if each.angles is not None]
        return replace(self, directions=in_use(np.stack(spaces)), angles=Table.of(scores, known))

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return what is stored of it."""
        found = {
            "count": self.count,
            "order": self.order,
            "centre": self.centre,
            "residual": self.residual,
        }
        if self.mean is not None:
            found["mean"] = self.mean
        if self.directions is not None and self.angles is not None:
            found["directions"] = self.directions
            found |= {_SUBSPACE + name: each for name, each in self.angles.to_tensors().items()}
        return found

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], classes: int, *, spaces: bool = True
    ) -> "Table":
        """Read what `to_tensors` returned.

        Args:
            tensors: By name.
            classes: How many rows it must have.
            spaces: Whether to read the subspaces too, where there are any.

        Raises:
            ManifestError: A tensor is missing, or holds what no scores give.
        """
        found: dict[str, Any] = {}
        for name, dtype, shape in (
            ("count", "int32", (classes,)),
            ("order", "float32", (classes, ORDER)),
            ("centre", "float32", (classes,)),
            ("residual", "float32", None),
            ("mean", "float16", None),
        ):
            if name in tensors or name != "mean":
                found[name] = _checked(name, tensors.get(name), dtype, shape)
        table = cls(**found)
        residual, mean = table.residual, table.mean
        fits = residual.ndim == 1 and len(residual) <= POOL
        _check_shape(fits, "residual", f"at most {POOL} numbers", residual)
        if mean is not None:
            fits = mean.ndim == 2 and len(mean) == classes
            _check_shape(fits, "mean", f"{classes} rows", mean)
        kept = np.minimum(table.count, ORDER)[:, None] > np.arange(ORDER)
        rising = all((each[1:] >= each[:-1]).all() for each in (table.order.T, residual))
        numbers = [table.centre, residual, table.order[kept]]
        numbers += [] if mean is None else [mean]
        if (
            (table.count < 0).any()
            or not all(np.isfinite(each).all() for each in numbers)
            or not np.isposinf(table.order[~kept]).all()
            or not rising
        ):
            raise ManifestError(
                "the scores of a pack must be finite and ascending, as many as it counts",
                "others",
                _REEXPORT,
            )
        if not spaces or "directions" not in tensors:
            return table
        return table._read_subspaces(tensors, classes)

    def _read_subspaces(self, tensors: Mapping[str, np.ndarray], classes: int) -> "Table":
        """Add what `to_tensors` returned of the subspaces."""
        found = _checked("directions", tensors["directions"], "int8", None)
        fits = found.ndim == len("crw") and len(found) == classes and 0 < found.shape[1] <= SIZE
        _check_shape(fits, "directions", f"{classes} times 1 to {SIZE} directions", found)
        names = ("count", "order", "centre", "residual")
        inner = {name: tensors[key] for name in names if (key := _SUBSPACE + name) in tensors}
        return replace(self, directions=found, angles=Table.from_tensors(inner, classes))


def in_use(subspaces: np.ndarray) -> np.ndarray:
    """Return subspaces without the directions that none of them has, but for one.

    Args:
        subspaces: [c, d, w].
    """
    size = subspaces.any(axis=2).sum(axis=1).max(initial=1)
    found: np.ndarray = subspaces[:, :size]
    return found


def ranks(count: np.ndarray) -> np.ndarray:
    """Return the ranks of the order statistics that are kept of so many scores.

    Args:
        count: int [c].

    Returns:
        int64 [c, 64]: from 1; strictly ascending; 1 to n where n is at most 64.
    """
    place = np.arange(1, ORDER + 1, dtype=np.int64)
    spread = -(-(count.astype(np.int64)[:, None] * place**3) // ORDER**3)  # rounded up
    found: np.ndarray = np.maximum(place, spread)
    return found


def _kept(ordered: np.ndarray) -> np.ndarray:
    found = np.full(ORDER, np.inf, np.float32)
    size = min(len(ordered), ORDER)
    found[:size] = ordered[ranks(np.array([len(ordered)]))[0, :size] - 1]
    return found


def _pool(own: Sequence[np.ndarray], former: Sequence[Table]) -> np.ndarray:
    """Return the distances of a task, filled up by those of the one before it.

    Of more than 256 those at ranks j (n + 1) / 257, rounded down: a p-value is never too small.
    """
    found = np.concatenate([*own, np.empty(0)])
    if len(found) < POOL and former:
        found = np.concatenate([found, former[-1].residual])
    found = np.sort(found)
    if len(found) > POOL:
        found = found[np.arange(1, POOL + 1) * (len(found) + 1) // (POOL + 1) - 1]
    return found.astype(np.float32)


def _checked(
    name: str, array: np.ndarray | None, dtype: str, shape: tuple[int, ...] | None
) -> np.ndarray:
    if array is None:
        raise ManifestError(f"the scores of a pack must hold {name}", "none", _REEXPORT)
    if array.dtype != np.dtype(dtype):
        raise TensorDtypeError(
            f"{name} of the scores of a pack must be {dtype}", array.dtype.name, _REEXPORT
        )
    if shape is not None:
        _check_shape(array.shape == shape, name, f"the shape {list(shape)}", array)
    return array


def _check_shape(fits: bool, name: str, must: str, array: np.ndarray) -> None:
    if not fits:
        raise TensorShapeError(
            f"{name} of the scores of a pack must have {must}", str(list(array.shape)), _REEXPORT
        )
