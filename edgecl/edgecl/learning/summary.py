"""The figures of a run: metrics.json, with one reader and one writer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgecl.learning import metrics
from edgecl.learning.class_metrics import ClassFigures
from edgecl.learning.fields import (
    Fields,
    count,
    integer,
    listed,
    named,
    number,
    optional,
    refuse,
    seconds,
    share,
    text,
)
from edgecl.learning.metrics import MetricsError
from edgecl.learning.records import (
    Counts,
    Evaluation,
    Shares,
    TaskRecord,
    is_square,
)
from edgecl.learning.task_figures import LABEL_SET, HeldOutTask, TaskGiven
from edgecl.learning.unknown_figures import UnknownSummary
from edgecl.streams import Files, Reason

FORMAT = "edgecl-metrics/3"
NO_ORACLE = "none"


def read_files(value: object, where: str) -> Files:
    """Read the account of a folder, as `asdict` gives it."""
    fields = Fields(value, where)
    root, layout = fields.take("root", text), fields.take("layout", text)
    total, training, test = (fields.take(name, count) for name in ("total", "training", "test"))
    skipped, ignored = (fields.take(name, listed(_reason)) for name in ("skipped", "ignored"))
    notes = fields.take("notes", listed(text))
    fields.done()
    if total != training + test + sum(reason.count for reason in (*skipped, *ignored)):
        refuse(f"{where}.total", "the sum of the other counts", total)
    return Files(root, layout, total, training, test, skipped, ignored, notes)


def _reason(value: object, where: str) -> Reason:
    fields = Fields(value, where)
    found = Reason(
        fields.take("why", text), fields.take("count", count), fields.take("first", listed(text))
    )
    fields.done()
    return found


@dataclass(frozen=True)
class Setting:
    """What a run learned.

    Attributes:
        protocol: what is asked of a prediction: "cil" (all classes learned, no task given), "dil",
            ... "mtil" asks what "cil" asks, and for the figures of `Mtil` besides.
    """

    method: str
    stream: str
    protocol: str
    seed: int


@dataclass(frozen=True)
class MtilTasks:
    """MTIL's figures of each task; the first one has no Transfer."""

    transfer: tuple[float | None, ...]
    avg: Shares
    last: Shares


@dataclass(frozen=True)
class Mtil:
    """The figures of MTIL, told the classes of the image's task, or those of X-TAIL, told nothing.

    Attributes:
        oracle: what a prediction is told.
        transfer: see `metrics.mtil_transfer`; None of a single task.
        tasks: the figures of each task.
        matrix: the accuracies [T, T].
    """

    oracle: str
    transfer: float | None
    avg: float | None
    last: float | None
    tasks: MtilTasks
    matrix: tuple[Shares, ...]

    @classmethod
    def of(cls, matrix: Sequence[Shares], oracle: str = LABEL_SET) -> "Mtil":
        """Compute the figures of accuracies [T, T]."""
        transfer = metrics.mtil_transfer(matrix)
        avg, last = metrics.mtil_average(matrix), metrics.mtil_last(matrix)
        return cls(
            oracle=oracle,
            transfer=metrics.average(transfer) if transfer else None,
            avg=metrics.average(avg),
            last=metrics.average(last),
            tasks=MtilTasks((None, *transfer), tuple(avg), tuple(last)),
            matrix=tuple(matrix),
        )

    @classmethod
    def from_json(cls, value: object, where: str) -> "Mtil":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        tasks = Fields(fields.take("tasks", lambda tasks, _: tasks), f"{where}.tasks")
        mtil = cls(
            oracle=fields.take("oracle", text),
            transfer=fields.take("transfer", optional(share)),
            avg=fields.take("avg", optional(share)),
            last=fields.take("last", optional(share)),
            tasks=MtilTasks(
                transfer=tasks.take("transfer", listed(optional(share))),
                avg=tasks.take("avg", listed(optional(share))),
                last=tasks.take("last", listed(optional(share))),
            ),
            matrix=fields.take("matrix", listed(listed(optional(share)))),
        )
        tasks.done()
        fields.done()
        return mtil


