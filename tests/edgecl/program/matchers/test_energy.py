"""The vote of temperatures on free energies, by hand."""

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor

from edgecl.methods.esn import CANDIDATES
from edgecl.program.matchers import EnergyVote
from edgecl.program.matchers.energy import confidence, coolest_right


def some(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) * scale


ROWS = {"task_rows": torch.tensor([2.0, 1.0, 3.0])}
LOGITS = some(6, 6, seed=3, scale=2.0)


def test_confidence_is_the_free_energy_of_each_tasks_own_rows_negated() -> None:
    temperatures = torch.tensor([0.001, 0.3, 1.0])
    found = confidence(LOGITS, temperatures, ROWS)
    assert found.shape == (6, 3, 3)
    for index, t in enumerate(temperatures.tolist()):
        for task, own in enumerate(LOGITS.split([2, 1, 3], dim=1)):
            want = t * (own.double() / t).logsumexp(dim=1)
            torch.testing.assert_close(found[:, index, task], want.float())
    assert confidence(1e3 * LOGITS, temperatures, ROWS).isfinite().all()


def test_a_task_without_a_row_is_never_sure() -> None:
    learned = {"task_rows": torch.tensor([2.0, 0.0, 4.0])}
    found = confidence(LOGITS, torch.tensor([0.5]), learned)
    assert (found[:, 0, 1] <= -1e4).all()
    assert found.isfinite().all()


def voted(logits: list[float], temperatures: list[float]) -> tuple[int, float]:
    learned = {**ROWS, "temperatures": torch.tensor(temperatures)}
    match = EnergyVote().vote(torch.tensor([logits]), learned)
    assert match.index.shape == match.score.shape == (1, 1)
    return int(match.index), float(match.score)


# Sure at T = 0.001 (the largest logit): task 0 by 2.0. At T = 1: task 2 by log(3) + 1.5 = 2.6.
DIVIDED = [2.0, -9.0, 1.0, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("temperatures", "winner"),
    [
        ([0.001], 0),
        ([1.0], 2),
        ([1.0, 0.001], 0),  # one vote each: the oldest task
        ([0.001, 0.9, 1.0], 2),
        ([0.001, 0.01, 1.0], 0),
        ([0.001, 1.0, 1.0, 1.0], 0),  # one vote each: who votes again is not counted again
        ([1.0, 0.001, 0.9, 1.0, 0.001], 2),
        ([0.0, -3.0], 0),  # no temperature: as the coldest one
    ],
)
def test_the_mode_of_the_temperatures_wins(temperatures: list[float], winner: int) -> None:
    index, score = voted(DIVIDED, temperatures)
    assert index == winner
    own = torch.tensor(DIVIDED).split([2, 1, 3])[winner]
    assert score == pytest.approx(float(own.logsumexp(0)), rel=1e-5)


def test_equal_energies_go_to_the_oldest_task() -> None:
    assert voted([-9.0, -9.0, 1.0, 1.0, -9.0, -9.0], [0.001])[0] == 1


def test_in_front_of_the_passes_nothing_is_matched() -> None:
    match = EnergyVote()(torch.zeros(4, 0), {})
    assert match.index.tolist() == [[0]] * 4


def test_the_temperature_is_the_one_that_finds_most_images_of_the_task() -> None:
    """Two images need T = 1 to be found, one needs T = 0.001; at T = 0.3 the last two are lost."""
    cold = [2.0, -9.0, 1.0, 3.0, -9.0, -9.0]
    warm = DIVIDED
    candidates = torch.tensor(CANDIDATES)
    assert coolest_right(torch.tensor([cold]), candidates, ROWS) == candidates[0]
    chosen = coolest_right(torch.tensor([cold, warm, warm]), candidates, ROWS)
    right = [
        sum(
            int(np.argmax([float(t * (own / t).logsumexp(0)) for own in row.split([2, 1, 3])]) == 2)
            for row in torch.tensor([cold, warm, warm]).double()
        )
        for t in CANDIDATES
    ]
    assert 1 in right
    assert 3 in right
    assert float(chosen) == pytest.approx(CANDIDATES[right.index(max(right))])
