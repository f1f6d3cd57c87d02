"""The figures of images of no class, against a count of all pairs."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecl.learning.fields import RecordError
from edgecl.learning.learner import Learner
from edgecl.learning.records import Evaluation
from edgecl.learning.runs import CANARY, PART, SCORES
from edgecl.learning.summary import Summary
from edgecl.learning.unknown_figures import UnknownFigures, UnknownSummary, auroc, fpr95, oscr
from edgecl.program.learned import join
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def values(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.integers(0, 12, size) / 12  # with ties, as p-values have


@pytest.mark.parametrize(("known", "unknown"), [(1, 1), (40, 7), (33, 60)])
def test_pairs_are_counted(known: int, unknown: int) -> None:
    rng = np.random.default_rng(known)
    a, b, right = values(rng, known), values(rng, unknown), rng.random(known) < 0.7
    wins = [(x > y) + 0.5 * (x == y) for x, y in product(a, b)]
    assert auroc(a, b) == pytest.approx(np.mean(wins))
    wins = [((x > y) + 0.5 * (x == y)) * r for (x, r), y in product(zip(a, right, strict=True), b)]
    assert oscr(a, b, right) == pytest.approx(np.mean(wins))
    accepting = [t for t in np.append(a, 0) if (a >= t).mean() >= 0.95]
    assert fpr95(a, b) == pytest.approx((b >= max(accepting)).mean())


def test_without_images_of_one_kind_there_is_no_figure() -> None:
    some, none = np.ones(3), np.empty(0)
    assert [auroc(some, none), fpr95(none, some), oscr(some, none, some > 0)] == [None] * 3


def test_tasks_to_come_are_unknown_until_they_are_learned(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3), (4,)), train=20, test=5)
    learner = make_learner("simplecil", stream)
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert summary.unknown is not None
    stages = summary.unknown.stages
    assert [one.known_images for one in stages] == [10, 20, 25]
    assert [one.unknown_images for one in stages] == [15, 5, 0]
    assert [one.auroc is None for one in stages] == [False, False, True]
    assert all(sum(one.known_p) == one.known_images for one in stages)
    first = stages[0]
    assert first.coverage is not None
    assert first.coverage >= 0.7
    assert first.auroc is not None
    assert first.auroc > 0.6  # hues that were never seen
    known, later = stream.tasks[0].test, [task.test for task in stream.tasks[1:]]
    learned = join(learner.declared, learner.run.parts()[:1])
    of_known, *of_later = (
        learner.answers(images, [learned])[0].scores.double().numpy() for images in (known, *later)
    )
    of_unknown = np.concatenate(of_later)
    assert first.auroc_max_score == auroc(of_known.max(axis=1), of_unknown.max(axis=1))
    of_two = [abs(scores[:, 0] - scores[:, 1]) for scores in (of_known, of_unknown)]
    assert first.auroc_msp == auroc(*of_two)  # of two classes, it grows with what is between them
    assert first.rejected_domain is None
    assert summary.unknown.auroc == pytest.approx(np.mean([one.auroc for one in stages[:2]]))
    assert Summary.from_json(summary.to_json()) == summary
    evaluation = learner.run.evaluation(0)
    assert evaluation is not None
    assert evaluation.unknown == first
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    page = (learner.run.path / "report.html").read_text(encoding="utf-8")
    assert "Unknown images" in page
    # what ships is of training images alone: other test images leave it as it is
    other = make_stream(((0, 1), (2, 3), (4,)), train=20, test=3)
    again = make_learner("simplecil", other, out="other")
    learn_stream(again, other)
    for task, name in product(range(3), (SCORES, PART, CANARY)):
        one, two = (run.path / "tasks" / f"{task:03d}" / name for run in (learner.run, again.run))
        assert one.read_bytes() == two.read_bytes()


def test_a_class_in_another_domain_is_not_unknown(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (0, 1)), train=20, protocol="dil")
    learner = make_learner("lda", stream)
    summary = learn_stream(learner, stream)
    assert summary is not None
    assert summary.unknown is not None
    first = summary.unknown.stages[0]
    assert first.unknown_images == 0
    assert first.rejected_domain is not None
    assert first.auroc is None


def test_a_run_without_figures_has_no_such_field(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("simplecil", stream := make_stream(((0,),)))
    learn_stream(learner, stream)
    evaluation = learner.run.evaluation(0)
    assert evaluation is not None
    assert "unknown" not in replace(evaluation, unknown=None).to_json()
    without = [replace(evaluation, unknown=None), evaluation]
    assert UnknownSummary.of([each.unknown for each in without]) is None


def test_a_run_from_before_the_head_s_scores_were_counted_is_read() -> None:
    older = {**vars(UnknownFigures(0.05, 3, 0))}
    del older["auroc_max_score"], older["auroc_msp"]
    assert UnknownFigures.from_json(older, "here") == UnknownFigures(0.05, 3, 0)


def test_other_counts_are_refused() -> None:
    good = {**vars(UnknownFigures(0.05, 3, 0))}
    assert UnknownFigures.from_json(good, "here") == UnknownFigures(0.05, 3, 0)
    with pytest.raises(RecordError, match="20 counts"):
        UnknownFigures.from_json({**good, "known_p": [1, 2]}, "here")
