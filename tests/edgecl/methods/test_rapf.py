"""RAPF: where its map starts, what is drawn and paired, and what a fusion keeps."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from tests.edgecl.support import view
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.rapf import Rapf
from edgecl.methods.rapf.objective import (
    Drawn,
    Objective,
    fused,
    in_turn,
    margin_loss,
    near_pairs,
)
from edgecl.methods.shared.head_alignment import Gaussians
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
WIDTH = 6


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("start", ["identity", "random"])
def test_it_starts_as_stated(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_clip: Clip, start: str
) -> None:
    """Untrained from the identity it is CLIP; else the rows are those of a linear layer."""
    stream = make_stream(((0, 1),))
    config = {"start": start, "schedule": {"epochs": 0}}
    learner, clip = (
        make_learner("rapf", stream, config=config),
        make_learner("zero-shot", stream, out="clip"),
    )
    for each in (learner, clip):
        learn_stream(each, stream)
    images = learner.load(stream.tasks[0].test, "").images
    change = learner.learned()["map"]
    if start == "identity":
        assert not change.any()
        same = learner.predict(images).scores, clip.predict(images).scores
        torch.testing.assert_close(*same, rtol=0, atol=1e-6)
        return
    weight = change + torch.eye(len(change))
    assert weight.abs().max() <= len(weight) ** -0.5
    assert weight.std() == pytest.approx((len(weight) * 3) ** -0.5, rel=0.05)


def test_classes_to_come_are_scored_by_name_under_the_map(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_clip: Clip
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=6)
    learner = make_learner("rapf", stream)
    learn_stream(learner, stream)
    method, learned = learner.method, learner.learned()
    assert isinstance(method, Rapf)
    assert method.trains == "never"
    assert learned["map"].any()
    rows = method.zero_shot_rows(TextEncoder(tiny_clip), ["hue-4"], learned)
    wide = learned | {name: torch.cat([learned[name], own]) for name, own in rows.items()}
    outputs = learner.predict(learner.load(stream.tasks[0].test, "").images, wide)
    turned = F.normalize(outputs.feature @ (learned["map"] + torch.eye(192)).T, dim=-1)
    want = torch.tensor(tiny_clip.logit_scale).exp() * turned @ wide["texts"].T
    torch.testing.assert_close(outputs.scores, want, rtol=1e-5, atol=1e-5)


def test_a_fusion_keeps_what_did_not_move_and_takes_what_moved_most() -> None:
    eye, before = torch.eye(WIDTH), random(WIDTH, WIDTH, seed=1)
    torch.testing.assert_close(fused(before, before, 0.6), before, rtol=0, atol=1e-5)
    after = before + random(WIDTH, WIDTH, seed=2)
    torch.testing.assert_close(fused(after, before, 1.0), after, rtol=0, atol=1e-5)
    left = torch.linalg.svd(before + eye).U
    share = (left.T @ (fused(after, before, 0.2) - before)) / (left.T @ (after - before))
    moved = (left.T @ (after - before)).abs()
    want = (moved / moved.max() + 0.2).clamp(max=1)
    torch.testing.assert_close(share, want, rtol=1e-3, atol=1e-3)


def test_pairs_are_of_different_classes_with_near_names() -> None:
    texts = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.0]]), dim=-1)
    assert near_pairs(texts, ("a", "b", "c", "a"), 2, 0.55).tolist() == [[0, 2]]
    assert near_pairs(texts, ("a", "b", "c", "d"), 2, 0.55).tolist() == [[0, 2], [0, 3]]
    assert near_pairs(texts, ("a", "b", "c", "a"), 2, 0.01).shape == (0, 2)


def test_all_former_classes_are_drawn_before_one_comes_again() -> None:
    drawn = list(islice(in_turn(5, torch.Generator().manual_seed(0)), 15))
    rounds = [drawn[at : at + 5] for at in (0, 5, 10)]
    assert all(sorted(each) == list(range(5)) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


@pytest.mark.parametrize("near", [0.0, 2.1])
def test_the_objective_by_hand(near: float) -> None:
    """Former classes whose features do not vary are drawn as their means."""
    texts, change = F.normalize(random(4, WIDTH, seed=3), dim=-1), random(WIDTH, WIDTH, seed=4)
    means, images = random(2, WIDTH, seed=5), random(3, WIDTH, seed=6)
    still = Gaussians(means, torch.zeros(2, WIDTH, WIDTH), torch.zeros(2).long())
    method = build_method("simplecil", BackboneSpec(WIDTH, 0, frozenset(), "0" * 64))
    task = view(
        method, 1, 2, {"texts": texts}, class_rows=tuple("abcd"), labels=torch.tensor([0, 1, 1]),
        plain=Features(images, torch.zeros(1)),
    )  # fmt: skip
    loss = Objective(task, torch.tensor(9.0), still, Drawn(2, 5, near, 0.1))
    loss.factors *= 0  # without the jitter
    got = loss(change, torch.tensor([0, 2]))

    def cosine(features: Tensor) -> Tensor:
        return F.normalize(features @ (change + torch.eye(WIDTH)).T, dim=-1) @ texts.T

    rows = torch.cat([images[[0, 2]], means.repeat_interleave(5, dim=0)])
    of = torch.tensor([2, 3, *[0] * 5, *[1] * 5])
    want = F.cross_entropy(9 * cosine(rows), of)
    if near:
        c = cosine(means)
        want += torch.stack([
            (0.1 - c[old, old] + c[old, new]).relu() for old in (0, 1) for new in (2, 3)
        ]).mean()
    torch.testing.assert_close(got, want)
    far = margin_loss(texts[:1], torch.zeros(WIDTH, WIDTH), texts[None, :2], -2.0)
    assert far == 0, "no loss where the margin is met"


def test_wrong_settings(tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match=r"Use 0\.6"):
        build_method("rapf", BackboneSpec.of(tiny_clip), {"fresh": 1.5})