@dataclass(frozen=True)
class CiTransfer:
    """CGIL's CI-Transfer, whose candidates are the classes of all tasks.

    Attributes:
        oracle: what a prediction is told: nothing.
        ci_transfer: see `metrics.ci_transfer`; None of a single task.
        stages: the figure of each stage but the last.
        matrix: the accuracies [T, T].
    """

    oracle: str
    ci_transfer: float | None
    stages: Shares
    matrix: tuple[Shares, ...]

    @classmethod
    def of(cls, open_matrix: Sequence[Shares]) -> "CiTransfer":
        """Compute the figure of accuracies [T, T] over the classes of all tasks."""
        stages = metrics.ci_transfer(open_matrix)
        return cls(
            oracle=NO_ORACLE,
            ci_transfer=metrics.average(stages) if stages else None,
            stages=tuple(stages),
            matrix=tuple(open_matrix),
        )

    @classmethod
    def from_json(cls, value: object, where: str) -> "CiTransfer":
        """Read what `asdict` gives."""
        fields = Fields(value, where)
        found = cls(
            oracle=fields.take("oracle", text),
            ci_transfer=fields.take("ci_transfer", optional(share)),
            stages=fields.take("stages", listed(optional(share))),
            matrix=fields.take("matrix", listed(listed(optional(share)))),
        )
        fields.done()
        return found


