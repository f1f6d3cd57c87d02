"""From all images of a data set to the tasks of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgecl.config import nearest
from edgecl.streams._blurry import blurred, random_ranges, resolved
from edgecl.streams._errors import StreamError
from edgecl.streams._option_files import check_tasks, check_templates, positions
from edgecl.streams._options import ClassOptions, ProtocolOptions, StreamOptions, refuse
from edgecl.streams._select import by_label, class_order, limit, named_images, take
from edgecl.streams._types import ImageSet, Stream, StreamProtocol, Task
from edgecl_deploy.manifest import names as rule


@dataclass(frozen=True, eq=False)
class DataSet:
    """A whole data set before it is divided; labels are indices of `classes`."""

    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    skipped: tuple[str, ...] = ()


def class_incremental(data: DataSet, options: ClassOptions, increment: int) -> Stream:
    """Divide a data set by class: in an order, `base` classes, then `increment` per task.

    The order is `class_order`, else it is by the seed.
    The last task takes the rest. Each class needs a training image. With `blurry` the images of
    some classes are then mixed among the tasks.
    """
    options = resolved(options)
    data = _first_classes(replace(data, classes=check_classes(data.classes)), options.classes)
    if options.class_order is None:
        order = class_order(len(data.classes), options.seed)
    else:
        order = positions(options.class_order, data.classes)
    classes = tuple(data.classes[i] for i in order)
    position = sorted(range(len(order)), key=order.__getitem__)  # of each class in the order
    train, test = data.train.relabel(position), data.test.relabel(position)
    train_of, test_of = by_label(train), by_label(test)
    tasks: list[Task] = []
    ranges = _ranges(len(classes), options.base or 0, increment)
    if options.stochastic:
        ranges = random_ranges(ranges, options.seed)
    for start, stop in ranges:
        trains = [i for c in range(start, stop) for i in train_of.get(c, [])]
        tests = [i for c in range(start, stop) for i in test_of.get(c, [])]
        name = f"task_{len(tasks):02d}"
        skipped = data.skipped if not tasks else ()
        tasks.append(
            Task(name, classes[start:stop], train.subset(trains), test.subset(tests), skipped)
        )
    stream = finish("cil", classes, tasks, options, increment=increment)
    return stream if options.blurry is None else blurred(stream, options)


def _ranges(count: int, base: int, increment: int) -> list[tuple[int, int]]:
    first = base or increment
    if first > count:
        raise StreamError(
            f"A task must not have more classes than the stream; got {first} for {count}. "
            "Lower base or increment."
        )
    starts = range(first, count, increment)
    return [(0, first)] + [(start, min(start + increment, count)) for start in starts]


def _first_classes(data: DataSet, count: int | None) -> DataSet:
    if count is None:
        return data
    if count > len(data.classes):
        raise StreamError(
            f"classes must be at most {len(data.classes)}, the number of classes; got {count}. "
            "Lower it or leave it out."
        )
    train, test = (
        part.subset([i for i, label in enumerate(part.labels) if label < count])
        for part in (data.train, data.test)
    )
    return replace(data, classes=data.classes[:count], train=train, test=test)


def check_classes(
    classes: Sequence[str], where: str = "a stream", more: str = ""
) -> tuple[str, ...]:
    """Check that there are classes, that packs can hold their names, and that these are unique.

    Args:
        where: has the classes.
        more: what else can be done about a name that is there twice.

    Returns:
        The names in the form in which they are stored.

    Raises:
        StreamError: there is none, a name is none for a pack, or two are one name.
    """
    for name in classes:
        check_name(name, f"A class of {where}")
    if (same := rule.one_name(classes)) is not None:
        raise StreamError(
            f"Class names of {where} must be unique, whatever their case and spelling; "
            f"{rule.both(*same)} are one name. Rename one of the two, or merge them.{more}"
        )
    if not classes:
        raise StreamError(
            f"At least one class is needed; {where} has none. Make one folder of images per class."
        )
    return tuple(map(rule.canonical, classes))


def check_name(name: str, what: str) -> str:
    """Check a name of a class or a task; return the form in which it is stored.

    Args:
        what: has the name.

    Raises:
        StreamError: no pack may hold it.
    """
    wrong = rule.fault(name)
    if wrong is not None:
        raise StreamError(
            f"{what} must have {rule.RULE}; {rule.quoted(name)} has {wrong}. Rename it."
        )
    return rule.canonical(name)


def finish(
    protocol: StreamProtocol,
    classes: tuple[str, ...],
    tasks: Sequence[Task],
    options: StreamOptions,
    **resolved: object,
) -> Stream:
    """Build the stream: apply `tasks`, the shots and the limits; no class may be empty.

    Args:
        resolved: options that the stream chose itself, for the spec.

    Raises:
        StreamError: a task that is held out has templates.
    """
    if options.task_templates is not None:
        check_templates(options.task_templates, [task.name for task in tasks])
        own = options.task_templates
        tasks = [replace(task, templates=own.get(task.name, ())) for task in tasks]
    if options.session_images is not None:
        refuse(options, ("shots", "session_shots"), "session_images name every image of a session")
        check_tasks("session_images", options.session_images, [task.name for task in tasks])
    asked = options.hold_out if isinstance(options, ProtocolOptions) else None
    tasks, held_out = _held_out(tasks, asked or (), protocol)
    for task in held_out:
        if task.templates:
            raise StreamError(
                f"Templates must be of tasks that are trained; {task.name} is held out. Leave it "
                "out of task_templates."
            )
    tasks = tasks[: options.tasks]
    names = dict(enumerate(classes))
    _check_trained(tasks, names)
    train = _chosen(tasks, names, options)
    test = {task.name: task.test for task in (*tasks, *held_out)}
    if options.limit_test is not None:
        test = limit(test, options.limit_test, names, options.seed)
    tasks = [replace(task, train=train[task.name], test=test[task.name]) for task in tasks]
    _check_trained(tasks, names)
    present = {name for task in tasks for name in task.classes}
    held_out = [replace(task, test=test[task.name]) for task in held_out]
    _check_held_out(held_out, present)
    used = tuple(name for name in classes if name in present)
    assert used == classes[: len(used)], "classes are in order of first appearance"
    spec = options.spec(**resolved)
    return Stream(options.name, protocol, used, tuple(tasks), spec, held_out=tuple(held_out))


def _chosen(
    tasks: Sequence[Task], names: dict[int, str], options: StreamOptions
) -> dict[str, ImageSet]:
    """Return the training images of each task, as shots, lists and limits choose them."""
    train = {task.name: task.train for task in tasks}
    if options.shots is not None:
        quota = dict.fromkeys(names, options.shots)
        train = {t: take(images, quota, names, options.seed) for t, images in train.items()}
    if options.session_shots is not None:
        quota = dict.fromkeys(names, options.session_shots)
        for task in tasks[1:]:
            train[task.name] = take(train[task.name], quota, names, options.seed)
    if options.session_images is not None:
        train |= named_images(tasks, options.session_images)
    if options.limit_train is not None:
        train = limit(train, options.limit_train, names, options.seed)
    return train


def _held_out(
    tasks: Sequence[Task], names: Sequence[str], protocol: StreamProtocol
) -> tuple[list[Task], list[Task]]:
    """Return the tasks that are trained, and those that are only tested.

    Raises:
        StreamError: a name is of no task, nothing is left to train, or tasks are no domains.
    """
    if names and protocol == "cil":
        raise StreamError(
            "hold_out needs tasks that are domains, whose classes other tasks have too; the "
            "stream is cil. Give --protocol dil, or leave hold_out out."
        )
    known = [task.name for task in tasks]
    for name in names:
        if name not in known:
            raise StreamError(
                f"hold_out must name tasks of the stream, {', '.join(known)}; got "
                f"{rule.quoted(name)}. {nearest(name, known)}"
            )
    trained = [task for task in tasks if task.name not in names]
    if not trained:
        raise StreamError(
            f"One task at least must be trained; all {len(known)} are held out. Leave one in."
        )
    return trained, [_only_tested(task) for task in tasks if task.name in names]


def _only_tested(task: Task) -> Task:
    return replace(task, train=task.train.subset([]))


def _check_held_out(tasks: Sequence[Task], trained: set[str]) -> None:
    """Check that held-out tasks can be answered.

    Raises:
        StreamError: a class is of no other task, or there is no test image.
    """
    for task in tasks:
        strangers = [name for name in task.classes if name not in trained]
        if strangers:
            raise StreamError(
                f"A held-out task must have classes that other tasks train; of {task.name} none "
                f"trains {', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}. Hold "
                "out another task, or remove the class from it."
            )
        if not len(task.test):
            raise StreamError(
                f"A held-out task needs test images; {task.name} has none. Give it a test part."
            )


def _check_trained(tasks: Sequence[Task], names: dict[int, str]) -> None:
    for task in tasks:
        trained = {names[label] for label in task.train.labels}
        empty = [name for name in task.classes if name not in trained]
        if empty:
            raise StreamError(
                f"Every class of a task must have a training image; in {task.name} these have "
                f"none: {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}. Add images, or "
                "remove the class."
            )
