"""The uncertainty-aware memory: its score, its disturbed images, its shares, and a run."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgecl.learning.exemplars import Memory, keep, shares_of
from edgecl.learning.learner import Learner
from edgecl.learning.policies.disturbing import VIEWS, disturb, keys_of
from edgecl.learning.policies.uncertainty import bregman_information, uncertainty
from edgecl.learning.task_images import TaskImages
from edgecl.session import learn_stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Any]
MOVED, CROPPED, INVERTED = 9, 10, 11


def pictures(count: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)


def test_the_information_is_the_mean_of_lse_less_the_lse_of_the_mean() -> None:
    logits = torch.randn(12, 5, 3, generator=torch.Generator().manual_seed(0)) * 4
    found = bregman_information(logits)
    for image in range(5):
        z = logits[:, image].double().numpy()
        want = np.log(np.exp(z).sum(1)).mean() - np.log(np.exp(z.mean(0)).sum())
        assert found[image].item() == pytest.approx(want, abs=1e-10)
    assert (found > 0).all(), "log-sum-exp is convex"
    same = logits[:1] + torch.zeros(12, 1, 1)
    assert bregman_information(same).abs().max() < 1e-12
    shifted = same + torch.randn(12, 5, 1)
    assert bregman_information(shifted).abs().max() < 1e-6, "a constant is no information"


def test_what_is_made_of_an_image_depends_on_it_alone() -> None:
    images = pictures(5)
    keys = keys_of(images, seed=3)
    order = torch.tensor([4, 0, 2])
    for view in range(len(VIEWS)):
        together = disturb(images, keys, view)
        assert together.shape == images.shape
        assert together.dtype == torch.uint8
        assert (together != images).flatten(1).any(dim=1).all(), f"view {view} leaves an image"
        some = disturb(images[order], [keys[row] for row in order.tolist()], view)
        assert torch.equal(some, together[order])
    assert keys_of(images, seed=4) != keys


def test_flips_and_the_negative_are_exact() -> None:
    images = pictures(3)
    keys = keys_of(images, 0)
    assert torch.equal(disturb(images, keys, 2), images.flip(2))
    assert torch.equal(disturb(images, keys, 3), images.flip(1))
    assert torch.equal(disturb(images, keys, INVERTED), 255 - images)


def test_holes_have_their_size_and_turns_keep_the_middle() -> None:
    images = pictures(40, side=32)
    keys = keys_of(images, 0)
    for view, side in ((0, 10), (1, 20)):
        gone = (disturb(images, keys, view) != images).any(dim=-1).sum(dim=(1, 2))
        assert side * side // 5 <= gone.min()
        assert 0.9 * side * side <= gone.max() <= side * side
    plain = torch.full((40, 32, 32, 3), 200, dtype=torch.uint8)
    for view in (4, 5, 6, 8, MOVED, CROPPED):
        seen = disturb(plain, keys, view)  # of other images: each has its own numbers
        middle = seen[:, 13:19, 13:19] if view != MOVED else seen.flatten(1).amax(dim=1)
        assert (middle == 200).all(), f"view {view}"
    assert (disturb(plain, keys, CROPPED) == 200).all(), "a crop shows nothing else"
    dark = (disturb(plain, keys, MOVED) == 0).float().mean()
    assert 0.4 < dark < 0.8, "it shrinks to between a quarter and nine sixteenths"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 60))
def test_the_rarest_are_served_first_and_no_place_is_given_twice(
    counts: list[int], more: int
) -> None:
    room = len(counts) + more
    shares = shares_of(counts, room)
    assert sum(shares) <= room
    for count, share in zip(counts, shares, strict=True):
        assert 1 <= share <= count
        assert share == count or share >= room // len(counts)
    few = [count for count in counts if count <= room // len(counts)]
    many = max(1, len(counts) - len(few))
    equal = (room - sum(few)) // many  # of what those that keep all leave
    expected = [count if count in few else min(count, equal) for count in counts]
    assert shares == expected
    assert Counter(shares_of(sorted(counts), room)) == Counter(shares), "in any order"


def test_a_rare_class_leaves_its_places_and_a_former_one_keeps_its_first() -> None:
    images = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 2, 2, 3)
    former = Memory(images[:6], torch.tensor([0] * 5 + [1]))
    scores = torch.tensor([0.6, 0.1, 0.5, 0.2, 0.4, 0.3])
    found = keep(former, images[6:], torch.full((6,), 2), scores, 9 * 12, fill=True)
    assert found.class_rows.tolist() == [0] * 4 + [1] + [2] * 4
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 7, 9, 11, 10]


def test_a_run_remembers_what_its_model_is_surest_of(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=6)
    size = 32 * 32 * 3
    config = {"memory": 8 * size, "memory_by": "uncertainty"}
    learner, by_mean = (
        make_learner("proof", stream, out=out, config=each)
        for out, each in (("sure", config), ("mean", {"memory": 8 * size}))
    )
    for each in (learner, by_mean):
        learn_stream(each, stream)
    memory, other = (each.run.knowledge().memory for each in (learner, by_mean))
    assert memory is not None
    assert other is not None
    assert memory.class_rows.tolist() == other.class_rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not torch.equal(memory.images, other.images)
    batch = learner.load(stream.tasks[1].train, "")
    images = TaskImages(batch.images, torch.tensor(batch.labels) - 2, (), learner.encoder)
    scores = uncertainty(images, learner.learned(), learner.seed)
    assert (scores > 0).all()
    for row in (2, 3):
        own = torch.tensor(batch.labels) == row
        lowest = images.tensor[own][scores[own].argsort()[:2]]
        assert torch.equal(memory.images[memory.class_rows == row], lowest)
