"""Measures a run on a folder of labelled images that was never part of a stream.

The folder is read here and nowhere else, so PyTorch and the device's runtime are asked about the
same files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edgecl.errors import EdgeclError
from edgecl.learning.class_metrics import ClassFigures, ClassTally
from edgecl.learning.evaluation import top
from edgecl.learning.fields import Fields, count, listed, named, refuse, text
from edgecl.learning.learner import Learner
from edgecl.program.learned import join
from edgecl.streams import ImageSet, PathSource
from edgecl.streams.folders import apart, layout_of
from edgecl.streams.folders.layouts import OUTSIDE, part_of
from edgecl_deploy.manifest.names import canonical

FORMAT = "edgecl-evaluation/1"
PYTORCH, DEVICE = "pytorch", "device"
CHUNK = 512  # images in memory at once
LINES = 100  # of skipped images that a record holds


class LabelledError(EdgeclError):
    """A folder that nothing can be measured on."""


@dataclass(frozen=True)
class Labelled:
    """Image files of known classes, and what else the folder holds.

    Attributes:
        root: what the names are relative to.
        paths: of the images.
        wanted: the class of each image.
        unknown: images of each class that is not known.
        unlabelled: images in no class folder.
    """

    root: Path
    paths: tuple[Path, ...]
    wanted: tuple[str, ...]
    unknown: dict[str, int]
    unlabelled: int

    def name(self, index: int) -> str:
        """Return an image's path in the folder."""
        return self.paths[index].relative_to(self.root).as_posix()


def read_labelled(folder: str | Path, known: Sequence[str]) -> Labelled:
    """Find the labelled images of a folder, or of its test part (else val) if it has one.

    No image is opened. A layout that is not understood is a StreamError.

    Args:
        folder: in any layout that a stream may have; its tasks count only for a class that a stream
            named after its task.
        known: the classes that can be answered.

    Raises:
        LabelledError: if there is no image of a known class.
    """
    root = Path(folder)
    if not root.exists():
        raise LabelledError(
            f"Labelled images must be a folder with one folder per class, got {root}, which is "
            "not there. Give the folder above the classes."
        )
    inner = sorted(root.iterdir()) if root.is_dir() else []
    parts = {part_of(path.name): path for path in inner if path.is_dir()}
    tree, layout = layout_of(parts.get("test") or parts.get("val") or root, "dcil")
    names = {canonical(name): name for name in known}
    paths: list[Path] = []
    wanted: list[str] = []
    unknown: Counter[str] = Counter()
    held = [item for item in layout.items if item.held]
    for item in held or layout.items:
        name = names.get(canonical(item.label))
        if item.task is not None and layout.tasks is not None:
            name = names.get(canonical(apart(layout.tasks[item.task], item.label)), name)
        if name is None:
            unknown[item.label] += 1
            continue
        paths.append(tree.root / item.file.name)
        wanted.append(name)
    if not paths:
        raise LabelledError(
            f"{root} must hold images of known classes in folders of their names, got "
            f"{', '.join(sorted(unknown)) or 'none'}. Known are "
            f"{', '.join(list(names.values())[:20])}{', ...' if len(names) > 20 else ''}."
        )
    loose = sum(why == OUTSIDE for why, _ in layout.aside)
    return Labelled(tree.root, tuple(paths), tuple(wanted), dict(unknown), loose)


@dataclass(frozen=True)
class Measured:
    """What `edgecl evaluate --json` prints: the figures of a run or a release on a folder.

    Attributes:
        what: the run, the release or the store, as it was named.
        by: what computed the answers, `pytorch` or `device`.
        release: the number of the release that answered; 0 of a run.
        folder: the images, as they were named.
        classes: the figures of the classes that are known.
        unknown: images of each class that is not known; they are in no figure.
        unlabelled: images in no class folder; likewise.
        skipped: one line for each image that could not be read, the first ones.
        skipped_left_out: how many more there are.
    """

    what: str
    by: str
    release: int
    folder: str
    classes: ClassFigures
    unknown: dict[str, int]
    unlabelled: int
    skipped: tuple[str, ...]
    skipped_left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "accuracy": self.classes.accuracy, **asdict(self)}

    @classmethod
    def of(
        cls,
        labelled: Labelled,
        figures: ClassFigures,
        skipped: Sequence[str],
        *,
        what: str,
        by: str,
        folder: str,
        release: int = 0,
    ) -> "Measured":
        """Put the figures of a folder together."""
        return cls(
            what=what,
            by=by,
            release=release,
            folder=folder,
            classes=figures,
            unknown=labelled.unknown,
            unlabelled=labelled.unlabelled,
            skipped=tuple(skipped[:LINES]),
            skipped_left_out=max(0, len(skipped) - LINES),
        )

    @classmethod
    def from_json(cls, value: object) -> "Measured":
        """Read what `to_json` gives; what is none is a RecordError."""
        fields = Fields(value, "evaluation")
        fields.form(FORMAT)
        accuracy = fields.take("accuracy", lambda found, _: found)
        measured = cls(
            what=fields.take("what", text),
            by=fields.take("by", text),
            release=fields.take("release", count),
            folder=fields.take("folder", text),
            classes=fields.take("classes", ClassFigures.from_json),
            unknown=fields.take("unknown", named(count)),
            unlabelled=fields.take("unlabelled", count),
            skipped=fields.take("skipped", listed(text)),
            skipped_left_out=fields.take("skipped_left_out", count),
        )
        fields.done()
        if accuracy != measured.classes.accuracy:
            refuse("evaluation.accuracy", f"{measured.classes.accuracy}", accuracy)
        return measured


def evaluate_folder(learner: Learner, folder: str | Path) -> Measured:
    """Classify a labelled folder with all that a run has learned, in PyTorch.

    Args:
        folder: FOLDER/CLASS/*, or FOLDER/test/CLASS/*.

    Raises:
        LabelledError: if the run has learned nothing, or no image is of a known class.
    """
    known = learner.run.knowledge()
    if not known.parts:
        raise LabelledError(
            f"A run that is evaluated must have learned a task, got {learner.run.path} with none. "
            f"Go on with `edgecl train --resume {learner.run.path}`."
        )
    labelled = read_labelled(folder, known.classes)
    learned, live = join(learner.declared, known.parts), torch.tensor(known.live_rows)
    row_class = known.classes
    classes = ClassTally(row_class)
    skipped: list[str] = []
    for start in range(0, len(labelled.paths), CHUNK):
        rows = range(start, min(start + CHUNK, len(labelled.paths)))
        source = PathSource([labelled.paths[row] for row in rows])
        names = [labelled.name(row) for row in rows]
        batch = learner.load(ImageSet.of(source, list(rows), names), "images")
        skipped += batch.skipped
        scores = learner.predict(batch.images, learned).scores
        wanted = [labelled.wanted[row] for row in batch.labels]
        answers = zip(batch.names, wanted, *top(scores, live), strict=True)
        for name, true, row, score in answers:
            classes.add(name, true, row_class[row], score)
    return Measured.of(
        labelled,
        classes.figures(),
        skipped,
        what=str(learner.run.path),
        by=PYTORCH,
        folder=str(folder),
    )
