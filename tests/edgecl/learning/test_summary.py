"""metrics.json: the figures of a run, computed, written and read again."""

import dataclasses
import json
from typing import Any

import pytest

from edgecl.learning.fields import RecordError
from edgecl.learning.metrics import MetricsError
from edgecl.learning.records import Evaluation, TaskRecord
from edgecl.learning.summary import Setting, Summary, summarise
from edgecl.streams import Files, Reason

# Three tasks; the second recovers at the end, so that its best stage is the last one.
MATRIX = ((0.9,), (0.7, 0.6), (0.6, 0.8, 0.5))
SIZES = (100, 50, 50)
CONFUSION = ((90, 5, 5), (10, 40, 0), (0, 0, 50))
MATCHED = ((95, 5, 0), (25, 25, 0), (0, 0, 50))
SQUARE = ((0.8, 0.4, 0.1), (0.7, 0.9, 0.3), (0.6, 0.8, 1.0))
SETTING = Setting("l2p", "emoji-demo", "cil", 1993)
KEYS = {
    *("format", "method", "stream", "protocol", "seed", "tasks", "test_images", "matrix"),
    *("pooled", "task_mean", "a_last", "a_avg", "a_last_task_mean", "a_avg_task_mean"),
    *("forgetting", "bwt", "task_id_accuracy", "task_confusion"),
    *("matched_task_accuracy", "matched_confusion"),
    *("match_histogram", "seconds", "train_images", "pack_bytes"),
    *("mtil", "ci_transfer", "not_evaluated", "state_bytes", "exemplars", "files"),
    "classes",
}
LATER = {
    "unknown",
    "held_out",
    "task_given",
    "xtail",
    "a_auc",
}  # fields that files of former releases lack


def square(table: tuple[tuple[int, ...], ...], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(row[:size] for row in table[:size])


def evaluations(by_name: bool = False, matched: bool = True) -> list[Evaluation]:
    return [
        Evaluation(
            row,
            SIZES[: len(row)],
            square(CONFUSION, len(row)),
            {"10": 1, "2": 7},
            square(MATCHED, len(row)) if matched else None,
            SQUARE[len(row) - 1] if by_name else None,
            SQUARE[len(row) - 1] if by_name else None,
        )
        for row in MATRIX
    ]


def records(count: int = 3) -> list[TaskRecord]:
    return [
        TaskRecord(
            task, "abcd"[task], (f"class {task}",), (), (300,), (), 1.5 + task, 10 * task, task
        )
        for task in range(count)
    ]


def summary(count: int = 3, tasks: int = 3, **options: bool) -> Summary:
    return summarise(SETTING, records(tasks), evaluations(**options)[:count], [7680] * tasks)


def stored(found: Summary) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(found.to_json(), allow_nan=False))
    return value


def test_the_figures_of_a_run() -> None:
    found = summary()
    assert (found.method, found.stream, found.protocol, found.seed) == (
        *("l2p", "emoji-demo", "cil", 1993),
    )
    assert found.tasks == ("a", "b", "c")
    assert found.test_images == SIZES
    assert found.matrix == MATRIX
    assert found.a_last == found.pooled[-1] == pytest.approx(0.625)
    assert found.a_avg == pytest.approx((0.9 + 2 / 3 + 0.625) / 3)
    assert found.a_last_task_mean == found.task_mean[-1] == pytest.approx(1.9 / 3)
    assert found.forgetting == pytest.approx(0.15)
    assert found.bwt == pytest.approx(-0.05)
    assert found.task_id_accuracy == pytest.approx(0.9)
    assert found.task_confusion == CONFUSION
    assert found.matched_task_accuracy == pytest.approx(0.85)
    assert found.matched_confusion == MATCHED
    assert list(found.match_histogram) == ["2", "10"]
    assert found.seconds == (1.5, 2.5, 3.5)
    assert found.train_images == (300, 300, 300)
    assert found.pack_bytes == (7680, 7680, 7680)
    assert found.state_bytes == (0, 10, 20)
    assert found.exemplars == (0, 1, 2)
    assert found.not_evaluated == ()
    assert found.mtil is found.ci_transfer is None
    assert found.by_name() == []


