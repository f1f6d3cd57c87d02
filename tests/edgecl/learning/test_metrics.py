import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.learning import metrics

# Three tasks; the second recovers at the end, so that its best stage is the last one.
MATRIX = [[0.9], [0.7, 0.6], [0.6, 0.8, 0.5]]
SIZES = [100, 50, 50]

accuracies = st.floats(0, 1, allow_nan=False)


@st.composite
def triangles(draw: st.DrawFn, least: int = 1) -> list[list[float]]:
    tasks = draw(st.integers(least, 6))
    return [[draw(accuracies) for _ in range(t + 1)] for t in range(tasks)]


def test_worked_example() -> None:
    assert metrics.pooled_accuracy(MATRIX, SIZES) == pytest.approx([0.9, 2 / 3, 0.625])
    assert metrics.task_mean_accuracy(MATRIX) == pytest.approx([0.9, 0.65, 1.9 / 3])
    assert metrics.average([0.9, 0.7, 0.5]) == pytest.approx(0.7)
    # Task 0 falls from 0.9 to 0.6; task 1 ends at its best: (0.3 + 0) / 2.
    assert metrics.forgetting(MATRIX) == pytest.approx(0.15)
    # (0.6 - 0.9 + 0.8 - 0.6) / 2
    assert metrics.backward_transfer(MATRIX) == pytest.approx(-0.05)
    # Step 2: 0.9 - 0.7; step 3: mean of 0.7 - 0.6 and 0.6 - 0.8.
    assert metrics.one_step_forgetting(MATRIX) == pytest.approx((0.2 - 0.05) / 2)


def test_the_area_under_the_accuracy_weighs_by_images() -> None:
    """i-Blurry: equal steps give the plain mean; a step without an accuracy counts nothing."""
    assert metrics.area_under_accuracy([0.9, 0.5], [30, 10]) == pytest.approx(0.8)
    assert metrics.area_under_accuracy([0.9, 0.6, 0.3], [7, 7, 7]) == pytest.approx(0.6)
    assert metrics.area_under_accuracy([0.9, None, 0.5], [10, 99, 30]) == pytest.approx(0.6)
    assert metrics.area_under_accuracy([None], [5]) is None


def test_forgetting_holds_the_final_stage_in_the_maximum() -> None:
    # The literature's other definition, max over t < T, would give -0.4 here.
    assert metrics.forgetting([[0.5], [0.9, 0.7]]) == 0.0


def test_one_task_forgets_nothing() -> None:
    for figure in (metrics.forgetting, metrics.backward_transfer, metrics.one_step_forgetting):
        assert figure([[0.4]]) == 0.0


def test_entries_above_the_diagonal_are_not_read() -> None:
    square = [[0.9, 0.1, 0.1], [0.7, 0.6, 0.1], [0.6, 0.8, 0.5]]
    assert metrics.forgetting(square) == metrics.forgetting(MATRIX)
    assert metrics.task_mean_accuracy(square) == metrics.task_mean_accuracy(MATRIX)
    assert metrics.one_step_forgetting(square) == metrics.one_step_forgetting(MATRIX)


@given(triangles(), st.integers(1, 500))
def test_both_definitions_agree_for_equal_test_sets(matrix: list[list[float]], n: int) -> None:
    pooled = metrics.pooled_accuracy(matrix, [n] * len(matrix))
    assert pooled == pytest.approx(metrics.task_mean_accuracy(matrix))


@given(triangles(), st.data())
def test_pooled_accuracy_lies_between_the_tasks(
    matrix: list[list[float]], data: st.DataObject
) -> None:
    sizes = [data.draw(st.integers(1, 1000)) for _ in matrix]
    pooled = metrics.pooled_accuracy(matrix, sizes)
    for value, row in zip(pooled, matrix, strict=True):
        assert min(row) - 1e-9 <= value <= max(row) + 1e-9
    assert metrics.pooled_accuracy(matrix, [7 * n for n in sizes]) == pytest.approx(pooled)
    assert min(pooled) - 1e-9 <= metrics.average(pooled) <= max(pooled) + 1e-9


