"""Learning from sums over images: of this machine, of others, or of devices (ADR 0058).

A closed form needs of its images only what adds up, so who has the images adds, and who has the run
learns. A file of statistics is one set of images: it is learned once.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from edgecl.errors import EdgeclError
from edgecl.learning.learner import Learner, complete
from edgecl.learning.records import Knowledge
from edgecl.learning.task_images import TaskImages, contents_in
from edgecl.methods import AnyMethod
from edgecl.program.additive import ImageSums, total
from edgecl.program.classifiers.base import Additive
from edgecl.program.learned import Tensors, join
from edgecl.reading.constant import Constant
from edgecl.streams import ImageSet, Task
from edgecl_deploy.format import MEAN, RIDGE, Statistics, SummedClass, feature_space, packed
from edgecl_deploy.manifest.names import spelled

SHARD = 4096  # images that are added up at once, wherever: a multiple of `Encoder.batch`
ALIKE = 0.95  # cosine of two class means from which on they may be one class
LONGER = 4.0  # times the run's own: squares of features that are taken for features
ROUNDING = 1e-9  # of a sum, relative
BLOCK = 256  # classes that are compared with all others at once


class StatisticsError(EdgeclError):
    """Sums cannot be made, or are not learned by this run."""


class FeatureSpaceError(StatisticsError):
    """Sums of other features than those of the run."""


class AlreadyMergedError(StatisticsError):
    """Images whose sums the run has learned already."""


def additive(method: AnyMethod, index: int) -> Additive:
    """Return the classifier of a method that learns a task (from 0) from sums.

    Raises:
        StatisticsError: if it does not.
    """
    classifier = method.program.classifier
    if not isinstance(classifier, Additive) or method.config.memory:
        raise StatisticsError(
            f"Sums are all that closed forms need, got {method.name}. Learn from the images, or "
            "choose simplecil, ranpac, layup, lda, rail, clip-lda or a method of APER."
        )
    if method.is_trained(index):
        raise StatisticsError(
            f"The first task of {method.name} trains what the features depend on, so it needs "
            "images, got sums for it. Learn the first task from images, or choose first_session="
            "none where the method has it."
        )
    return classifier


# -- who has the images adds


@dataclass(frozen=True, eq=False)
class Part:
    """The sums of some images.

    Attributes:
        labels: the class of each image that could be read, as in the sums.
        contents: the digests of those.
        skipped: one line for every other one.
        constant: the images that have one colour, by their positions.
    """

    sums: ImageSums
    labels: tuple[int, ...]
    contents: tuple[bytes, ...]
    skipped: tuple[str, ...]
    constant: dict[int, Constant]


def shards(images: ImageSet) -> Iterator[ImageSet]:
    """Yield the images in parts of `SHARD`, which do not depend on who adds them up."""
    for start in range(0, len(images), SHARD):
        yield images.subset(range(start, min(start + SHARD, len(images))))


def add_up(learner: Learner, learned: Tensors, images: ImageSet, place: Sequence[int]) -> Part:
    """Add up images.

    Args:
        learned: of the finished tasks.
        place: of each label of the set, the class in the sums.
    """
    classifier = additive(learner.method, len(learner.run))
    batch = learner.load(images, "images")
    labels = torch.tensor([place[label] for label in batch.labels]).long()
    classes = max(place) + 1
    found = TaskImages(batch.images, labels, batch.skipped, learner.encoder)
    on_device = learner.encoder.on_device(learned)
    features = found.encode(lambda e, _: {"feature": classifier.feature(e)}, learned)["feature"]
    sums = ImageSums.of(
        features, labels, classes, lambda rows: classifier.summed(rows, on_device),
        squares=classifier.adds == RIDGE, normed=compared(learner, features.shape[1]),
        device=learner.compute.device,
    )  # fmt: skip
    contents = tuple(contents_in(batch.images))
    return Part(sums, tuple(labels.tolist()), contents, batch.skipped, batch.constant)


def compared(learner: Learner, width: int) -> tuple[int, int] | None:
    """Return the columns of a feature whose mean at length 1 a pack holds, to tell what is of none.

    Args:
        width: of a feature.

    Returns:
        Begin and end; None where a learned tensor holds the rows, or nothing is told.
    """
    rows = learner.program.own_rows
    return None if rows is None or rows.tensor is not None else rows.columns or (0, width)


# Adds up images in parts, here or on other machines, given the learner, what its run knows, the
# images, and of each of their labels the class in the sums, below 0 of none.
AddUp: TypeAlias = Callable[[Learner, Knowledge, ImageSet, Sequence[int]], Iterable[Part]]


def here(
    learner: Learner, past: Knowledge, images: ImageSet, place: Sequence[int]
) -> Iterator[Part]:
    """Add up images on this machine, a part after the other."""
    learned = join(learner.declared, past.parts)
    for part in shards(images):
        yield add_up(learner, learned, part, place)


def added(
    learner: Learner,
    task: Task,
    parts: Iterable[Part],
    past: Knowledge,
    notice: Callable[[str], None],
) -> Statistics:
    """Return the statistics of a task from those of its parts, which are looked at once.

    Args:
        notice: is told of each image that was skipped.
    """
    labels: list[int] = []
    skipped: list[str] = []
    constant: dict[int, Constant] = {}
    contents: list[bytes] = []

    def noted(part: Part) -> ImageSums:
        constant.update({len(labels) + at: each for at, each in part.constant.items()})
        labels.extend(part.labels)
        skipped.extend(part.skipped)
        contents.extend(part.contents)
        return part.sums

    sums = total(map(noted, parts))
    for line in map(spelled, (*task.skipped, *skipped)):
        notice(line)
    complete(task, labels, skipped, constant)
    former = set(past.classes)
    gram = None if sums.gram is None else packed(sums.gram.numpy())
    return Statistics(
        id=secrets.token_hex(16),
        kind=MEAN if gram is None else RIDGE,
        program=learner.program.name,
        interface=learner.program.interface,
        backbone=learner.program.spec.digest,
        space=spaces(learner, past)[0],
        classes=tuple(
            SummedClass(name, images, name in former)
            for name, images in zip(task.classes, sums.counts.tolist(), strict=True)
        ),
        sums=sums.sums.numpy(),
        gram=gram,
        normed=None if sums.normed is None else sums.normed.numpy(),
        sources=(hashlib.sha256(b"".join(sorted(contents))).hexdigest(),),
        device="workstation",
        created=int(time.time()),
    )


def spaces(learner: Learner, past: Knowledge) -> tuple[str, str]:
    """Return the digests of what the run's features depend on: as it is, and as float16 packs."""
    program = learner.program
    learned = join(learner.declared, past.parts)
    exact = {n: learned[n].numpy() for n in program.injector.declare() if n in learned}
    half = {
        name: array.astype(np.float16).astype(np.float32) if learner.declared[name].half else array
        for name, array in exact.items()
    }
    one, other = (
        feature_space(program.spec.digest, program.interface, each) for each in (exact, half)
    )
    return one, other


