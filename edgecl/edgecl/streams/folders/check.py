"""A look at the images of a folder before anything is learned from them: `edgecl data check`.

An image is out of line with its class where its size, shape, light, contrast or colour is further
from the median of the class than `FAR` robust deviations (1.4826 times the median distance from the
median), and further than the floor of `FEATURES`. Classes of fewer than `ENOUGH` images are not
judged. Light, contrast and colour are those of a thumbnail of 8 x 8 pixels.
"""

import gc
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2
from pathlib import Path

import numpy as np

from edgecl.streams._build import check_classes
from edgecl.streams._options import TEST_FRACTION
from edgecl.streams._types import Files, Reason
from edgecl.streams.folders import layout_of, progress, read
from edgecl.streams.folders.account import Found
from edgecl.streams.folders.layouts import Layout
from edgecl.streams.folders.reading import Look
from edgecl.streams.folders.tree import SHOWN
from edgecl_deploy.manifest.names import both, one_name, spelled
from edgecl_deploy.progress import Reporter

ENOUGH = 20
FAR = 6.0
FEATURES = {
    "size": (lambda look: log2(look.width * look.height) / 2, 1.0),  # twice or half
    "shape": (lambda look: log2(look.width / look.height), 0.5),
    "light": (lambda look: look.light, 40.0),
    "contrast": (lambda look: look.contrast, 30.0),
    "colour": (lambda look: look.colour, 40.0),
}
TWO_CLASSES = "the same content in two classes"
LEAK = "the same content in training and test"
COPIES = "the same content twice in one class"
CONSTANT = "constant: all pixels are the same"


@dataclass(frozen=True)
class ClassCount:
    """The images of one class in one task; the task is nothing where folders give none."""

    task: str
    name: str
    training: int
    test: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of all images.

    Attributes:
        smallest: width and height, by the number of pixels.
        median: likewise.
        largest: likewise.
        bytes: of all files.
        modes: how many images have which mode of Pillow's.
    """

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    bytes: int
    modes: dict[str, int]


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        files: what would become of every file.
        classes: the counts.
        sizes: of the images.
        findings: what a person should look at; a name may be that of two files.
    """

    files: Files
    classes: tuple[ClassCount, ...]
    sizes: Sizes
    findings: tuple[Reason, ...]


def check_folder(
    path: str | Path,
    *,
    protocol: str | None = None,
    test_fraction: float = TEST_FRACTION,
    seed: int | None = 1993,
    reporter: Reporter | None = None,
) -> Check:
    """Decode every image of a folder, or of a table's folder, and say what is in it.

    A folder that is not understood, a class without a readable image and class names that are not
    unique are errors, as they are when a stream is built. Names of several tasks are two spellings
    of one class in a domain protocol, and two classes in others.

    Args:
        path: of the folder or the table.
        protocol: as of a stream.
        test_fraction: as of a stream; it has no effect where there is a test part.
        seed: as of a stream.
        reporter: shows progress.
    """
    with _uncollected(), progress(reporter or Reporter()):
        tree, layout = layout_of(Path(path), protocol)
        _check_names(layout, path, protocol)
        found = read(tree, layout, test_fraction, seed, decode=True)
        return Check(found.files(), _counts(found), _sizes(found), tuple(_findings(found)))


def _check_names(layout: Layout, path: str | Path, protocol: str | None) -> None:
    every = tuple(dict.fromkeys(label for _, label in layout.trained))
    if layout.tasks is None or protocol in {"dil", "dcil"}:
        check_classes(every, str(path))
        return
    for key, title in layout.tasks.items():
        check_classes([label for task, label in layout.trained if task == key], title)
    if (same := one_name(every)) is not None:
        layout.notes.append(
            f"{both(*same)} are one name in two tasks: one class in a domain stream, which needs "
            "one spelling; two with --shared-names"
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Stop the search for cycles, which is a third of the time where a million objects are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _counts(found: Found) -> tuple[ClassCount, ...]:
    cells: Counter[tuple[str | None, str, bool]] = Counter(
        (item.task, item.label, item.held) for item in found.items
    )
    tasks = found.layout.tasks or {}
    return tuple(
        ClassCount(
            spelled(tasks.get(task or "", "")),
            label,
            cells[task, label, False],
            cells[task, label, True],
        )
        for task, label in found.layout.trained
    )


def _looks(found: Found) -> list[Look]:
    looks = [reading.look for reading in found.readings]
    assert all(looks), "every image was decoded"
    return [look for look in looks if look is not None]


def _sizes(found: Found) -> Sizes:
    looks = sorted(_looks(found), key=lambda look: (look.width * look.height, look.width))
    smallest, median, largest = looks[0], looks[len(looks) // 2], looks[-1]
    return Sizes(
        (smallest.width, smallest.height),
        (median.width, median.height),
        (largest.width, largest.height),
        sum(item.file.size for item in found.items),
        dict(Counter(look.mode for look in looks).most_common()),
    )


def _findings(found: Found) -> Iterable[Reason]:
    """Yield what a person should look at."""
    yield from _copies(found)
    looks = _looks(found)
    names = [item.file.name for item in found.items]
    constant = [name for name, look in zip(names, looks, strict=True) if look.constant]
    if constant:
        yield _reason(CONSTANT, constant)
    cells = defaultdict(list)
    for position, item in enumerate(found.items):
        cells[item.label].append(position)
    for feature, (measure, floor) in FEATURES.items():
        values = np.array([measure(look) for look in looks])
        odd: list[int] = []
        for positions in cells.values():
            if len(positions) >= ENOUGH:
                own = values[positions]
                away = np.abs(own - np.median(own))
                limit = max(floor, FAR * 1.4826 * float(np.median(away)))
                odd += [positions[i] for i in np.flatnonzero(away > limit)]
        if odd:
            why = f"out of line with the class in {feature}"
            yield _reason(why, [names[position] for position in sorted(odd)])


def _copies(found: Found) -> Iterable[Reason]:
    """Yield the files that have one content, by where they are."""
    groups = defaultdict(list)
    for position, reading in enumerate(found.readings):
        groups[reading.digest].append(position)
    kinds: dict[str, list[str]] = {LEAK: [], TWO_CLASSES: [], COPIES: []}
    for positions in groups.values():
        if len(positions) < 2:
            continue
        items = [found.items[position] for position in positions]
        pair = " = ".join(item.file.name for item in items[:2])
        if len({item.held for item in items}) > 1:
            other = next(item for item in items if item.held != items[0].held)
            kinds[LEAK].append(f"{items[0].file.name} = {other.file.name}")
        if len({item.label for item in items}) > 1:
            other = next(item for item in items if item.label != items[0].label)
            kinds[TWO_CLASSES].append(f"{items[0].file.name} = {other.file.name}")
        elif len({item.held for item in items}) == 1:
            kinds[COPIES].append(pair)
    for why, pairs in kinds.items():
        if pairs:
            yield _reason(why, pairs)


def _reason(why: str, names: list[str]) -> Reason:
    return Reason(why, len(names), tuple(spelled(name) for name in names[:SHOWN]))
