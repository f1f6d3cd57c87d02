"""Showing that a run has forgotten: the same stream without it, learned again and compared."""

import math
import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from edgecl.learning.changes import under_new_names
from edgecl.learning.forgetting import gap
from edgecl.learning.forgotten import ORDER, Forgotten, task_id
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError, json_bytes
from edgecl.program.classifiers.ridge import Ridge
from edgecl.program.classifiers.task_sums import TaskSums
from edgecl.program.fitting import RidgeWeight
from edgecl.session import learn_task, make_learner
from edgecl.streams import Stream, Task, load_stream
from edgecl_deploy.manifest.whole import write_whole

FORMAT = "edgecl-proof/1"
LIMITS = {"1e-10": 1e-10, "1e-6": 1e-6}
SCORED = 64  # test images of a task whose scores are compared


@dataclass(frozen=True)
class Proof:
    """How a run that has forgotten compares with one that never saw it.

    Attributes:
        exactness: what was promised, as of `forgotten.Entry`.
        ids: of each task, whether both have one id: packs of them would have one too.
        error: the largest difference of a learned tensor or a sum, over its largest entry.
        score_error: the largest difference of a score on test images.
        equal: whether the promise holds.
    """

    exactness: str
    ids: tuple[bool, ...]
    error: float
    score_error: float
    images: int
    equal: bool

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def stream_of(run: Run) -> Stream:
    """Return the stream of a run under the names of today, before something of it is forgotten.

    Raises:
        RunError: if the run has none, or tasks that are not of it.
    """
    spec = run.header["stream"]
    if spec is None:
        raise RunError(
            f"A proof learns the run's stream again, got {run.path}, made from folders. Leave "
            "--proof out: the ids in forgotten.json show which tasks stayed as they were."
        )
    stream = under_new_names(run, load_stream(**spec))
    if len(run) > len(stream.tasks):
        raise RunError(
            f"A proof learns the run's stream again, got {run.path} with "
            f"{len(run) - len(stream.tasks)} tasks from folders after it. Leave --proof out."
        )
    return stream


def prove(learner: Learner, stream: Stream, out: Path) -> Proof:
    """Learn a stream without what a run has forgotten, into a new run, and compare the two.

    Args:
        learner: of the run that has forgotten. Its cache of features serves both, since one image
            among others may round otherwise.
        stream: with everything.
        out: a new folder; `proof.json` and the new run are written there.
    """
    run = learner.run
    found = Forgotten.of(run)
    entries = () if found is None else found.entries
    header = {k: v for k, v in run.header.items() if k != "format"}
    other = make_learner(
        Run.create(out, {**header, "id": secrets.token_hex(8), "names": {}}),
        learner.towers, learner.compute, learner.reporter, learner.cache, learner.reading,
    )  # fmt: skip
    reasons = {each for entry in entries for each in entry.reasons}
    for index, record in enumerate(run.records()):
        if not record.classes:
            with other.run.writing():
                other.run.commit(gap(other.run), None)
            continue
        sums = run.sums(index)
        weight: RidgeWeight = "choose"
        if sums is not None and isinstance(learner.program.classifier, Ridge):
            weight = weight_again(sums, "lambda kept" in reasons)
        task = narrowed(stream.tasks[index], stream.classes, set(record.classes))
        learn_task(other, replace(task, name=record.name), stream.classes, weight=weight)
    proof = compared(learner, other, stream, reasons)
    write_whole(out / "proof.json", json_bytes(proof.to_json()))
    return proof


def weight_again(sums: TaskSums, stays: bool) -> RidgeWeight:
    """Return the lambda that a task is learned with again.

    Args:
        stays: one that depends on images is that of the run.
    """
    if sums.weight and (stays or sums.how == "given"):
        return sums.weight
    return sums.how if sums.how in {"keep", "gcv"} else "choose"


def narrowed(task: Task, names: tuple[str, ...], classes: Collection[str]) -> Task:
    """Return a task with some of its classes only.

    Args:
        names: what labels index.
    """
    rows = [row for row, name in enumerate(task.classes) if name in classes]
    train, test = (
        part.subset([at for at, label in enumerate(part.labels) if names[label] in classes])
        for part in (task.train, task.test)
    )
    return replace(
        task,
        classes=tuple(task.classes[row] for row in rows),
        train=train,
        test=test,
        texts=tuple(task.texts[row] for row in rows if task.texts),
    )


def compared(learner: Learner, other: Learner, stream: Stream, reasons: set[str]) -> Proof:
    """Compare what two runs have learned; the loosest of what was promised decides."""
    promised = sorted(reasons - {"bitwise"}, key=list[str](ORDER).index)
    limit = max((LIMITS.get(each, 0.0) for each in promised), default=0.0)
    tasks = range(len(learner.run))
    ids = tuple(task_id(learner.run, task) == task_id(other.run, task) for task in tasks)
    mine = [*learner.run.parts(), learner.run.state()]
    theirs = [*other.run.parts(), other.run.state()]
    if limit == LIMITS["1e-10"]:  # of sums; a head in float32 is off by its rounding
        mine, theirs = mine[-1:], theirs[-1:]
    pairs = zip(mine, theirs, strict=True)
    error = max((apart(one[name], two.get(name)) for one, two in pairs for name in one), default=0)
    score_error, images = 0.0, 0
    for task in stream.tasks[: len(learner.run)]:
        batch = learner.load(task.test.subset(range(min(SCORED, len(task.test)))), "test images")
        if len(batch.images):
            one, two = (each.predict(batch.images).scores for each in (learner, other))
            score_error = max(score_error, float((one - two).abs().max()))
            images += len(batch.images)
    equal = error <= limit and (all(ids) or not {*promised} <= {"lambda kept"})
    return Proof(", ".join(promised) or "bitwise", ids, error, score_error, images, equal)


def apart(one: Tensor, other: Tensor | None) -> float:
    """Return the largest difference of two tensors, over the largest entry."""
    if other is None or one.shape != other.shape:
        return math.inf
    if not one.numel():
        return 0.0
    largest = max(float(one.double().abs().max()), 1e-300)
    return float((one.double() - other.double()).abs().max()) / largest