def test_a_auc_is_of_online_streams() -> None:
    """Tasks of 100, 300 and 200 images weigh the three accuracies."""
    sizes = (100, 300, 200)
    came = [
        dataclasses.replace(one, class_images=(n,)) for one, n in zip(records(), sizes, strict=True)
    ]
    online = dataclasses.replace(SETTING, protocol="online")
    found = summarise(online, came, evaluations(), [7680] * 3)
    want = (100 * 0.9 + 300 * 2 / 3 + 200 * 0.625) / 600
    assert found.a_auc == pytest.approx(want)
    assert Summary.from_json(stored(found)) == found
    assert summarise(SETTING, came, evaluations(), [7680] * 3).a_auc is None


def test_tasks_without_test_images_are_named_and_not_counted() -> None:
    found = summary(count=2, tasks=4)
    assert found.tasks == ("a", "b")
    assert found.not_evaluated == ("c", "d")
    assert len(found.seconds) == len(found.pack_bytes) == len(found.exemplars) == 2
    assert found.a_last == found.pooled[1]


def test_one_task_forgets_nothing_and_matches_nothing() -> None:
    found = summary(count=1, tasks=1, matched=False)
    assert (found.forgetting, found.bwt) == (0.0, 0.0)
    assert (found.matched_task_accuracy, found.matched_confusion) == (None, ())


def test_figures_by_name_say_their_oracle() -> None:
    found = summary(by_name=True)
    assert found.mtil is not None
    assert found.mtil.oracle == "label set of the image's task"
    assert found.mtil.transfer == pytest.approx(0.3)
    assert found.mtil.tasks.transfer == (None, pytest.approx(0.4), pytest.approx(0.2))
    assert found.mtil.last == pytest.approx(0.8)
    assert found.mtil.matrix == SQUARE
    assert found.ci_transfer is not None
    assert found.ci_transfer.oracle == "none"
    assert found.ci_transfer.ci_transfer == pytest.approx(0.275)
    assert [(name, oracle) for name, _, oracle in found.by_name()] == [
        *((name, "label set of the image's task") for name in ("Transfer", "Avg", "Last")),
        *((f"X-TAIL {name}", "none") for name in ("Transfer", "Avg", "Last")),
        ("CI-Transfer", "none"),
    ]
    assert found.xtail is not None
    assert found.xtail.matrix == found.ci_transfer.matrix
    assert found.xtail.transfer == pytest.approx(0.3)


def test_one_task_has_no_transfer() -> None:
    alone = [Evaluation((0.5,), (1,), ((1,),), {}, None, (0.5,), (0.5,))]
    found = summarise(SETTING, records(1), alone, [1])
    names = ["Avg", "Last", "X-TAIL Avg", "X-TAIL Last"]
    assert [name for name, _, _ in found.by_name()] == names
    assert Summary.from_json(stored(found)) == found


def test_without_a_whole_matrix_there_are_no_figures_by_name() -> None:
    """A stage that was not tested on a task that came later, or that knows more tasks."""
    whole = evaluations(by_name=True)
    for first in (
        dataclasses.replace(whole[0], oracle=None, open=None),
        dataclasses.replace(whole[0], oracle=(0.1,) * 4, open=(0.1,) * 4),
    ):
        found = summarise(SETTING, records(), [first, *whole[1:]], [1] * 3)
        assert found.mtil is found.ci_transfer is None


@pytest.mark.parametrize("by_name", [False, True])
def test_a_summary_is_read_as_it_was_written(by_name: bool) -> None:
    found = summary(by_name=by_name, matched=not by_name)
    assert stored(found).keys() == KEYS | LATER
    assert stored(found)["format"] == "edgecl-metrics/3"
    assert Summary.from_json(stored(found)) == found


