"""A head that infers the task: its match and its layers."""

import pytest
import torch
from tests.edgecl.support import bank, generator

from edgecl.program.learned import Tensors
from edgecl.program.matchers import TaskInference


def inference(width: int = 6, rows: tuple[float, ...] = (2, 1, 3), seed: int = 0) -> Tensors:
    """Return random tensors of a task inference with its table of rows."""
    declared = TaskInference(width, 2 * width).declare()
    given = {
        name: torch.randn(item.shape(int(sum(rows))), generator=generator(seed + offset))
        for offset, (name, item) in enumerate(declared.items())
    }
    return given | {"task_rows": torch.tensor(rows)}


def test_the_owner_of_the_likeliest_class_is_matched() -> None:
    learned, query = inference(), bank(20, 6, seed=1).float()
    matcher = TaskInference(6, 12)
    owners = [0, 0, 1, 2, 2, 2]
    for row, owner in enumerate(owners):
        bias = torch.zeros(6)
        bias[row] = 1e3
        match = matcher(query, learned | {"inference_head_bias": bias})
        assert match.index.flatten().tolist() == [owner] * 20
        assert match.score.min() > 0.99
    match = matcher(query, learned)
    likely = matcher.logits(query, learned).softmax(dim=1)
    assert match.index.flatten().tolist() == [owners[row] for row in likely.argmax(dim=1).tolist()]
    torch.testing.assert_close(match.score[:, 0], likely.amax(dim=1))
    assert len(set(match.index.flatten().tolist())) > 1
    assert matcher.own(query, learned).index.unique().tolist() == [2]


@pytest.mark.parametrize("seed", range(5))
def test_no_table_of_rows_makes_a_match_out_of_range(seed: int) -> None:
    learned = inference() | {"task_rows": 10 * torch.randn(4, generator=generator(seed))}
    match = TaskInference(6, 12)(bank(50, 6, seed=seed).float(), learned)
    assert 0 <= match.index.min() <= match.index.max() < 4


def test_the_inference_head_is_a_residual_mlp_and_a_norm() -> None:
    learned, query = inference(), bank(3, 6, seed=1).float()
    hidden = learned["inference_in"] @ query[0] + learned["inference_in_bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    x = query[0] + learned["inference_out"] @ hidden + learned["inference_out_bias"]
    x = (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()
    want = x * learned["inference_scale"] + learned["inference_shift"]
    torch.testing.assert_close(TaskInference(6, 12).embed(query, learned)[0], want)
