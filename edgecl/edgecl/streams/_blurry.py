"""Blurry streams: classes without a clear task, which come in all of them.

i-Blurry-N-M (Koh et al., ICLR 2022, https://arxiv.org/abs/2110.10031; the public code and its lists
were read, naver-ai/i-Blurry): N percent of the classes are of one task alone; of the images of
every other class M percent leave its task, are shuffled together and dealt out again, as many to
each task as it gave. `stochastic` is Si-Blurry (Moon et al., ICCV 2023,
https://arxiv.org/abs/2308.09303; its sampler was read in copies): tasks of random numbers of
classes, that give random numbers of images.

Differs from that: of each class M percent leave, not of the blurry images of a task together; in
Si-Blurry the disjoint classes are drawn among all, not cut into runs of their own, and every task
has a class of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise

from edgecl.streams._options import ClassOptions, refuse
from edgecl.streams._select import by_label, ordered, random_state, shuffled
from edgecl.streams._types import ImageSet, Stream

DISJOINT = 50  # percent of the classes, where nothing is asked for


def resolved(options: ClassOptions) -> ClassOptions:
    """Return the options with what a blurry stream chooses itself.

    An option that is of blurry streams alone, or of none, is a StreamError.
    """
    if options.blurry is None:
        refuse(options, ("disjoint", "stochastic"), "A stream is blurry where `blurry` is given")
        return options
    refuse(options, ("task_templates",), "A class of a blurry stream is of several tasks")
    return replace(options, disjoint=DISJOINT if options.disjoint is None else options.disjoint)


def random_ranges(ranges: Sequence[tuple[int, int]], seed: int | None) -> list[tuple[int, int]]:
    """Return as many ranges of the same classes, cut at random places, each of one at least."""
    count = ranges[-1][1]
    cuts = sorted(1 + place for place in shuffled(count - 1, "cuts", seed)[: len(ranges) - 1])
    return list(zip([0, *cuts], [*cuts, count], strict=True))


def blurred(stream: Stream, options: ClassOptions) -> Stream:
    """Return the stream with the images of its blurry classes mixed among its tasks.

    A class is tested with the task in which it comes first.
    """
    assert options.blurry is not None
    assert options.disjoint is not None
    seed, names = options.seed, dict(enumerate(stream.classes))
    every = together([task.train for task in stream.tasks])
    rows, leaving, start = [], [], 0
    own = [sorted(set(task.train.labels)) for task in stream.tasks]
    blurry = _blurry_classes(own, options.disjoint, options.stochastic, seed)
    for task in stream.tasks:
        rows.append(range(start, start + len(task.train)))
        gone = _leaving(task.train, blurry, options.blurry, names, seed)
        leaving.append([start + row for row in gone])
        start += len(task.train)
    if options.stochastic:
        leaving = _random_shares(leaving, seed)
    pool = [row for each in leaving for row in each]
    dealt = iter([pool[at] for at in shuffled(len(pool), "deal", seed)])
    trains = []
    for own_rows, each in zip(rows, leaving, strict=True):
        gone_rows, coming = set(each), list(islice(dealt, len(each)))
        trains.append(every.subset([*(row for row in own_rows if row not in gone_rows), *coming]))
    return _in_order_of_appearance(stream, trains)


def _blurry_classes(
    own: Sequence[Sequence[int]], disjoint: int, stochastic: bool | None, seed: int | None
) -> set[int]:
    """Return the labels of the classes that are no task's alone.

    Args:
        own: the labels of each task; the first ones of each are disjoint.
    """
    if stochastic:
        every = [label for labels in own for label in labels]
        order = shuffled(len(every), "disjoint", seed)
        return {every[at] for at in order[len(every) * disjoint // 100 :]}
    return {label for labels in own for label in labels[len(labels) * disjoint // 100 :]}


def _leaving(
    images: ImageSet, blurry: set[int], percent: int, names: dict[int, str], seed: int | None
) -> list[int]:
    """Return the positions of a task's images that leave it."""
    rows = []
    for label, positions in by_label(images).items():
        if label in blurry:
            order = ordered(images, positions, "blurry", seed, names[label])
            rows += order[: len(order) * percent // 100]
    return rows


def _random_shares(leaving: Sequence[list[int]], seed: int | None) -> list[list[int]]:
    """Let each task give a random number of images: as many in all at most, and of its own."""
    total = sum(len(rows) for rows in leaving)
    cuts = random_state("shares", seed).randint(0, total + 1, len(leaving) - 1).tolist()
    shares = [stop - start for start, stop in pairwise([0, *sorted(cuts), total])]
    return [
        [rows[at] for at in shuffled(len(rows), "share", seed, task)[:share]]
        for task, (rows, share) in enumerate(zip(leaving, shares, strict=True))
    ]


def together(parts: Sequence[ImageSet]) -> ImageSet:
    """Put images of one source together."""
    return ImageSet(
        tuple(label for part in parts for label in part.labels),
        tuple(name for part in parts for name in part.names),
        parts[0].source,
        tuple(position for part in parts for position in part.positions),
    )


def _in_order_of_appearance(stream: Stream, trains: Sequence[ImageSet]) -> Stream:
    """Put the classes of every task into the order in which they come, with their tests there."""
    of_task = [sorted(set(train.labels)) for train in trains]
    order = list(dict.fromkeys(label for labels in of_task for label in labels))
    place = sorted(range(len(order)), key=order.__getitem__)
    tests, tested = together([task.test for task in stream.tasks]), set[int]()
    tasks = []
    for task, train, labels in zip(stream.tasks, trains, of_task, strict=True):
        new = set(labels) - tested
        tested |= new
        own = tests.subset([row for row, label in enumerate(tests.labels) if label in new])
        present = sorted(labels, key=place.__getitem__)
        tasks.append(
            replace(
                task,
                classes=tuple(stream.classes[label] for label in present),
                train=train.relabel(place),
                test=own.relabel(place),
            )
        )
    classes = tuple(stream.classes[label] for label in order)
    return replace(stream, protocol="online", classes=classes, tasks=tuple(tasks))