def test_a_file_of_a_former_release_is_read() -> None:
    found = summary()
    former = {key: value for key, value in stored(found).items() if key not in LATER}
    assert Summary.from_json(former) == found


def test_evaluations_that_are_not_of_their_tasks() -> None:
    first, second, _ = evaluations()
    for given in ([], [second], [first, first]):
        with pytest.raises(MetricsError, match="Evaluate every task as it is learned"):
            summarise(SETTING, records(), given, [1] * 3)


def test_a_reader_wants_every_field_and_no_other() -> None:
    whole = stored(summary(by_name=True))
    for name in whole.keys() - LATER:
        with pytest.raises(RecordError, match=f"must be an object with the field '{name}'"):
            Summary.from_json({key: value for key, value in whole.items() if key != name})
    for group in ("mtil", "ci_transfer"):
        for name in whole[group]:
            cut = {key: value for key, value in whole[group].items() if key != name}
            with pytest.raises(RecordError, match=f"metrics.{group} must be .* the field '{name}'"):
                Summary.from_json({**whole, group: cut})
    with pytest.raises(RecordError, match="must be an object without further fields"):
        Summary.from_json({**whole, "a_best": 1.0})


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"format": "edgecl-metrics/2"}, "metrics.format must be edgecl-metrics/3"),
        ({"seed": 1.5}, "metrics.seed must be a whole number"),
        ({"a_last": 62.5}, "metrics.a_last must be a share in 0..1, got 62.5"),
        ({"bwt": "-5"}, "metrics.bwt must be a finite number"),
        ({"tasks": []}, "metrics.test_images must be one value for each of 0 tasks"),
        ({"seconds": [1.0]}, "metrics.seconds must be one value for each of 3 tasks"),
        ({"matrix": [[0.5]] * 3}, "metrics.matrix must be a lower triangle"),
        ({"task_confusion": [[1]]}, "metrics.task_confusion must be 3 x 3 counts"),
        ({"matched_confusion": [[1]]}, "metrics.matched_confusion must be 3 x 3 counts"),
        ({"match_histogram": {"2": -1}}, "metrics.match_histogram.2 must be a whole number"),
        ({"mtil": []}, "metrics.mtil must be a JSON object"),
    ],
)
def test_what_is_no_summary_is_refused(changes: dict[str, Any], must: str) -> None:
    with pytest.raises(RecordError, match=must):
        Summary.from_json({**stored(summary()), **changes})


def test_the_accounts_of_folders_are_read_as_they_were_written() -> None:
    files = Files("a", "2 class folders", 9, 5, 2, (Reason("broken", 1, ("x",)),),
                  (Reason("hidden", 1),), ("a note",))  # fmt: skip
    found = dataclasses.replace(summary(), files=(files, Files()))
    assert Summary.from_json(stored(found)) == found
    value = stored(found)
    value["files"][0]["total"] = 10
    with pytest.raises(RecordError, match=r"files\[0\].total must be the sum of the other counts"):
        Summary.from_json(value)


def test_tasks_without_test_images_are_named_and_have_no_accuracy() -> None:
    evaluation = Evaluation((0.5, None), (4, 0), ((4, 0), (0, 0)), {})
    found = summarise(
        SETTING, records(2), [Evaluation((0.5,), (4,), ((4,),), {}), evaluation], [1, 1]
    )
    assert found.untested == ("b",)
    assert found.pooled == (0.5, 0.5)
    nothing = [Evaluation((None,), (0,), ((0,),), {}, ((0,),), (None,), (None,))]
    found = summarise(SETTING, records(1), nothing, [1])
    assert found.a_last is found.task_id_accuracy is found.matched_task_accuracy is None
    assert found.by_name() == []
    assert Summary.from_json(stored(found)) == found