# -- who has the run learns


@dataclass(frozen=True, eq=False)
class Merged:
    """The sums of several files, as one task.

    Attributes:
        classes: in the order in which a folder of them would be learned.
        sources: what they are of, which a run does not learn again.
        alike: the new classes whose mean is nearly that of another class, that one, and the cosine.
    """

    classes: tuple[str, ...]
    sums: ImageSums
    sources: tuple[str, ...]
    alike: tuple[tuple[str, str, float], ...]


def merge(learner: Learner, past: Knowledge, files: Sequence[Statistics]) -> Merged:
    """Add up files for the next task of a run, after all checks of what a stranger may have sent.

    Raises:
        StatisticsError: if there is none.
    """
    classifier = additive(learner.method, len(past.parts))
    if not files:
        raise StatisticsError("A task of sums needs a file of statistics, got none. Name one.")
    used = {source for record in past.records for source in record.sources}
    own = spaces(learner, past)
    known_to_run = Known.of(classifier, learner, past)
    for file in files:
        _check_space(learner, classifier, own, file)
        _check_normed(learner, file)
        _check_new(used, file)
        _check_names(set(past.classes), file)
        known_to_run.check(file)
        used |= {file.id, *file.sources}
    new = {each.name for file in files for each in file.classes}
    known = [name for name in dict.fromkeys(past.classes) if name in new]
    classes = (*known, *sorted(new - set(known)))
    place = {name: at for at, name in enumerate(classes)}
    sums = total(
        as_sums(file).among([place[each.name] for each in file.classes], len(classes))
        for file in files
    )
    sources = tuple(sorted({each for file in files for each in (file.id, *file.sources)}))
    return Merged(classes, sums, sources, known_to_run.alike(classes, sums))