@given(triangles())
def test_forgetting_is_bounded_and_at_least_minus_bwt(matrix: list[list[float]]) -> None:
    lost = metrics.forgetting(matrix)
    assert 0 <= lost <= 1
    assert lost >= -metrics.backward_transfer(matrix) - 1e-9


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=5), accuracies)
def test_steady_loss_makes_forgetting_minus_bwt(steps: list[float], start: float) -> None:
    """Every task starts at the same accuracy and loses the same in each step after."""
    levels = np.maximum(start - np.concatenate([[0.0], np.cumsum(steps)]), 0)
    tasks = len(levels)
    matrix = [[float(levels[t - i]) for i in range(t + 1)] for t in range(tasks)]
    lost = metrics.forgetting(matrix)
    assert lost == pytest.approx(-metrics.backward_transfer(matrix))
    if tasks == 2:
        assert metrics.one_step_forgetting(matrix) == pytest.approx(lost)


@given(triangles(2))
def test_a_constant_shift_changes_no_difference(matrix: list[list[float]]) -> None:
    halved = [[value / 2 for value in row] for row in matrix]
    raised = [[value / 2 + 0.5 for value in row] for row in matrix]
    for figure in (metrics.forgetting, metrics.backward_transfer, metrics.one_step_forgetting):
        assert figure(raised) == pytest.approx(figure(halved), abs=1e-9)
        assert figure(halved) == pytest.approx(figure(matrix) / 2, abs=1e-9)


def test_rows_come_from_predictions() -> None:
    task = np.array([0, 0, 1, 1, 1, 2])
    correct = np.array([True, False, True, True, True, False])
    assert metrics.task_accuracies(correct, task, 3) == [0.5, 1.0, 0.0]
    assert metrics.task_confusion(task, np.array([0, 1, 1, 1, 2, 0]), 3) == [
        [1, 1, 0],
        [0, 2, 1],
        [1, 0, 0],
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1), st.randoms())
def test_confusion_counts_every_image_in_any_order(pairs: list[tuple[int, int]], random) -> None:
    def confusion(order: list[tuple[int, int]]) -> list[list[int]]:
        true, inferred = np.array(order).T
        return metrics.task_confusion(true, inferred, 4)

    counts = confusion(pairs)
    assert np.sum(counts) == len(pairs)
    share = sum(true == inferred for true, inferred in pairs) / len(pairs)
    assert metrics.task_id_accuracy(counts) == pytest.approx(share)
    shuffled = random.sample(pairs, len(pairs))
    assert confusion(shuffled) == counts


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        ([], "no row"),
        ([[0.5], [0.5]], "a short row 1"),
        ([[1.5]], "a value outside"),
        ([[-0.1]], "a value outside"),
        ([[float("nan")]], "a value outside"),
    ],
)
def test_a_broken_matrix_is_refused(matrix: list[list[float]], found: str) -> None:
    with pytest.raises(metrics.MetricsError, match=f"{found}. Pass one row of `task_accuracies`"):
        metrics.task_mean_accuracy(matrix)


def test_every_error_says_what_to_do() -> None:
    with pytest.raises(metrics.MetricsError, match=r"task 1 has none\. Give it test images"):
        metrics.task_accuracies(np.array([True]), np.array([0]), 2)
    with pytest.raises(metrics.MetricsError, match="Pass the sizes of the test sets"):
        metrics.pooled_accuracy(MATRIX, [3, 0, 3])
    with pytest.raises(metrics.MetricsError, match="Pass the sizes of the test sets"):
        metrics.pooled_accuracy(MATRIX, [3, 3])
    with pytest.raises(metrics.MetricsError, match="Learn a task"):
        metrics.average([])
    for counts in ([[1, 2]], [[0, 0], [0, 0]], [[-1, 2], [0, 3]]):
        with pytest.raises(metrics.MetricsError, match="Build it with `task_confusion`"):
            metrics.task_id_accuracy(counts)


# -- every stage on every task: MTIL and CI-Transfer

SQUARE = [[0.8, 0.4, 0.1], [0.7, 0.9, 0.3], [0.6, 0.8, 1.0]]


@st.composite
def squares(draw: st.DrawFn, least: int = 1) -> list[list[float]]:
    tasks = draw(st.integers(least, 6))
    return [[draw(accuracies) for _ in range(tasks)] for _ in range(tasks)]


def test_worked_example_of_every_stage_on_every_task() -> None:
    assert metrics.mtil_transfer(SQUARE) == pytest.approx([0.4, 0.2])  # 0.4; (0.1 + 0.3) / 2
    assert metrics.mtil_average(SQUARE) == pytest.approx([0.7, 0.7, 1.4 / 3])
    assert metrics.mtil_last(SQUARE) == [0.6, 0.8, 1.0]
    assert metrics.ci_transfer(SQUARE) == pytest.approx([0.25, 0.3])  # (0.4 + 0.1) / 2; 0.3


