"""What `edgecl forget` does: choose, take out, prove."""

from collections.abc import Callable
from pathlib import Path

import torch

from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.forgettable import Target, check_can
from edgecl.learning.forgetting import Report, Shown, forget
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError
from edgecl.learning.task_images import TaskImages
from edgecl.methods import AnyMethod, build_method
from edgecl.program.classifiers.base import Summing
from edgecl.program.learned import join
from edgecl.session import refresh
from edgecl.streams import task_from_folder
from edgecl_deploy.manifest.names import folded, quoted


def method_of(run: Run) -> AnyMethod:
    """Return the method of a run, without its backbone."""
    header = run.header
    return build_method(header["method"], BackboneSpec.from_json(header["spec"]), header["config"])


def target_of(run: Run, name: str | None, task: int | None) -> Target:
    """Return what is to be forgotten.

    Raises:
        RunError: if it is not one of the two.
    """
    if name is not None and task is None:
        return Target.of_class(run, name)
    if name is None and task is not None:
        return Target.of_task(run, task)
    raise RunError("One of the two must be given: `--class NAME` or `--task N`.")


def forget_in_run(
    run: Run,
    *,
    name: str | None = None,
    task: int | None = None,
    images: str | Path | None = None,
    learner: Callable[[], Learner] | None = None,
) -> Report:
    """Forget a class or a task: what is left is as if it had never been.

    Args:
        images: IMAGES/CLASS/*, which the class was learned from: of a method with sums, where the
            class shares its task with others.
        learner: opens the learner of the run, for `images`.

    Raises:
        RunError: if it cannot be so; it says what can be done.
    """
    method = method_of(run)
    with run.writing():
        target = target_of(run, name, task)
        check_can(run, method, target, images is not None)
        shown = {}
        if images is not None:
            check_needed(method, target)
            if learner is None:
                raise RunError(
                    "Images are read by the learner of the run, got none. Give `learner` too."
                )
            shown = shown_rows(learner(), target, Path(images))
        report = forget(run, method, target, shown)
        refresh(run)
    return report


def check_needed(method: AnyMethod, target: Target) -> None:
    """Check that something is subtracted for which images are given.

    Raises:
        RunError: if not.
    """
    if method.forgets != "sums" or not target.mixed:
        raise RunError(
            f"--images must be of a class that shares its task with others, in a method that keeps "
            f"sums; got {target.what()} of {method.name}, which is forgotten without images. Leave "
            "--images out."
        )


def shown_rows(learner: Learner, target: Target, images: Path) -> dict[int, Shown]:
    """Return what the sums of a task are of, of the images of a class in it.

    Raises:
        RunError: if the folder has no images of the class.
    """
    (task,), (name,) = target.mixed, target.names
    known = list(dict.fromkeys(each for names in learner.run.class_rows() for each in names))
    origins = {
        folded(origin)
        for record in target.records
        for origin, each in zip(record.origin, record.classes, strict=True)
        if each == name
    }
    found = task_from_folder(images, known, protocol="dcil", test_fraction=0.0)
    classes = list(dict.fromkeys((*known, *found.classes)))
    own = [row for row, label in enumerate(found.train.labels) if folded(classes[label]) in origins]
    if not own:
        raise RunError(
            f"--images must be a folder with a folder of the images of {quoted(name)}, got "
            f"{images} without one. Give the folder above it."
        )
    batch = learner.load(found.train.subset(own), f"images of {name}")
    classifier = learner.program.classifier
    assert isinstance(classifier, Summing)
    labels = torch.zeros(len(batch.labels), dtype=torch.int64)
    shown = TaskImages(batch.images, labels, batch.skipped, learner.encoder)
    learned = join(learner.declared, learner.run.parts()[: task + 1])
    rows = shown.encode(
        lambda encoded, held: {"rows": classifier.summed(classifier.feature(encoded), held)},
        learned,
    )
    return {task: rows["rows"].double()}
