"""Statistics of classes: covariances, factors, drawn features, against hand computation."""

import pytest
import torch
from tests.edgecl.support import generator

from edgecl.program.statistics import (
    JITTER,
    cholesky_factors,
    class_covariances,
    class_means,
    class_variances,
    correlated_features,
)


def test_covariances_are_those_of_each_class() -> None:
    features = torch.randn(30, 4, generator=generator())
    labels = torch.arange(3).repeat(10)
    found = class_covariances(features, labels, 3)
    for row in range(3):
        torch.testing.assert_close(found[row], torch.cov(features[labels == row].T))
    assert class_covariances(features[:1], labels[:1], 1).abs().max() == 0


def test_means_and_variances_in_blocks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(300, 5, generator=generator())
    labels = torch.arange(300) % 3
    means = class_means(features, labels, 4)
    variances = class_variances(features, labels, means)
    for row in range(3):
        some = features[labels == row]
        torch.testing.assert_close(means[row], some.mean(dim=0))
        torch.testing.assert_close(variances[row], some.var(dim=0, correction=0))
    assert not means[3].any()
    monkeypatch.setattr("edgecl.program.statistics.BLOCK", 7)
    assert torch.equal(class_means(features, labels, 4), means)
    assert torch.equal(class_variances(features, labels, means), variances)


def test_the_factors_give_the_covariance_and_the_jitter() -> None:
    features = torch.randn(3, 8, generator=generator())  # fewer images than features: singular
    covariance = class_covariances(features, torch.zeros(3).long(), 1)
    (factor,) = cholesky_factors(covariance)
    torch.testing.assert_close(factor @ factor.T, covariance[0] + JITTER * torch.eye(8))
    assert torch.equal(factor, factor.tril())


def test_an_indefinite_covariance_gets_as_much_jitter_as_it_needs_and_no_other_class_does() -> None:
    covariances = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -5e-3]))])
    sound, mended = cholesky_factors(covariances)
    torch.testing.assert_close(sound @ sound.T, (1 + JITTER) * torch.eye(2))
    want = torch.diag(torch.tensor([1.01, 5e-3]))
    torch.testing.assert_close(mended @ mended.T, want, rtol=1e-3, atol=1e-6)


def test_drawn_features_have_the_moments_of_their_class() -> None:
    means = torch.tensor([[1.0, -1.0], [5.0, 2.0]])
    covariances = torch.tensor([[[1.0, 0.8], [0.8, 2.0]], [[0.5, -0.2], [-0.2, 0.3]]])
    features, rows = correlated_features(means, cholesky_factors(covariances), 20_000, generator())
    assert torch.bincount(rows).tolist() == [20_000] * 2
    for row in range(2):
        some = features[rows == row]
        torch.testing.assert_close(some.mean(dim=0), means[row], rtol=0, atol=0.03)
        torch.testing.assert_close(torch.cov(some.T), covariances[row], rtol=0, atol=0.06)