@given(squares(2), st.data())
def test_transfer_reads_nothing_of_learned_tasks(
    matrix: list[list[float]], data: st.DataObject
) -> None:
    other = [
        [value if i > t else data.draw(accuracies) for i, value in enumerate(row)]
        for t, row in enumerate(matrix)
    ]
    assert metrics.mtil_transfer(other) == metrics.mtil_transfer(matrix)
    assert metrics.ci_transfer(other) == metrics.ci_transfer(matrix)


@given(squares(2))
def test_avg_holds_the_stages_before_and_after(matrix: list[list[float]]) -> None:
    tasks = len(matrix)
    for i, before in enumerate(metrics.mtil_transfer(matrix), start=1):
        after = sum(matrix[t][i] for t in range(i, tasks))
        assert metrics.mtil_average(matrix)[i] == pytest.approx((i * before + after) / tasks)


@given(accuracies, st.integers(2, 6))
def test_a_method_that_learns_nothing_has_one_figure(level: float, tasks: int) -> None:
    same = [[level] * tasks] * tasks
    for figure in (
        *(metrics.mtil_transfer, metrics.mtil_average),
        *(metrics.mtil_last, metrics.ci_transfer),
    ):
        assert figure(same) == pytest.approx([level] * len(figure(same)))


@given(squares(2))
def test_both_transfers_are_means_of_the_same_entries(matrix: list[list[float]]) -> None:
    """One is over stages first, the other over tasks: the same sum, weighted otherwise."""
    tasks = len(matrix)
    by_task = sum(i * value for i, value in enumerate(metrics.mtil_transfer(matrix), start=1))
    stages = metrics.ci_transfer(matrix)
    by_stage = sum((tasks - 1 - t) * value for t, value in enumerate(stages))
    assert by_task == pytest.approx(by_stage)
    if tasks == 2:
        assert stages == metrics.mtil_transfer(matrix)


@pytest.mark.parametrize(
    ("matrix", "action"),
    [
        ([], "Evaluate every stage on every task"),
        ([[0.5], [0.5, 0.5]], "Evaluate every stage on every task"),
        ([[0.5, 0.5]], "Evaluate every stage on every task"),
        ([[1.5]], "Pass shares of correct answers"),
        ([[float("nan")]], "Pass shares of correct answers"),
    ],
)
def test_a_matrix_that_is_not_whole(matrix: list[list[float]], action: str) -> None:
    with pytest.raises(metrics.MetricsError, match=action):
        metrics.mtil_last(matrix)


NONE_OF_SECOND = [[0.9], [0.7, None], [0.6, None, 0.5]]


def test_a_task_without_test_images_is_in_no_figure() -> None:
    assert metrics.pooled_accuracy(NONE_OF_SECOND, [100, 0, 50]) == pytest.approx([
        0.9, 0.7, (60 + 25) / 150,
    ])  # fmt: skip
    assert metrics.task_mean_accuracy(NONE_OF_SECOND) == pytest.approx([0.9, 0.7, 0.55])
    assert metrics.forgetting(NONE_OF_SECOND) == pytest.approx(0.3)
    assert metrics.backward_transfer(NONE_OF_SECOND) == pytest.approx(-0.3)
    assert metrics.one_step_forgetting(NONE_OF_SECOND) == pytest.approx(0.15)


def test_no_test_images_at_all_give_no_figure() -> None:
    nothing = [[None], [None, None]]
    assert metrics.pooled_accuracy(nothing, [0, 0]) == [None, None]
    assert metrics.task_mean_accuracy(nothing) == [None, None]
    assert metrics.average([None, None]) is None
    for figure in (metrics.forgetting, metrics.backward_transfer, metrics.one_step_forgetting):
        assert figure(nothing) is None
    square = [[None, 0.5], [None, 0.7]]
    assert metrics.mtil_transfer(square) == [0.5]
    assert metrics.mtil_average(square) == [None, pytest.approx(0.6)]
    assert metrics.mtil_last(square) == [None, 0.7]
    assert metrics.ci_transfer(square) == [0.5]


@pytest.mark.parametrize("n", [[100, 3, 50], [0, 0, 50], [100, 0, 0]])
def test_counts_and_accuracies_agree(n: list[int]) -> None:
    with pytest.raises(metrics.MetricsError, match="Pass the sizes of the test sets"):
        metrics.pooled_accuracy(NONE_OF_SECOND, n)
