"""What of a run can be forgotten: a class or a task, and whether what is left will be exact."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgecl.learning.changes import known_class
from edgecl.learning.records import TaskRecord
from edgecl.learning.runs import Run, RunError
from edgecl.methods import AnyMethod
from edgecl_deploy.manifest.names import quoted


@dataclass(frozen=True)
class Target:
    """What goes: the class rows of each task that stay.

    Attributes:
        kept: of each task, the positions of its class rows that stay.
        names: of the classes that are gone from the run.
        task: the task that was asked for; None for a class.
    """

    records: tuple[TaskRecord, ...]
    kept: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    task: int | None = None

    @property
    def touched(self) -> tuple[int, ...]:
        """Return the tasks that lose rows."""
        both = zip(self.records, self.kept, strict=True)
        return tuple(record.task for record, rows in both if len(rows) < len(record.classes))

    @property
    def mixed(self) -> tuple[int, ...]:
        """Return those of them that keep others."""
        return tuple(task for task in self.touched if self.kept[task])

    @property
    def is_last(self) -> bool:
        """Return whether it is the newest task and nothing else."""
        newest = len(self.records) - 1
        return self.touched == (newest,) and not self.kept[newest]

    def what(self) -> str:
        """Return it in words, for a message."""
        if self.task is not None:
            return f"task {self.task}"
        return f"{quoted(self.names[0])} of {tasks_in_words(self.touched)}"

    @classmethod
    def of_class(cls, run: Run, name: str) -> "Target":
        """Choose all rows of a class; a name that the run does not have is a RunError."""
        records = tuple(run.records())
        found = known_class(run, [list(record.classes) for record in records], name)
        kept = tuple(
            tuple(row for row, each in enumerate(record.classes) if each != found)
            for record in records
        )
        return cls(records, kept, (found,))

    @classmethod
    def of_task(cls, run: Run, task: int) -> "Target":
        """Choose a task.

        Raises:
            RunError: if there is none of this number.
        """
        records = tuple(run.records())
        if task not in run.present():
            raise RunError(
                f"--task must be a task of {run.path}, {tasks_in_words(run.present())}, got "
                f"{task}. `edgecl runs show {run.path}` shows them."
            )
        kept = tuple(
            () if record.task == task else tuple(range(len(record.classes))) for record in records
        )
        left = {name for record in records if record.task != task for name in record.classes}
        gone = tuple(dict.fromkeys(n for n in records[task].classes if n not in left))
        return cls(records, kept, gone, task)


def tasks_in_words(tasks: Sequence[int]) -> str:
    """Return the numbers of tasks."""
    return f"task{'' if len(tasks) == 1 else 's'} {', '.join(map(str, tasks))}"


def check_can(run: Run, method: AnyMethod, target: Target, images: bool) -> None:
    """Check that what is left will be what a run has that never saw the target.

    Args:
        images: those of the class are at hand.

    Raises:
        RunError: if not; it says what can be done.
    """
    left = run.setting("stream_tasks", 0) - len(run)
    if left > 0:
        raise RunError(
            f"A run forgets when its stream is finished, got {run.path} with {left} of its tasks "
            f"to come. Finish it with `edgecl train --resume {run.path}`, or give them up with "
            "`edgecl learn --leave-stream`."
        )
    if not any(target.kept):
        raise RunError(
            f"A run must keep a class, got {target.what()}, which is all that {run.path} has. "
            "Remove the folder of the run."
        )
    if target.is_last and run.undoable():
        return
    again = "Train again without it: `edgecl train --out` a new run."
    if method.forgets == "last":
        raise RunError(
            f"{method.name} trains every task on what the former ones left, so it forgets its last "
            f"task only, while the run keeps what the one before left; got {target.what()}. {again}"
        )
    if method.trains == "first" and 0 in target.touched:
        raise RunError(
            f"{method.name} trained its injection on task 0, of which every later feature depends; "
            f"got {target.what()}. {again}"
        )
    if method.forgets == "tasks" and target.mixed:
        raise RunError(
            f"{method.name} trains the classes of a task against each other, so it forgets whole "
            f"tasks; got {target.what()}, with other classes in {tasks_in_words(target.mixed)}. "
            f"Forget the task with --task, or the last with `edgecl undo`. {again}"
        )
    if method.forgets == "rows":
        check_moves(method, target)
    if method.forgets == "sums":
        check_sums(run, method, target, images)


def check_moves(method: AnyMethod, target: Target) -> None:
    """Check that no row that stays is of images that go.

    Raises:
        RunError: if one is.
    """
    for task in target.touched:
        gone = set(target.records[task].classes) - set(target.names)
        for later in target.records[task + 1 :]:
            if shared := gone & set(later.moved):
                raise RunError(
                    f"{method.name} has one mean of all images of a class, got {target.what()} "
                    f"whose images of {', '.join(map(quoted, sorted(shared)))} are in the mean of "
                    f"task {later.task}. Forget the class with --class, or train again."
                )


def check_sums(run: Run, method: AnyMethod, target: Target, images: bool) -> None:
    """Check that the sums are there without the target.

    Raises:
        RunError: if not.
    """
    without = [task for task in run.present() if not run.keeps_sums(task)]
    if without:
        raise RunError(
            f"{method.name} forgets by the sums of each task, got none of "
            f"{tasks_in_words(without)}: an older version learned them, or the run has "
            "sums=total. Train again, with sums=task."
        )
    if target.mixed and not images:
        raise RunError(
            f"{method.name} keeps the sums of a task, not of each class, got {target.what()}, with "
            f"other classes in {tasks_in_words(target.mixed)}. Give the folder of the images that "
            "it was learned from with --images, or forget the whole task with --task."
        )
    if len(target.mixed) > 1:
        raise RunError(
            f"The images of a class are subtracted from one task, got {target.what()}, with other "
            "classes in each. Forget the tasks with --task, or train again."
        )