@dataclass(frozen=True)
class Summary:
    """metrics.json: the figures of the tasks that were evaluated. docs/figures.md defines them.

    A task without test images has None for its accuracies. The figures are over those that have
    some; they are None where no task has.

    Attributes:
        tasks: names, in the order learned.
        test_images: of each task.
        matrix: accuracies, lower triangle, a row per task learned.
        pooled: the accuracy of every stage, as `metrics.pooled_accuracy` defines it.
        task_mean: the accuracy of every stage, every task with one vote.
        task_confusion: counts at the last stage, rows the true task, columns the task of the
            predicted class.
        matched_task_accuracy: None, and `matched_confusion` empty, where no matcher chooses among
            tasks.
        match_histogram: how often each entry of the bank was matched at the last stage.
        seconds: of learning each task.
        pack_bytes: of each task's learned tensors, at float16.
        mtil: of methods that read class names; else None.
        ci_transfer: likewise.
        xtail: the figures of X-TAIL, which are those of `mtil` among the classes of all tasks;
            likewise, and None of a run of a former release.
        not_evaluated: names of the tasks after these, which were not evaluated over the test images
            of all tasks: those that `learn` added, with or without a test part of their own.
        state_bytes: of what the run stored for the next task after each one.
        exemplars: training images among it.
        classes: the figures of each class at the last stage, without pictures.
        files: what became of every file of the folders that were learned, the stream's first.
        held_out: the tasks that are only tested.
        task_given: the figures where the task of an image is given; None of a run of a former
            release.
        unknown: how well images of no class are told; None of a method whose features do not last.
        a_auc: see `metrics.area_under_accuracy`, of the protocol "online"; else None.
    """

    method: str
    stream: str
    protocol: str
    seed: int
    tasks: tuple[str, ...]
    test_images: tuple[int, ...]
    matrix: tuple[Shares, ...]
    pooled: Shares
    task_mean: Shares
    a_last: float | None
    a_avg: float | None
    a_last_task_mean: float | None
    a_avg_task_mean: float | None
    forgetting: float | None
    bwt: float | None
    task_id_accuracy: float | None
    task_confusion: Counts
    matched_task_accuracy: float | None
    matched_confusion: Counts
    match_histogram: dict[str, int]
    seconds: tuple[float, ...]
    train_images: tuple[int, ...]
    pack_bytes: tuple[int, ...]
    mtil: Mtil | None
    ci_transfer: CiTransfer | None
    not_evaluated: tuple[str, ...]
    state_bytes: tuple[int, ...]
    exemplars: tuple[int, ...]
    classes: ClassFigures | None
    files: tuple[Files, ...] = ()
    held_out: tuple[HeldOutTask, ...] = ()
    task_given: TaskGiven | None = None
    unknown: UnknownSummary | None = None
    xtail: Mtil | None = None
    a_auc: float | None = None

    def __post_init__(self) -> None:
        stages = len(self.tasks)
        for name, values in (
            ("test_images", self.test_images),
            ("matrix", self.matrix),
            ("pooled", self.pooled),
            ("task_mean", self.task_mean),
            ("seconds", self.seconds),
            ("train_images", self.train_images),
            ("pack_bytes", self.pack_bytes),
            ("state_bytes", self.state_bytes),
            ("exemplars", self.exemplars),
        ):
            if not stages or len(values) != stages:
                refuse(f"metrics.{name}", f"one value for each of {stages} tasks", values)
        if any(len(row) != stage for stage, row in enumerate(self.matrix, start=1)):
            refuse("metrics.matrix", "a lower triangle, t accuracies in row t", self.matrix)
        if not is_square(self.task_confusion, stages):
            refuse("metrics.task_confusion", f"{stages} x {stages} counts", self.task_confusion)
        if self.matched_confusion and not is_square(self.matched_confusion, stages):
            refuse(
                "metrics.matched_confusion", f"{stages} x {stages} counts", self.matched_confusion
            )

    @property
    def untested(self) -> tuple[str, ...]:
        """Return the names of the tasks that have no test image."""
        return tuple(n for n, count in zip(self.tasks, self.test_images, strict=True) if not count)

    def by_name(self) -> list[tuple[str, float, str]]:
        """Return (name, mean, oracle) of the figures of classes known by name, if there are."""
        found: list[tuple[str, float | None, str]] = []
        if self.mtil is not None:
            mtil = self.mtil
            figures = (("Transfer", mtil.transfer), ("Avg", mtil.avg), ("Last", mtil.last))
            found += [(name, value, mtil.oracle) for name, value in figures]
        if self.xtail is not None:
            each = self.xtail
            figures = (("Transfer", each.transfer), ("Avg", each.avg), ("Last", each.last))
            found += [(f"X-TAIL {name}", value, each.oracle) for name, value in figures]
        if self.ci_transfer is not None:
            found.append(("CI-Transfer", self.ci_transfer.ci_transfer, self.ci_transfer.oracle))
        return [(name, value, oracle) for name, value, oracle in found if value is not None]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: object) -> "Summary":
        """Read metrics.json; what is no summary is a RecordError."""
        fields = Fields(value, "metrics")
        fields.form(FORMAT)
        names, counts = listed(text), listed(count)
        table, shares = listed(counts), listed(optional(share))
        summary = cls(
            method=fields.take("method", text),
            stream=fields.take("stream", text),
            protocol=fields.take("protocol", text),
            seed=fields.take("seed", integer),
            tasks=fields.take("tasks", names),
            test_images=fields.take("test_images", counts),
            matrix=fields.take("matrix", listed(shares)),
            pooled=fields.take("pooled", shares),
            task_mean=fields.take("task_mean", shares),
            a_last=fields.take("a_last", optional(share)),
            a_avg=fields.take("a_avg", optional(share)),
            a_last_task_mean=fields.take("a_last_task_mean", optional(share)),
            a_avg_task_mean=fields.take("a_avg_task_mean", optional(share)),
            forgetting=fields.take("forgetting", optional(share)),
            bwt=fields.take("bwt", optional(number)),
            task_id_accuracy=fields.take("task_id_accuracy", optional(share)),
            task_confusion=fields.take("task_confusion", table),
            matched_task_accuracy=fields.take("matched_task_accuracy", optional(share)),
            matched_confusion=fields.take("matched_confusion", table),
            match_histogram=fields.take("match_histogram", named(count)),
            seconds=fields.take("seconds", listed(seconds)),
            train_images=fields.take("train_images", counts),
            pack_bytes=fields.take("pack_bytes", counts),
            mtil=fields.take("mtil", optional(Mtil.from_json)),
            ci_transfer=fields.take("ci_transfer", optional(CiTransfer.from_json)),
            not_evaluated=fields.take("not_evaluated", names),
            state_bytes=fields.take("state_bytes", counts),
            exemplars=fields.take("exemplars", counts),
            classes=fields.take("classes", optional(ClassFigures.from_json)),
            files=fields.take("files", listed(read_files)),
            held_out=fields.give("held_out", listed(HeldOutTask.from_json), ()),
            task_given=fields.give("task_given", optional(TaskGiven.from_json), None),
            unknown=fields.give("unknown", optional(UnknownSummary.from_json), None),
            xtail=fields.give("xtail", optional(Mtil.from_json), None),
            a_auc=fields.give("a_auc", optional(share), None),
        )
        fields.done()
        return summary


