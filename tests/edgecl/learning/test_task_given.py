"""Accuracy with the task given, and forward transfer, of any method."""

import json
from collections.abc import Callable

import pytest
import torch

from edgecl.learning.learner import Learner
from edgecl.learning.metrics import forward_transfer
from edgecl.learning.records import Evaluation
from edgecl.learning.summary import Summary
from edgecl.learning.task_figures import LABEL_SET
from edgecl.session import learn_stream, sum_up
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def test_forward_transfer_by_hand() -> None:
    """Equation 4 of Lopez-Paz and Ranzato: (0.5 - 0.25 + 0.1 - 0.5) / 2."""
    assert forward_transfer([0.5, 0.1], [0.25, 0.5]) == pytest.approx(-0.075)
    assert forward_transfer([0.5, None], [0.25, 0.5]) == pytest.approx(0.25)
    assert forward_transfer([None], [0.5]) is None
    assert forward_transfer([], []) is None


def scores_of(learner: Learner, stream: Stream, task: int) -> torch.Tensor:
    return learner.predict(learner.load(stream.tasks[task].test, "").images).scores


def test_only_the_classes_of_the_task_are_candidates(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """By hand, of a method that reads no names; what is not given is as before."""
    stream = make_stream(((0, 1), (2, 3), (1,)), test=6, protocol="dcil")
    learner = make_learner("simplecil", stream, config={})
    summary = learn_stream(learner, stream)
    assert summary is not None
    rows = [name for names in learner.run.class_rows() for name in names]
    by_hand = []
    for index, task in enumerate(stream.tasks):
        own = torch.tensor([name in task.classes for name in rows])
        scores = scores_of(learner, stream, index).masked_fill(~own, -torch.inf)
        answers = [rows[row] for row in scores.argmax(dim=1)]
        wanted = [stream.classes[label] for label in task.test.labels]
        by_hand.append(sum(map(str.__eq__, answers, wanted)) / len(wanted))
    given = summary.task_given
    assert given is not None
    assert given.matrix[2] == pytest.approx(tuple(by_hand))
    assert given.a_last == pytest.approx((12 * by_hand[0] + 12 * by_hand[1] + 6 * by_hand[2]) / 30)
    assert given.oracle == LABEL_SET
    assert all(
        with_task >= without
        for rows in zip(given.matrix, summary.matrix, strict=True)
        for with_task, without in zip(*rows, strict=True)
    )
    stored = json.loads((learner.run.path / "metrics.json").read_text())
    assert Summary.from_json(stored) == summary
    assert "Task-incremental: the candidates" in (learner.run.path / "report.html").read_text()


def test_forward_transfer_is_of_tasks_whose_classes_are_known(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """The third task is the first in another domain: it is answered by the rows of the first."""
    stream = make_stream(((0, 1), (2, 3), (0, 1)), test=6, protocol="dcil")
    learner = make_learner("simplecil", stream, config={})
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert summary.task_given is not None
    given = summary.task_given
    assert given.before[0] is None
    assert given.chance == (0.5, 0.5)
    scores = learner.predict(
        learner.load(stream.tasks[2].test, "").images,
        {"prototypes": learner.learned()["prototypes"][:2]},
    ).scores
    right = (scores.argmax(dim=1) == torch.tensor(stream.tasks[2].test.labels)).float().mean()
    assert given.before[1] == pytest.approx(right.item())
    assert given.fwt == pytest.approx(right.item() - 0.5)


def test_new_classes_without_names_have_no_forward_transfer(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    summary = learn_stream(make_learner("simplecil", stream), stream)
    assert summary is not None
    assert summary.task_given is not None
    assert summary.task_given.fwt is None
    assert summary.task_given.before == (None, None)


def test_names_are_read_before_their_task(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(test=6)
    summary = learn_stream(make_learner("zero-shot", stream), stream)
    assert summary is not None
    given, mtil = summary.task_given, summary.mtil
    assert given is not None
    assert mtil is not None
    assert given.before == tuple(mtil.matrix[task - 1][task] for task in (1, 2))
    assert given.matrix[2] == mtil.matrix[2]
    assert given.fwt == pytest.approx(sum(given.before) / 2 - 0.5)  # type: ignore[arg-type]


def test_a_run_of_a_former_release_has_its_other_figures(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    whole = learn_stream(learner, stream)
    path = learner.run.path / "tasks/001/evaluation.json"
    value = json.loads(path.read_text())
    for name in ("given", "ahead"):
        del value[name]
    assert Evaluation.from_json(value).given is None
    path.write_text(json.dumps(value))
    found = sum_up(learner.run)
    assert found is not None
    assert whole is not None
    assert found.task_given is None
    assert found.matrix == whole.matrix
