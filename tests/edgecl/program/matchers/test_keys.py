"""Learned keys: one per task, and the attended ones of a mixture."""

import pytest
import torch
from tests.edgecl.support import bank
from torch.nn import functional as F

from edgecl.program.matchers import AttendedKeys, TaskKeys, newest

D, TASKS, ROWS = 192, 3, 4


# -- task keys


def test_the_nearest_task_key_is_matched_and_the_own_one_in_training() -> None:
    keys = bank(TASKS, 8).float()
    query = bank(5, 8, seed=1).float()
    matcher = TaskKeys(8)
    match, own = matcher(query, {"task_keys": keys}), matcher.own(query, {"task_keys": keys})
    for row in range(5):
        cosine = [F.cosine_similarity(query[row], key, dim=0).item() for key in keys]
        assert match.index[row].item() == max(range(TASKS), key=cosine.__getitem__)
        assert match.score[row].item() == pytest.approx(max(cosine), abs=1e-6)
        assert own.index[row].item() == TASKS - 1
        assert own.score[row].item() == pytest.approx(cosine[-1], abs=1e-6)
    assert newest(query, 7).index.flatten().tolist() == [6] * 5


# -- the mixture of CODA-Prompt


def test_weights_are_the_cosines_of_the_attended_query() -> None:
    blocks, count, width = 2, 5, 8
    keys, attention = bank(count, blocks, width), bank(count, blocks, width, seed=1)
    query = bank(3, width, seed=2)
    learned = {"component_keys": keys, "component_attention": attention}
    match = AttendedKeys(width, blocks, count)(query, learned)
    assert match.weights is not None
    for image in range(3):
        sums = torch.zeros(count, dtype=torch.float64)
        for component in range(count):
            for block in range(blocks):
                want = F.cosine_similarity(
                    query[image] * attention[component, block], keys[component, block], dim=0
                )
                got = match.weights[image, block, component]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
                sums[component] += want
        assert match.index[image].tolist() == [int(sums.argmax())]
        torch.testing.assert_close(match.score[image, 0], sums.max())
    assert match.weights.min() < 0, "weights may be negative"


def test_a_query_of_zeros_has_no_weight_and_no_nan() -> None:
    learned = {
        name: bank(4, 1, 8).float().requires_grad_()
        for name in ("component_keys", "component_attention")
    }
    match = AttendedKeys(8, 1, 4)(torch.zeros(1, 8), learned)
    assert match.weights is not None
    assert match.weights.abs().max() == 0
    match.weights.sum().backward()
    for tensor in learned.values():
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
