"""Autoencoders of frozen features, one per class, and what is drawn from them."""

import math

import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.shared.vae import VaeSizes, drawn_features, fit_vaes, negative_elbo, picked

CPU = torch.device("cpu")


def test_every_image_of_a_class_is_picked_before_one_comes_twice() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 1])
    rows = picked(labels, 2, 4, generator())
    assert rows.shape == (2, 4)
    assert sorted(rows[0].tolist()) == [1, 1, 4, 4]
    assert sorted(rows[1].tolist()) == [0, 2, 3, 5]
    assert not torch.equal(rows, picked(labels, 2, 4, generator(1)))


def test_what_is_drawn_has_the_moments_of_its_class() -> None:
    """Correlated features, so that few directions hold the spread, as in real ones."""
    mix = torch.randn(4, 48, generator=generator(9))
    means = torch.tensor([[5.0], [-3.0]])
    rows = torch.cat([
        mean + (row + 1) * torch.randn(80, 4, generator=generator(row)) @ mix
        for row, mean in enumerate(means)
    ])
    labels = torch.arange(2).repeat_interleave(80)
    sizes = VaeSizes(hidden=64, latent=4, steps=300, lr=2e-3)
    vaes = fit_vaes(rows, labels, 2, sizes, generator(), CPU)
    found = drawn_features(vaes, 2000, generator(1))
    assert found.shape == (2, 2000, 48)
    for row in range(2):
        own = rows[labels == row]
        spread = own.std(dim=0)
        assert ((found[row].mean(dim=0) - own.mean(dim=0)) / spread).abs().mean() < 0.2
        assert 0.7 < (found[row].std(dim=0) / spread).mean() < 1.2
        alike = torch.corrcoef(
            torch.stack([torch.cov(each.T).flatten() for each in (own, found[row])])
        )
        assert alike[0, 1] > 0.8, "the correlations are learned, not the scales alone"


def test_one_image_and_flat_features_are_drawn_as_they_are() -> None:
    rows = torch.randn(3, 6, generator=generator())
    rows[1:, 0] = 7.0  # flat in the class of two images
    sizes = VaeSizes(hidden=8, latent=4, steps=3, lr=1e-3)
    vaes = fit_vaes(rows, torch.tensor([0, 1, 1]), 2, sizes, generator(), CPU)
    found = drawn_features(vaes, 5, generator())
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], rows[:1].expand(5, 6))
    torch.testing.assert_close(found[1, :, 0], torch.full((5,), 7.0))


def test_classes_are_trained_apart() -> None:
    """Another class beside it changes nothing of a class but its random numbers."""
    vaes = {name: tensor.requires_grad_() for name, tensor in hand_made(classes=2, seed=0).items()}
    rows = torch.randn(2, 5, 3, generator=generator())
    negative_elbo(vaes, rows, torch.zeros(2, 5, 2)).backward()
    alone = {name: t.detach()[:1].clone().requires_grad_() for name, t in vaes.items()}
    negative_elbo(alone, rows[:1], torch.zeros(1, 5, 2)).backward()
    for name, tensor in vaes.items():
        assert tensor.grad is not None
        assert alone[name].grad is not None
        torch.testing.assert_close(tensor.grad[:1], alone[name].grad)


def hand_made(classes: int, seed: int) -> dict[str, Tensor]:
    """Return the tensors of autoencoders of 3 features, 4 hidden and 2 latent ones."""
    random = generator(seed)
    tensors: dict[str, Tensor] = {}
    for part, widths in {"encoder": (3, 4, 4, 4), "decoder": (2, 4, 4, 3)}.items():
        for layer in range(3):
            rows, columns = widths[layer : layer + 2]
            tensors[f"{part}_weight_{layer}"] = torch.randn(
                classes, rows, columns, generator=random
            )
            tensors[f"{part}_bias_{layer}"] = torch.randn(classes, 1, columns, generator=random)
    for layer in range(2):
        tensors[f"encoder_scale_{layer}"] = torch.rand(classes, 1, 4, generator=random)
        tensors[f"encoder_shift_{layer}"] = torch.rand(classes, 1, 4, generator=random)
    return tensors


def test_the_loss_by_hand() -> None:
    """The likelihood and the divergence as torch.distributions has them, layers as torch.nn."""
    vaes = hand_made(classes=1, seed=3)
    rows = torch.randn(5, 3, generator=generator(1))
    noise = torch.randn(5, 2, generator=generator(2))

    def layer(part: str, index: int, x: Tensor) -> Tensor:
        weight, bias = vaes[f"{part}_weight_{index}"][0], vaes[f"{part}_bias_{index}"][0, 0]
        return F.linear(x, weight.T, bias)

    x = rows
    for index in range(2):
        scale, shift = vaes[f"encoder_scale_{index}"][0, 0], vaes[f"encoder_shift_{index}"][0, 0]
        x = F.batch_norm(layer("encoder", index, x), None, None, scale, shift, training=True)
        x = F.leaky_relu(x, 0.2)
    x = layer("encoder", 2, x)
    latent = torch.distributions.Normal(x[:, :2], (x[:, 2:] / 2).exp())
    y = latent.mean + latent.stddev * noise
    for index in range(2):
        y = F.leaky_relu(layer("decoder", index, y), 0.2)
    likelihood = torch.distributions.Normal(layer("decoder", 2, y), 1.0).log_prob(rows).sum()
    standard = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(latent, standard).sum()
    constant = rows.numel() * math.log(2 * math.pi) / 2
    found = negative_elbo(vaes, rows[None], noise[None])
    torch.testing.assert_close(found + constant, divergence - likelihood)
