"""Alignment of a linear head on features that are drawn from Gaussians of all classes."""

import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.shared.head_alignment import (
    Gaussians,
    aligned,
    linear,
    normalised_cross_entropy,
    trained_again,
)
from edgecl.optim import TrainConfig


def blob(mean: list[float], count: int, seed: int) -> Tensor:
    """Return correlated rows around a mean."""
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    return torch.tensor(mean) + torch.randn(count, 2, generator=generator(seed)) @ mix.T


def test_older_means_are_shorter() -> None:
    known = Gaussians(torch.ones(4, 1), torch.zeros(4, 1, 1), torch.tensor([0, 0, 1, 3]))
    assert known.shrunk().flatten().tolist() == pytest.approx([0.925, 0.925, 0.95, 1.0])


def test_the_loss_divides_by_the_mean_norm_of_the_tasks_logits() -> None:
    logits = torch.tensor([[3.0, 4.0, 1.0], [1.0, 0.0, -2.0]])
    rows = torch.tensor([1, 0])
    found = normalised_cross_entropy(torch.tensor([0, 0, 1]), 0.1)(logits, rows)
    scaled = torch.stack([logits[0] / (0.1 * (5 + 1) / 2), logits[1] / (0.1 * (1 + 2) / 2)])
    torch.testing.assert_close(found, F.cross_entropy(scaled, rows))


def test_alignment_mends_a_head_that_prefers_its_newest_rows() -> None:
    old = blob([6.0, 0.0], 50, 1), blob([-6.0, 0.0], 50, 2)
    new = blob([0.0, 8.0], 50, 3)  # apart, so that a good head errs nowhere
    known = Gaussians.of(torch.cat(old), torch.arange(2).repeat_interleave(50), 2, 0)
    known = known.plus(Gaussians.of(new, torch.zeros(50).long(), 1, 1))
    head = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.0, 20.0])
    features = torch.cat([*old, new])
    rows = torch.arange(3).repeat_interleave(50)

    def accuracy(head: tuple[Tensor, Tensor]) -> float:
        return (F.linear(features, *head).argmax(dim=1) == rows).float().mean().item()

    assert accuracy(head) < 0.5
    schedule = TrainConfig("sgd", lr=0.05, epochs=20, batch_size=64)
    mended = aligned(head, known, schedule, 0.1, generator())
    assert accuracy(mended) > 0.95
    again = aligned(head, known, schedule, 0.1, generator())
    assert torch.equal(mended[0], again[0])
    assert torch.equal(mended[1], again[1])
    assert head[1].tolist() == [0.0, 0.0, 20.0]


def test_every_epoch_draws_anew() -> None:
    drawn = []

    def draw() -> tuple[Tensor, Tensor]:
        drawn.append(torch.randn(6, 2, generator=draws))
        return drawn[-1], torch.arange(6) % 2

    draws = generator()
    head = {"head_weight": torch.zeros(2, 2), "head_bias": torch.zeros(2)}
    schedule = TrainConfig(epochs=3, batch_size=2)
    found = trained_again(head, linear, draw, schedule, generator())
    assert len(drawn) == 3
    assert found["head_weight"].abs().max() > 0


def test_statistics_survive_the_way_through_a_file() -> None:
    known = Gaussians.of(blob([1.0, 2.0], 9, 0), torch.zeros(9).long(), 1, 4)
    again = Gaussians.from_tensors(known.to_tensors())
    assert torch.equal(again.covariances, known.covariances)
    assert again.tasks.tolist() == [4]
