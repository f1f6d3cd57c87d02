"""Evaluation after a task: on all classes learned so far, and by name on those to come.

Only `oracle` and the accuracy with the task given use task labels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.text_encoder import ClassText, class_texts
from edgecl.learning.class_metrics import ClassTally
from edgecl.learning.learner import Learner
from edgecl.learning.own_scores import reference_of
from edgecl.learning.records import Evaluation, HeldOut, Knowledge
from edgecl.learning.task_images import ImageBatch
from edgecl.learning.unknown_figures import UnknownTally
from edgecl.methods.shared.text_method import TextMethod
from edgecl.program import Outputs
from edgecl.program.learned import Tensors, TensorSpec, join
from edgecl.program.matchers import TaskMatcher
from edgecl.streams import ImageSet, Task


def evaluate(
    learner: Learner,
    knowledge: Knowledge,
    tests: Sequence[ImageSet],
    class_names: Sequence[str],
    later: Sequence[Task] = (),
    held_out: Sequence[Task] = (),
) -> Evaluation:
    """Evaluate over all classes learned so far; methods that read class names over all others too.

    Args:
        knowledge: what was learned so far, committed or not.
        tests: of each task so far.
        class_names: what the labels of the image sets index.
        later: the tasks to come, which a method that reads class names is tested on already.
        held_out: tasks that are only tested.
    """
    learned = join(learner.declared, knowledge.parts)
    ranked = RankedByName.of(learner, knowledge, learned, later)
    heads = [learned] if ranked is None else [learned, ranked.learned]
    live = torch.tensor(knowledge.live_rows)
    answers = SeenAnswers(knowledge.class_rows, live)
    reference = reference_of(learner.program.own_rows, knowledge, learned)
    tally = None if reference is None else UnknownTally(reference, live)
    oracle: list[float | None] = []
    open_: list[float | None] = []
    to_come = [] if ranked is None and tally is None else [task.test for task in later]
    nothing: list[Outputs] = []  # of no image: a run through the backbone, once
    for task, test in enumerate([*tests, *to_come]):
        images = learner.load_test(test)
        wanted = [class_names[label] for label in images.labels]
        seen = task < len(tests)
        empty = not len(images.images)
        outputs = nothing if empty and nothing else learner.answers(test, heads)
        if empty:
            nothing = outputs
        if seen:
            correct = answers.add(outputs[0], wanted, images)
            if tally is not None:
                tally.add_known(outputs[0], wanted, correct)
        elif tally is not None:
            tally.add_later(outputs[0], wanted)
        if ranked is not None:
            own = knowledge.class_rows[task] if seen else later[task - len(tests)].classes
            scores = outputs[-1].scores
            oracle.append(share(top(scores, ranked.among(own))[0], ranked.classes, wanted))
            open_.append(share(top(scores)[0], ranked.classes, wanted))
    if ranked is None:
        ahead = answers.ahead(learner, learned, later[0], class_names) if later else None
    else:
        ahead = oracle[len(tests)] if later else None
    matcher = learner.program.matcher
    return Evaluation(
        accuracy=tuple(answers.accuracy),
        images=tuple(answers.images),
        confusion=tuple(answers.confusion),
        match={} if matcher.name == "none" else answers.matches(),
        matched=tuple(answers.matched()) if isinstance(matcher, TaskMatcher) else None,
        oracle=None if ranked is None else tuple(oracle),
        open=None if ranked is None else tuple(open_),
        classes=answers.classes.figures(),
        held_out=tuple(answers.held_out(learner, learned, task, class_names) for task in held_out),
        given=tuple(answers.given),
        ahead=ahead,
        unknown=None if tally is None else tally.figures(),
    )


class SeenAnswers:
    """What was predicted for the test images of each task so far.

    Args:
        class_rows: of each task, the classes of its class rows.
        live: bool [c], whether a class row counts.
    """

    def __init__(self, class_rows: Sequence[Sequence[str]], live: Tensor):
        self._live = live
        self._class_rows = class_rows
        self._tasks = len(class_rows)
        self._row_class = [name for names in class_rows for name in names]
        self._row_task = [task for task, names in enumerate(class_rows) for _ in names]
        self._chosen: list[Counter[int]] = []  # per task, by entry of the bank
        self.accuracy: list[float | None] = []
        self.given: list[float | None] = []
        self.images: list[int] = []
        self.confusion: list[tuple[int, ...]] = []
        self.classes = ClassTally(self._row_class)

    def add(self, outputs: Outputs, wanted: Sequence[str], images: ImageBatch) -> list[bool]:
        """Count the answers to the next task's test images; return which are right."""
        best, scores = top(outputs.scores, self._live)
        answers = zip(images.names, wanted, best, scores, strict=True)
        for at, (name, true, row, score) in enumerate(answers):
            said = self._row_class[row]
            self.classes.add(name, true, said, score, partial(images.images.__getitem__, at))
        own = self._class_rows[len(self.given)]
        self.accuracy.append(share(best, self._row_class, wanted))
        self.given.append(self._among(outputs, own, wanted))
        self.images.append(len(wanted))
        owners = Counter(self._row_task[row] for row in best)
        self.confusion.append(tuple(owners[task] for task in range(self._tasks)))
        self._chosen.append(Counter(outputs.match.flatten().tolist()))
        return [self._row_class[row] == name for row, name in zip(best, wanted, strict=True)]

    def _among(self, outputs: Outputs, own: Sequence[str], wanted: Sequence[str]) -> float | None:
        """Return the accuracy with some classes as the only candidates."""
        names = set(own)
        rows = torch.tensor([name in names for name in self._row_class])
        return share(top(outputs.scores, self._live & rows)[0], self._row_class, wanted)

    def ahead(
        self, learner: Learner, learned: Tensors, task: Task, class_names: Sequence[str]
    ) -> float | None:
        """Return the accuracy on the task to come among its classes, if all have a row already."""
        if not set(task.classes) <= set(self._row_class):
            return None
        outputs, wanted = asked(learner, learned, task, class_names)
        return self._among(outputs, task.classes, wanted)

    def held_out(
        self, learner: Learner, learned: Tensors, task: Task, class_names: Sequence[str]
    ) -> HeldOut:
        """Return the answers to a task that is only tested; they count nowhere else."""
        outputs, wanted = asked(learner, learned, task, class_names)
        best, _ = top(outputs.scores, self._live)
        return HeldOut(task.name, share(best, self._row_class, wanted), len(wanted))

    def matches(self) -> dict[str, int]:
        """Return how often each entry of the bank was matched."""
        total = sum(self._chosen, Counter[int]())
        return {str(entry): total[entry] for entry in sorted(total)}

    def matched(self) -> list[tuple[int, ...]]:
        """Return how often each task was matched by images of each task.

        Entries of the bank are the tasks that have class rows, in order.
        """
        present = [task for task, names in enumerate(self._class_rows) if names]
        found = []
        for chosen in self._chosen:
            counts = [0] * self._tasks
            for entry, task in enumerate(present):
                counts[task] = chosen[entry]
            found.append(tuple(counts))
        return found


