"""Figures of a run with the task of an image given, and of tasks that are never trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgecl.learning import metrics
from edgecl.learning.fields import Fields, count, listed, number, optional, share, text
from edgecl.learning.records import Evaluation, Shares, TaskRecord

LABEL_SET = "label set of the image's task"
CHANCE = "a random answer among the classes of the task"


@dataclass(frozen=True)
class TaskGiven:
    """The accuracies where the task of an image is given, of any method (task-incremental).

    Attributes:
        oracle: what a prediction is told. An injection is still the one that the method matches.
        a_last: as the figures of `Summary`, of these accuracies.
        matrix: accuracies, lower triangle.
        baseline: what forward transfer is measured from.
        fwt: forward transfer; see `metrics.forward_transfer`.
        before: of tasks 2.., the accuracy before the task is learned; None where not all of its
            classes could be answered.
        chance: of the same tasks, the accuracy of the baseline.
    """

    oracle: str
    a_last: float | None
    a_avg: float | None
    a_last_task_mean: float | None
    matrix: tuple[Shares, ...]
    baseline: str
    fwt: float | None
    before: Shares
    chance: tuple[float, ...]

    @classmethod
    def of(
        cls, evaluations: Sequence[Evaluation], records: Sequence[TaskRecord]
    ) -> "TaskGiven | None":
        """Compute the figures; None where a stage lacks its accuracies."""
        matrix = tuple(one.given for one in evaluations if one.given is not None)
        if len(matrix) < len(evaluations):
            return None
        pooled = metrics.pooled_accuracy(matrix, evaluations[-1].images)
        before = tuple(one.ahead for one in evaluations[:-1])
        chance = tuple(1 / len(set(record.classes)) for record in records[1:])
        return cls(
            oracle=LABEL_SET,
            a_last=pooled[-1],
            a_avg=metrics.average(pooled),
            a_last_task_mean=metrics.task_mean_accuracy(matrix)[-1],
            matrix=matrix,
            baseline=CHANCE,
            fwt=metrics.forward_transfer(before, chance),
            before=before,
            chance=chance,
        )

    @classmethod
    def from_json(cls, value: object, where: str) -> "TaskGiven":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        shares = listed(optional(share))
        found = cls(
            oracle=fields.take("oracle", text),
            a_last=fields.take("a_last", optional(share)),
            a_avg=fields.take("a_avg", optional(share)),
            a_last_task_mean=fields.take("a_last_task_mean", optional(share)),
            matrix=fields.take("matrix", listed(shares)),
            baseline=fields.take("baseline", text),
            fwt=fields.take("fwt", optional(number)),
            before=fields.take("before", shares),
            chance=fields.take("chance", listed(share)),
        )
        fields.done()
        return found


@dataclass(frozen=True)
class HeldOutTask:
    """A task that is never trained, only tested: domain generalisation.

    Attributes:
        images: that were tested.
        last: the accuracy after the last task, over all classes learned.
        stages: the accuracy after every task, over the classes learned by then.
    """

    name: str
    images: int
    last: float | None
    stages: Shares

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> tuple["HeldOutTask", ...]:
        """Return the tasks that every stage was tested on."""
        stages = [{one.name: one for one in each.held_out} for each in evaluations]
        return tuple(
            cls(name, last.images, last.accuracy, tuple(each[name].accuracy for each in stages))
            for name, last in stages[-1].items()
            if all(name in each for each in stages)
        )

    @classmethod
    def from_json(cls, value: object, where: str) -> "HeldOutTask":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            name=fields.take("name", text),
            images=fields.take("images", count),
            last=fields.take("last", optional(share)),
            stages=fields.take("stages", listed(optional(share))),
        )
        fields.done()
        return found
