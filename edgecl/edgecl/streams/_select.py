"""Choices by seed: class order, few shots, limits, hold-outs.

Every choice inside a class has its own generator, seeded by the seed, the purpose and the class
name: it depends neither on the other classes of a stream nor on their order. All use numpy's legacy
RandomState, whose sequences are the same in every version.

Images of a folder are chosen by the hash of their content instead (`_held_out`): more files,
fewer, or others do not change what becomes of a file.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgecl.streams._errors import StreamError
from edgecl.streams._held_out import chance, held_out
from edgecl.streams._types import ImageSet, Task
from edgecl_deploy.manifest import names as rule


def class_order(count: int, seed: int | None) -> tuple[int, ...]:
    """Return the field's class permutation; seed 1993 is the usual one, None is 0, 1, 2, ..."""
    if seed is None:
        return tuple(range(count))
    return tuple(int(i) for i in np.random.RandomState(seed).permutation(count))


def random_state(*key: object) -> "np.random.RandomState":
    """Return random numbers that depend on the key only."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.RandomState(list(digest))


def shuffled(count: int, *key: object) -> list[int]:
    """Return 0..count-1 in an order that depends on the key only."""
    return [int(i) for i in random_state(*key).permutation(count)]


def ordered(images: ImageSet, positions: list[int], purpose: str, *key: object) -> list[int]:
    """Return positions of one class in an order by the key, and by the content where it is files.

    Args:
        key: the seed and what else tells choices apart; the class is its last.
    """
    digests = digests_of(images)
    if digests is None:
        return [positions[i] for i in shuffled(len(positions), purpose, *key)]
    at = {p: chance(digests[images.positions[p]], purpose, *key[:-1]) for p in positions}
    return sorted(positions, key=lambda position: (at[position], images.names[position]))


def digests_of(images: ImageSet) -> Sequence[bytes] | None:
    """Return the digests of the source's images; None where it is not one of files."""
    found: Sequence[bytes] | None = getattr(images.source, "digests", None)
    return found


def by_label(images: ImageSet) -> dict[int, list[int]]:
    """Return the positions of each label's images."""
    cells: dict[int, list[int]] = {}
    for position, label in enumerate(images.labels):
        cells.setdefault(label, []).append(position)
    return cells


def hold_out(
    images: ImageSet, fraction: float, classes: Mapping[int, str], *key: object
) -> tuple[ImageSet, ImageSet]:
    """Return the images without a fraction of each class, and that fraction.

    A class of one image stays whole; of any other class at least one image is in either part. Of
    files it is the hash of each that decides (`held_out`): none of a class may be held out.

    Raises:
        StreamError: the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise StreamError(
            f"The held-out fraction must be in [0, 1), got {fraction}. Choose for example 0.2."
        )
    held: set[int] = set()
    digests = digests_of(images)
    if digests is not None:
        out, _ = held_out(images.labels, [digests[p] for p in images.positions], fraction, *key)
        held.update(i for i, is_out in enumerate(out) if is_out)
    elif fraction > 0:
        for label, positions in by_label(images).items():
            count = min(max(1, round(fraction * len(positions))), len(positions) - 1)
            order = shuffled(len(positions), "hold-out", *key, classes[label])
            held.update(positions[i] for i in order[:count])
    others = [i for i in range(len(images)) if i not in held]
    return images.subset(others), images.subset(sorted(held))


def split_validation(task: Task, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split a task's training images into (train, validation), stratified by class.

    It reads the training images of this task only: no test image and no other task.
    """
    classes = dict(zip(sorted(set(task.train.labels)), task.classes, strict=True))
    return hold_out(task.train, fraction, classes, "validation", seed, task.name)


def take(
    images: ImageSet, quota: Mapping[int, int], classes: Mapping[int, str], *key: object
) -> ImageSet:
    """Return at most `quota[label]` images of each label, chosen by the key, in their order."""
    chosen: list[int] = []
    for label, positions in by_label(images).items():
        order = ordered(images, positions, "take", *key, classes[label])
        chosen.extend(order[: quota[label]])
    return images.subset(sorted(chosen))


def limit(
    parts: Mapping[str, ImageSet], total: int, classes: Mapping[int, str], *key: object
) -> dict[str, ImageSet]:
    """Return `total` images of all parts, the same number of each cell (a class in a part).

    The first cells get the remainder; a cell with too few images gives those it has.

    Raises:
        StreamError: the total is less than one image per cell.
    """
    cells = [(part, label) for part, images in parts.items() for label in by_label(images)]
    each, extra = divmod(total, max(1, len(cells)))
    if each == 0:
        raise StreamError(
            f"A limit must leave one image of each class and task; got {total} for {len(cells)}. "
            f"Raise it to at least {len(cells)}, or leave it out."
        )
    quota = {cell: each + (i < extra) for i, cell in enumerate(cells)}
    return {
        part: take(images, {c: q for (p, c), q in quota.items() if p == part}, classes, *key)
        for part, images in parts.items()
    }


def named_images(tasks: Sequence[Task], wanted: Mapping[str, Sequence[str]]) -> dict[str, ImageSet]:
    """Return the training images that are named, of each task that is there.

    Args:
        wanted: of tasks by their names, the last parts of the names of images.

    Raises:
        StreamError: a name is not that of one training image of its task.
    """
    found = {}
    for task in tasks:
        if task.name not in wanted:
            continue
        names = task.train.names
        by_depth: dict[int, dict[str, list[int]]] = {}
        chosen = []
        for each in wanted[task.name]:
            depth = each.count("/") + 1
            if depth not in by_depth:
                by_depth[depth] = {}
                for row, name in enumerate(names):
                    end = "/".join(name.split("/")[-depth:])
                    by_depth[depth].setdefault(end, []).append(row)
            rows = by_depth[depth].get(each, [])
            if len(rows) != 1:
                raise StreamError(
                    f"session_images must name training images of their task; {rule.quoted(each)} "
                    f"is of {len(rows)} images of {task.name}. Take the list that is of this data "
                    "set, in its natural class order (--class-seed natural), and its base and "
                    "increment."
                )
            chosen += rows
        found[task.name] = task.train.subset(sorted(set(chosen)))
    return found