def as_sums(file: Statistics) -> ImageSums:
    """Return the sums of a file, in the order of its classes."""
    counts = torch.tensor([each.images for each in file.classes])
    gram = None if file.gram is None else torch.from_numpy(file.square())
    normed = None if file.normed is None else torch.from_numpy(file.normed.copy())
    return ImageSums(counts, torch.from_numpy(file.sums.copy()), gram, normed)


def _check_space(
    learner: Learner, classifier: Additive, own: Sequence[str], file: Statistics
) -> None:
    """Check that sums are of the features of the run.

    Raises:
        FeatureSpaceError: if not.
    """
    program = learner.program
    for what, found, wanted in (
        ("the program", file.program, program.name),
        ("the backbone", file.backbone, program.spec.digest),
        ("the interface", file.interface, program.interface),
        ("sums of the kind", file.kind, classifier.adds),
    ):
        if found != wanted:
            raise FeatureSpaceError(
                f"Sums must be of the features of {learner.run.path}, with {what} {wanted[:12]}, "
                f"got {found[:12]}. Merge them into the run that the device's release is of."
            )
    if file.space not in own:
        raise FeatureSpaceError(
            f"Sums must be of the features of {learner.run.path}, got {file.space[:12]} where its "
            f"own are {own[0][:12]}: another first task, or another precision. Merge them into the "
            "run that the device's release is of."
        )


def _check_normed(learner: Learner, file: Statistics) -> None:
    """Check that sums of features at length 1 are those that the run's packs compare.

    Raises:
        FeatureSpaceError: if not.
    """
    if file.normed is None:
        return
    begin, end = compared(learner, learner.program.spec.feature_dim) or (0, 0)
    if file.normed.shape[1] != end - begin:
        raise FeatureSpaceError(
            f"Sums of features of length 1 must be of {end - begin} columns, got "
            f"{file.normed.shape[1]} from {file.device}. Merge them into the run that the device's "
            "release is of."
        )


def _check_new(used: set[str], file: Statistics) -> None:
    """Check that no image counts twice.

    Raises:
        AlreadyMergedError: if one would.
    """
    again = used & {file.id, *file.sources}
    if again:
        raise AlreadyMergedError(
            "Images are learned once, got a file of which "
            f"{'all' if file.id in again else f'{len(again)} of {len(file.sources)} sources'} are "
            f"learned already ({min(again)[:12]}). Leave it out, or take the task back that has "
            "them with `edgecl undo`."
        )


def _check_names(there: set[str], file: Statistics) -> None:
    """Check that a class is the same one here and where the images are.

    Raises:
        StatisticsError: if it may be another one.
    """
    for each in file.classes:
        if each.known == (each.name in there):
            continue
        if each.known:
            raise StatisticsError(
                f"More images of a class need the class, got {each.name!r}, which the release of "
                f"{file.device} had and the run has not. Merge into the run of that release, or "
                "enrol the images under another name."
            )
        raise StatisticsError(
            f"A new class must have a name of its own, got {each.name!r}, which the run has too. "
            f"Rename it where it was enrolled (`edgecl-device enrolled resolve`), or there with "
            "`edgecl classes rename`; `edgecl classes merge` makes one class of the two."
        )


