"""Accuracy behind a task: over the classes seen so far, and ahead of those that have only a name.

No task label is used, but where it is named: `oracle`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.methods.shared.text_method import TextMethod
from edgecl.program.learned import Tensors
from edgecl.program.matchers import TaskMatcher
from edgecl.streams import ImageSet, Task

if TYPE_CHECKING:
    from edgecl.learning.learner import Learner


def evaluate(
    learner: "Learner",
    tests: Sequence[ImageSet],
    class_names: Sequence[str],
    learned: Tensors,
    rows: Sequence[Sequence[str]],
    ahead: Sequence[Task] | None = None,
    kept: Tensors | None = None,
) -> dict[str, Any]:
    """Evaluate over all classes seen so far and, where `ahead` is given, over all of the stream.

    Args:
        tests: of the tasks so far.
        rows: per task the classes of its rows of the classifier.
        ahead: the tasks to come, of a method that reads class names.
        kept: what the last `fit` kept; the rows of classes to come may be made of it.

    Returns:
        accuracy: per task so far, in 0..1.
        images: per task so far, how many were tested.
        confusion: true task by the task that owns the predicted row.
        match: how often each index of the bank was chosen, empty where nothing is matched.
        matched: true task by the task that was matched; only of a matcher that chooses among tasks.
        oracle: per task of the stream, the accuracy where its own classes are the only candidates
            (MTIL); with `ahead` only, as `open`.
        open: per task of the stream, the accuracy over the classes of all its tasks.
    """
    row_class = [name for names in rows for name in names]
    row_task = [task for task, names in enumerate(rows) for _ in names]
    found: dict[str, list[Any]] = {"accuracy": [], "images": [], "confusion": []}
    chosen: Counter[int] = Counter()
    matcher = learner.program.matcher
    if isinstance(matcher, TaskMatcher):
        found["matched"] = []
    heads = [learned]
    if ahead is not None:
        later = [name for task in ahead for name in task.classes]
        names = [name for name in dict.fromkeys(later) if name not in set(row_class)]
        heads.append(widened(learner, learned, names, kept or {}))
        wide_class = [*row_class, *names]
        found |= {"oracle": [], "open": []}
    for task, test in enumerate([*tests, *(each.test for each in ahead or ())]):
        pictures = learner.load_test(test)
        wanted = [class_names[label] for label in pictures.labels]
        seen = task < len(tests)
        said = learner.classified(pictures.images, heads if seen else heads[1:]) if wanted else []
        if seen:
            best = top(said[0].scores) if said else []
            counts = Counter(row_task[row] for row in best)
            found["accuracy"].append(share(best, row_class, wanted))
            found["images"].append(len(wanted))
            found["confusion"].append([counts[own] for own in range(len(tests))])
            matches = said[0].match.flatten().tolist() if said else []
            if matcher.name != "none":
                chosen.update(matches)
            if "matched" in found:
                found["matched"].append([matches.count(each) for each in range(len(tests))])
        if ahead is not None:
            own = set(rows[task] if seen else ahead[task - len(tests)].classes)
            scores = said[-1].scores if said else torch.zeros(0, len(wide_class))
            candidates = torch.tensor([name in own for name in wide_class])
            found["oracle"].append(share(top(scores, candidates), wide_class, wanted))
            found["open"].append(share(top(scores), wide_class, wanted))
    return {**found, "match": {str(index): chosen[index] for index in sorted(chosen)}}


def widened(learner: "Learner", learned: Tensors, names: Sequence[str], kept: Tensors) -> Tensors:
    """Return learned tensors with rows for classes that have only a name."""
    assert learner.text is not None, "a method that looks ahead has a text tower"
    assert isinstance(learner.method, TextMethod)
    new = learner.method.zero_shot_rows(learner.text, names, kept | learned)
    axes = {name: learner.declared[name].axis_names.index("c") for name in new}
    rows = {name: torch.cat([learned[name], new[name]], dim=axis) for name, axis in axes.items()}
    return {**learned, **rows}


def top(scores: Float[Tensor, "b c"], candidates: Tensor | None = None) -> list[int]:
    """Return the best row of each image, among the candidates [c] if there are."""
    if candidates is not None:
        scores = scores.masked_fill(~candidates, -torch.inf)
    rows: list[int] = scores.argmax(dim=-1).tolist()
    return rows


def share(best: Sequence[int], row_class: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of images whose best row is of their class; 0 without images."""
    right = sum(row_class[row] == name for row, name in zip(best, wanted, strict=True))
    return right / len(wanted) if wanted else 0.0
