"""Matchers: what is chosen, how strongly, and from one image alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgecl.program.matchers import NoMatcher, TopK


def test_top_k_is_the_sorted_cosine() -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(5, 8), torch.randn(6, 8)
    match = TopK(8, pool=6, k=3)(query, {"prompt_keys": keys})
    for row in range(5):
        cosine = torch.stack([F.cosine_similarity(query[row], key, dim=0) for key in keys])
        order = sorted(range(6), key=lambda m, c=cosine: -c[m].item())[:3]
        assert match.index[row].tolist() == order
        torch.testing.assert_close(match.score[row], cosine[order])


def test_the_length_of_query_and_keys_does_not_matter() -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(5, 8), torch.randn(6, 8)
    matcher = TopK(8, pool=6, k=6)
    one = matcher(query, {"prompt_keys": keys})
    two = matcher(100 * query, {"prompt_keys": keys * torch.rand(6, 1).add(0.1)})
    assert torch.equal(one.index, two.index)
    torch.testing.assert_close(one.score, two.score)


@given(
    st.lists(st.integers(0, 2), min_size=4, max_size=40),
    st.integers(1, 4),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_ties_give_distinct_entries_of_the_best_score_whatever_the_batch(
    duplicates: list[int], k: int, batch: int
) -> None:
    """Among equal keys any may be chosen, none twice, always the same for the same image."""
    directions = torch.eye(3)
    keys = directions[duplicates]
    query = torch.tensor([[3.0, 2.0, 1.0]]).expand(batch, 3)
    match = TopK(3, pool=len(keys), k=k)(query, {"prompt_keys": keys})
    best = sorted((F.normalize(query[0], dim=0) @ keys.T).tolist(), reverse=True)[:k]
    for row in range(batch):
        assert len(set(match.index[row].tolist())) == k
        assert match.score[row].tolist() == pytest.approx(best)
        assert torch.equal(match.index[row], match.index[0])


def test_a_query_of_zeros_matches_without_nan() -> None:
    match = TopK(4, pool=3, k=2)(torch.zeros(1, 4), {"prompt_keys": torch.randn(3, 4)})
    assert match.score.tolist() == [[0, 0]]


def test_the_score_pulls_the_chosen_keys_only() -> None:
    keys = torch.eye(3).requires_grad_()
    match = TopK(3, pool=3, k=1)(torch.tensor([[1.0, 0.5, 0.0]]), {"prompt_keys": keys})
    match.score.sum().backward()
    assert keys.grad is not None
    assert keys.grad[0].abs().max() > 0
    assert keys.grad[1:].abs().max() == 0


def test_a_pool_may_grow_beyond_its_start() -> None:
    match = TopK(4, pool=3, k=2)(torch.randn(1, 4), {"prompt_keys": torch.randn(9, 4)})
    assert match.index.shape == (1, 2)


def test_no_matcher_is_one_path_for_all() -> None:
    match = NoMatcher()(torch.zeros(3, 0), {})
    assert match.index.tolist() == [[0], [0], [0]]
    assert match.score.tolist() == [[1], [1], [1]]
    assert NoMatcher().declare() == {}


def test_the_pool_declares_its_keys() -> None:
    item = TopK(4, pool=3, k=2).declare()["prompt_keys"]
    assert (item.shape(classes=7), item.least, item.concat_axis) == ((3, 4), {"m": 2}, None)
