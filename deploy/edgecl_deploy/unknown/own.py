"""The scores of a class that depend on that class alone: cosines with its own row and subspace.

The score of a training image with a row that it is part of is too high, so it is taken with the row
of the others, in closed form. What other classes there are never shows, so a score stays what it
was when classes are added.

The subspace of a class is spanned by the first singular vectors of its features at length 1, not
centred (Watanabe et al., CLAFIC, 1967; Oja, Subspace Methods of Pattern Recognition, 1983); the
cosine of the angle between a feature and the subspace is the length of its projection. Directions
are int8: of length 1 when read, so that no scale is stored.
"""

import numpy as np

DIRECTIONS = 16  # of a class's subspace, at most
PER_DIRECTION = 3  # images of the class; a subspace of more leaves out too much with an image
FEWEST = 4  # directions that a class has all the same, if it has an image more than that
PARTS = 16  # of a class's images; one is left out of the subspace that judges it
_RANK = 1e-6  # share of the features' energy from which on a direction is one


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; one of length 0 stays so.

    Args:
        rows: [n, w].

    Returns:
        float64 [n, w].
    """
    wide = rows.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    found: np.ndarray = wide / np.maximum(norm, np.finfo(np.float64).tiny)
    return found


def left_out(features: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with the sum of the other images of its class.

    Args:
        features: [n, w].
        total: [w], the sum of all images of the class, of two or more.

    Returns:
        float64 [n].
    """
    wide = features.astype(np.float64)
    found: np.ndarray = (unit(wide) * unit(total.astype(np.float64) - wide)).sum(axis=1)
    return found


def cosines(features: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with a row.

    Args:
        features: [n, w].
        row: [w].

    Returns:
        float64 [n].
    """
    found: np.ndarray = unit(features) @ unit(row[None])[0]
    return found


def size_of(images: int, least: int = FEWEST, most: int = DIRECTIONS) -> int:
    """Return how many directions the subspace of so many images has at most."""
    return min(most, max(1, min(least, images - 1), images // PER_DIRECTION))


def directions(features: np.ndarray, size: int | None = None) -> np.ndarray:
    """Return the subspace of a class, zeros after its last direction.

    Args:
        features: [n, w].
        size: How many directions there are at most; None: `size_of`.

    Returns:
        int8 [16, w], or [size, w] of more; the largest number of a direction is 127.
    """
    rows = unit(features)
    size = size_of(len(features)) if size is None else size
    wide = len(rows) > rows.shape[1]
    energies, vectors = np.linalg.eigh(rows.T @ rows if wide else rows @ rows.T)
    kept = np.flatnonzero(energies > _RANK * max(1, len(rows)))[::-1][:size]
    found = vectors[:, kept].T if wide else unit(vectors[:, kept].T @ rows)
    large = found[np.arange(len(found)), np.abs(found).argmax(axis=1)]
    whole = np.zeros((max(size, DIRECTIONS), rows.shape[1]), np.int8)
    whole[: len(found)] = np.rint(found / large[:, None] * 127)
    return whole


def in_subspace(features: np.ndarray, subspace: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between every image and a subspace.

    Args:
        features: [n, w].
        subspace: [d, w], as of `directions`.

    Returns:
        float64 [n].
    """
    along = unit(features) @ unit(subspace).T
    found: np.ndarray = np.sqrt((along * along).sum(axis=1))
    return found


def left_out_of_subspace(features: np.ndarray) -> np.ndarray:
    """Return the cosine of every image with the subspace of images without it.

    Of up to 16 images that is all others; of more, a sixteenth is left out at a time.

    Args:
        features: [n, w], of at least two images.

    Returns:
        float64 [n].
    """
    part = np.arange(len(features)) % PARTS
    found = np.empty(len(features))
    for each in range(min(PARTS, len(features))):
        own = part == each
        others = directions(features[~own], size_of(len(features)))
        found[own] = in_subspace(features[own], others)
    return found