def summarise(
    setting: Setting,
    records: Sequence[TaskRecord],
    evaluations: Sequence[Evaluation],
    pack_bytes: Sequence[int],
    files: Sequence[Files] = (),
) -> Summary:
    """Compute the figures of a run.

    Args:
        records: of all finished tasks.
        evaluations: after each of the first tasks; those that follow are named, not counted.
        pack_bytes: of each task that was evaluated, or of more.
        files: the accounts of the folders that were learned.

    Raises:
        MetricsError: if there is no evaluation, or one is not of its task.
    """
    stages = len(evaluations)
    if not stages or any(len(one.accuracy) != t for t, one in enumerate(evaluations, start=1)):
        raise MetricsError(
            "A summary needs at least one evaluation, and of task t one of t tasks, got "
            f"{[len(one.accuracy) for one in evaluations]}. Evaluate every task as it is learned."
        )
    matrix = tuple(one.accuracy for one in evaluations)
    last = evaluations[-1]
    pooled = metrics.pooled_accuracy(matrix, last.images)
    task_mean = metrics.task_mean_accuracy(matrix)
    matched = None if last.matched is None else _identified(last.matched)
    oracle = _whole([one.oracle for one in evaluations])
    open_matrix = _whole([one.open for one in evaluations])
    learned = records[:stages]
    came = [record.train_images for record in learned]
    return Summary(
        method=setting.method,
        stream=setting.stream,
        protocol=setting.protocol,
        seed=setting.seed,
        tasks=tuple(record.name for record in learned),
        test_images=last.images,
        matrix=matrix,
        pooled=tuple(pooled),
        task_mean=tuple(task_mean),
        a_last=pooled[-1],
        a_avg=metrics.average(pooled),
        a_last_task_mean=task_mean[-1],
        a_avg_task_mean=metrics.average(task_mean),
        forgetting=metrics.forgetting(matrix),
        bwt=metrics.backward_transfer(matrix),
        task_id_accuracy=_identified(last.confusion),
        task_confusion=last.confusion,
        matched_task_accuracy=matched,
        matched_confusion=last.matched or (),
        match_histogram={index: last.match[index] for index in sorted(last.match, key=int)},
        seconds=tuple(record.seconds for record in learned),
        train_images=tuple(record.train_images for record in learned),
        pack_bytes=tuple(pack_bytes[:stages]),
        mtil=None if oracle is None else Mtil.of(oracle),
        ci_transfer=None if open_matrix is None else CiTransfer.of(open_matrix),
        xtail=None if open_matrix is None else Mtil.of(open_matrix, NO_ORACLE),
        not_evaluated=tuple(record.name for record in records[stages:]),
        state_bytes=tuple(record.state_bytes for record in learned),
        exemplars=tuple(record.exemplars for record in learned),
        classes=None if last.classes is None else last.classes.without_pictures(),
        files=tuple(files),
        held_out=HeldOutTask.of(evaluations),
        task_given=TaskGiven.of(evaluations, learned),
        unknown=UnknownSummary.of([one.unknown for one in evaluations]),
        a_auc=metrics.area_under_accuracy(pooled, came) if setting.protocol == "online" else None,
    )


def _identified(confusion: Counts) -> float | None:
    """Return the share of images whose task was found; None without images."""
    return metrics.task_id_accuracy(confusion) if any(map(any, confusion)) else None


def _whole(stages: Sequence[Shares | None]) -> tuple[Shares, ...] | None:
    """Return accuracies of every stage on every task; None where a stage or a task lacks them."""
    found = tuple(shares for shares in stages if shares is not None)
    return found if {len(found), *map(len, found)} == {len(stages)} else None