@dataclass(frozen=True, eq=False)
class Known:
    """What the run knows of its classes.

    Attributes:
        names: of the means.
        means: of x, of each class.
        square: what |x|^2 may be on average, from the run's own; infinity where it has none.
        centre: the mean of x that cosines are taken from: 0 where the head compares cosines.
        one: the last entry of x is 1.
    """

    names: tuple[str, ...]
    means: Float64[Tensor, "c m"]
    square: float
    centre: Float64[Tensor, " m"]
    one: bool

    @classmethod
    def of(cls, classifier: Additive, learner: Learner, past: Knowledge) -> "Known":
        """Read them off what was learned."""
        live = [(row, name) for row, name in enumerate(past.classes) if past.live_rows[row]]
        size, one = classifier.summed_size, classifier.summed_one
        nowhere = torch.zeros(size, dtype=torch.float64)
        if not live:
            return cls((), nowhere.new_zeros(0, size), math.inf, nowhere, one)
        if classifier.adds == MEAN:
            rows = join(learner.declared, past.parts)["prototypes"].flatten(1).double()
            rows = rows[[row for row, _ in live]]
            longest = float(rows.square().sum(dim=1).max())  # means are shorter than what they are
            square = LONGER**2 * longest  # of, and few images longer
            return cls(tuple(n for _, n in live), rows, square, nowhere, one)
        images: dict[str, int] = {}
        for name, count in zip(past.classes, past.row_images, strict=True):
            images[name] = images.get(name, 0) + count
        moments = past.state["moments"]
        names = tuple(images)
        columns = [[row for row, each in enumerate(past.classes) if each == n] for n in names]
        sums = torch.stack([moments[:, own].sum(dim=1) for own in columns])
        count = sum(images.values())
        means = sums / torch.tensor([images[name] for name in names])[:, None]
        square = LONGER * float(past.state["gram"].trace()) / count
        return cls(names, means, square, sums.sum(dim=0) / count, one)

    def check(self, file: Statistics) -> None:
        """Check that sums are those of images as the run knows them.

        Raises:
            FeatureSpaceError: if they are of other features.
            StatisticsError: if no such images can have them.
        """
        size, found_size = self.means.shape[1], file.sums.shape[1]
        if found_size != size:  # before x x', which is as large as the square of it
            raise FeatureSpaceError(
                f"Sums must be of {size} features, got {found_size}. Merge them into the run that "
                "the device's release is of."
            )
        sums = as_sums(file)
        if sums.gram is None:
            found = float(sums.means().square().sum(dim=1).max())
        else:
            found = float(sums.gram.trace()) / file.images
        if found > self.square:
            raise StatisticsError(
                f"Features must be as long as those of the run, squares of at most "
                f"{self.square:.4g} on average, got {found:.4g} from {file.device}. Look at what "
                "it was shown, or leave the file out."
            )
        if self.one and sums.gram is not None and not counted(sums, sums.gram):
            raise StatisticsError(
                "The last feature of an image must be 1, so that its sums are the numbers of "
                f"images, got other ones from {file.device}. Leave the file out: it was changed."
            )
        if sums.gram is not None and not together(sums, sums.gram):
            raise StatisticsError(
                f"The sums of a file must be those of one set of images, got from {file.device} "
                "class sums that its squares do not allow. Leave the file out: it was changed."
            )

    def alike(self, classes: Sequence[str], sums: ImageSums) -> tuple[tuple[str, str, float], ...]:
        """Return the new classes that are nearly another one, that one, and the cosine."""
        known = set(self.names)
        new = [at for at, name in enumerate(classes) if name not in known]
        names = (*self.names, *(classes[at] for at in new))
        rows = torch.cat([self.means, sums.means()[new]]) - self.centre
        rows = torch.nn.functional.normalize(rows, dim=1)
        found = []
        for start in range(len(known), len(names), BLOCK):
            some = rows[start : start + BLOCK]
            cosines = some @ rows[: start + len(some)].T
            later = torch.ones(len(some), len(some), dtype=torch.bool).triu()  # or the class itself
            cosines[:, start:].masked_fill_(later, -1)
            for at, (cosine, other) in enumerate(
                zip(*(each.tolist() for each in cosines.max(dim=1)), strict=True)
            ):
                if cosine > ALIKE:
                    found.append((names[start + at], names[other], cosine))
        return tuple(found)


def together(sums: ImageSums, gram: Float64[Tensor, "m m"]) -> bool:
    """Return whether images can have these sums: [x, y]'[x, y] over them is no less than zero.

    With y the class of an image, one-hot. The block of y is diagonal and above zero, so the Schur
    complement decides: the sum of squares within the classes. It is looked at in units of the
    diagonal of x x', up to rounding.
    """
    within = gram.addmm(sums.sums.T, sums.means(), alpha=-1)
    scale = gram.diagonal().clamp(min=0).sqrt()
    scale = scale.clamp(min=ROUNDING * float(scale.max()) or 1.0)
    within /= scale
    within /= scale[:, None]
    within.diagonal().add_(ROUNDING * len(within))
    return not int(torch.linalg.cholesky_ex(within).info)


def counted(sums: ImageSums, gram: Float64[Tensor, "m m"]) -> bool:
    """Return whether the last entry of x was 1 for every image: what it makes of each sum."""
    images = int(sums.counts.sum())
    longest = (images * gram.diagonal().clamp(min=0)).sqrt()  # what |sum of x| is at most
    wrong = (
        (sums.sums[:, -1] - sums.counts).abs() > ROUNDING * sums.counts,
        (gram[-1] - sums.sums.sum(dim=0)).abs() > ROUNDING * longest,
        (gram[-1, -1:] - images).abs() > ROUNDING * images,
    )
    return not any(bool(each.any()) for each in wrong)