@dataclass(frozen=True, eq=False)
class RankedByName:
    """All classes of a stream as candidates, those to come by their names alone.

    Attributes:
        learned: the learned tensors with class rows for the classes to come.
        classes: of every class row.
    """

    learned: Tensors
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls, learner: Learner, knowledge: Knowledge, learned: Tensors, later: Sequence[Task]
    ) -> "RankedByName | None":
        """Add the classes to come; None of a method that does not read class names."""
        method = learner.method
        if learner.text is None or not isinstance(method, TextMethod):
            return None
        seen = knowledge.classes
        to_come: dict[str, ClassText] = {}
        for task in later:
            texts = class_texts(task.read_names, task.templates)
            for name, text in zip(task.classes, texts, strict=True):
                to_come.setdefault(name, text)
        names = [name for name in to_come if name not in set(seen)]
        read_as = [to_come[name] for name in names]
        new = method.zero_shot_rows(learner.text, read_as, knowledge.state | learned)
        wide = widened(learner.declared, learned, new)
        return cls(wide, (*seen, *names))

    def among(self, own: Sequence[str]) -> Tensor:
        """Return which candidates [c] are of some classes."""
        return torch.tensor([name in set(own) for name in self.classes])


def widened(declared: Mapping[str, TensorSpec], learned: Tensors, new: Tensors) -> Tensors:
    """Return learned tensors with more class rows.

    Args:
        new: the class rows, by tensor.
    """
    axes = {name: declared[name].axis_names.index("c") for name in new}
    wide = {name: torch.cat([learned[name], new[name]], dim=axis) for name, axis in axes.items()}
    return {**learned, **wide}


def top(
    scores: Float[Tensor, "b c"], candidates: Tensor | None = None
) -> tuple[list[int], list[float]]:
    """Return the best class row of each image among the candidates [c], and its score."""
    if candidates is not None:
        scores = scores.masked_fill(~candidates, -torch.inf)
    best = scores.argmax(dim=-1)
    return best.tolist(), scores.gather(-1, best[:, None])[:, 0].tolist()


def asked(
    learner: Learner, learned: Tensors, task: Task, class_names: Sequence[str]
) -> tuple[Outputs, list[str]]:
    """Return what all that was learned answers to a task's test images, and their classes."""
    images = learner.load_test(task.test)
    wanted = [class_names[label] for label in images.labels]
    return learner.answers(task.test, [learned])[0], wanted


def share(best: Sequence[int], row_class: Sequence[str], wanted: Sequence[str]) -> float | None:
    """Return the share of images whose best class row is of their class; None without images."""
    right = sum(row_class[row] == name for row, name in zip(best, wanted, strict=True))
    return right / len(wanted) if wanted else None
