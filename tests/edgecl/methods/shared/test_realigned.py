"""Heads that are trained again on normal distributions of all classes."""

import torch
from tests.edgecl.support import bank, generator

from edgecl.methods.shared.head_alignment import linear, realigned, with_classes
from edgecl.optim import TrainConfig
from edgecl.program.statistics import pseudo_features


def test_pseudo_features_have_the_moments_of_their_class() -> None:
    features = bank(300, 3).float() * torch.tensor([1.0, 2.0, 3.0])
    labels = torch.arange(300) % 2
    features[labels == 1] += 10
    kept = with_classes({}, "feature", features, labels, 2)
    for label in range(2):
        own = features[labels == label]
        torch.testing.assert_close(kept["feature_means"][label], own.mean(dim=0))
        want = own.var(dim=0, unbiased=False) + 1e-4
        torch.testing.assert_close(kept["feature_variances"][label], want)
    drawn, rows = pseudo_features(*kept.values(), 20_000, generator())
    assert torch.bincount(rows).tolist() == [20_000, 20_000]
    for label in range(2):
        own = drawn[rows == label]
        torch.testing.assert_close(own.mean(dim=0), kept["feature_means"][label], rtol=0, atol=0.1)
        spread = kept["feature_variances"][label].sqrt()
        torch.testing.assert_close(own.std(dim=0), spread, rtol=0.05, atol=0)
    grown = with_classes(kept, "feature", features[:3], torch.zeros(3, dtype=torch.int64), 1)
    assert len(grown["feature_means"]) == 3
    assert torch.equal(grown["feature_means"][:2], kept["feature_means"])


def test_one_image_of_a_class_is_enough() -> None:
    kept = with_classes({}, "feature", torch.ones(1, 3), torch.zeros(1, dtype=torch.int64), 1)
    assert pseudo_features(*kept.values(), 4, generator())[0].isfinite().all()


def test_an_aligned_head_forgets_its_bias_to_the_new_classes() -> None:
    means, variances = 3 * torch.eye(4), torch.full((4, 4), 0.1)
    head = {"head_weight": torch.eye(4), "head_bias": torch.tensor([0.0, 0.0, 20.0, 20.0])}
    schedule = TrainConfig("sgd", lr=0.1, epochs=60, batch_size=8)
    aligned = realigned(head, linear, means, variances, schedule, generator())
    assert linear(means, aligned).argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert linear(means, head).argmax(dim=1).tolist() != [0, 1, 2, 3]
    assert head["head_weight"].grad is None
