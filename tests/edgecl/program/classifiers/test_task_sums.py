"""The sums of each task of a run: what they add up to, and what they weigh."""

from collections.abc import Callable

import pytest
import torch

from edgecl.learning.learner import Learner
from edgecl.program.classifiers.ridge import Sums, added, owners
from edgecl.program.classifiers.task_sums import TaskSums, packed, unpacked
from edgecl.session import learn_stream
from edgecl.streams import Stream

TASKS = ((0, 1), (2, 3), (1, 2))


def test_a_gram_is_packed_and_a_matrix_that_is_not_symmetric_is_whole() -> None:
    rows = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = rows.T @ rows
    gram = torch.tril(gram) + torch.tril(gram, -1).T
    assert packed(gram).shape == (15,)
    assert torch.equal(unpacked(packed(gram)), gram)
    assert torch.equal(unpacked(packed(rows[:5])), rows[:5])


@pytest.mark.parametrize("kept", ["task", "total"])
@pytest.mark.parametrize("method", ["ranpac", "layup", "lda"])
def test_the_sums_of_the_tasks_in_order_are_the_state(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    method: str,
    kept: str,
) -> None:
    stream = make_stream(TASKS, protocol="dcil")
    learner = make_learner(method, stream, config={"sums": kept})
    learn_stream(learner, stream)
    run = learner.run
    found = [run.sums(task) for task in range(3)]
    if kept == "total":
        assert (found, run.sums_bytes()) == ([None] * 3, 0)
        return
    assert run.kept_bytes() > run.sums_bytes() > 0
    rows: list[str] = []
    state: dict[str, torch.Tensor] = {}
    for task, sums in enumerate(found):
        assert isinstance(sums, TaskSums)
        rows += run.record(task).classes
        owner = owners(rows, apart=method == "lda" and not learner.moves)
        total = added(state, Sums(sums.gram, sums.among(owner)), owner)
        state = {"gram": total.gram, "moments": total.moments}
        assert (sums.weight > 0) == (method != "lda")
    left = run.state()
    assert all(torch.equal(left[name], tensor) for name, tensor in state.items())
