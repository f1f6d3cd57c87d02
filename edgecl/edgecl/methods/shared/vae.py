"""One variational autoencoder per class, on features; those of a task are trained side by side.

Kingma and Welling, ICLR 2014, https://arxiv.org/abs/1312.6114; the networks are those of CGIL
(https://arxiv.org/abs/2407.15793). Every tensor has one entry per class on its first axis. What is
stored of a class draws its features: the decoder, and the mean and spread that it is scaled by.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.optim import descend
from edgecl.program.learned import Tensors, uniform
from edgecl.program.statistics import class_means, class_variances

LAYERS = 3  # of the encoder, and of the decoder
SLOPE = 0.2  # of the leaky ReLU
EPS = 1e-5  # added to the variance in a batch
FLAT = 1e-6  # the least spread that a feature is divided by


@dataclass(frozen=True)
class VaeSizes:
    """The networks of one class, and how long they are trained."""

    hidden: int  # h, width of both hidden layers, in the encoder and in the decoder
    latent: int  # z
    steps: int
    lr: float  # of Adam, at the start
    batch_size: int = 64  # images of the class in a step, at most


def picked(
    labels: Int[Tensor, " n"], classes: int, count: int, generator: torch.Generator
) -> Int[Tensor, "c m"]:
    """Return `count` images of every class in random order; none comes twice before all did."""
    counts = torch.bincount(labels, minlength=classes)
    first = counts.cumsum(dim=0) - counts
    noise = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    order = (labels + noise).argsort()  # by class, in random order inside it
    return order[first[:, None] + torch.arange(count) % counts[:, None]]


def fit_vaes(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    classes: int,
    sizes: VaeSizes,
    generator: torch.Generator,
    device: torch.device,
) -> Tensors:
    """Train a VAE per class and return what draws from it, on the CPU.

    Features are standardised per class. Min-max scaling before that, which the public code
    has, would change nothing: both are affine.
    """
    mean = class_means(features, labels, classes)
    counts = torch.bincount(labels, minlength=classes)[:, None]
    biased = class_variances(features, labels, mean)
    spread = (biased * counts / (counts - 1).clamp(min=1)).sqrt()  # 0 for a single image
    rows = ((features - mean[labels]) / spread[labels].clamp(min=FLAT)).to(device)
    width = features.shape[1]
    up = (width, sizes.hidden, sizes.hidden, 2 * sizes.latent)
    down = (sizes.latent, sizes.hidden, sizes.hidden, width)
    tensors = _started("encoder", up, classes, generator)
    tensors |= _started("decoder", down, classes, generator)
    for layer in range(LAYERS - 1):
        tensors[f"encoder_scale_{layer}"] = torch.ones(classes, 1, sizes.hidden)
        tensors[f"encoder_shift_{layer}"] = torch.zeros(classes, 1, sizes.hidden)
    leaves = {name: tensor.to(device).requires_grad_() for name, tensor in tensors.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=sizes.lr)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, sizes.steps))
    size = min(sizes.batch_size, int(counts.max()))
    for _ in range(sizes.steps):
        some = rows[picked(labels, classes, size, generator).to(device)]  # c b f
        noise = torch.randn(classes, size, sizes.latent, generator=generator).to(device)
        loss = negative_elbo(leaves, some, noise) / size
        descend(loss, optimizer)
        annealing.step()
    decoder = {name: leaf.detach().cpu() for name, leaf in leaves.items() if "decoder" in name}
    return {**decoder, "feature_mean": mean, "feature_spread": spread}


def negative_elbo(
    vaes: Tensors, rows: Float[Tensor, "c b f"], noise: Float[Tensor, "c b z"]
) -> Float[Tensor, ""]:
    """Return the loss, summed over classes and rows and less a constant.

    It is the negative logarithm of a Gaussian likelihood of variance 1, and the divergence of the
    latent's Gaussian from the standard one. The encoder's second half is a log-variance in both
    places; the public code takes it for the logarithm of the spread where it samples.
    """
    mean, log_variance = _encode(vaes, rows).chunk(2, dim=-1)
    drawn = mean + noise * (log_variance / 2).exp()
    misfit = (_decode(vaes, drawn) - rows).square().sum() / 2
    divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum() / 2
    return misfit + divergence


@torch.no_grad()
def drawn_features(vaes: Tensors, count: int, generator: torch.Generator) -> Float[Tensor, "c m f"]:
    """Draw `count` features of every class: what standard normal latents decode to."""
    mean, spread = vaes["feature_mean"][:, None], vaes["feature_spread"][:, None]
    classes, latent, _ = vaes["decoder_weight_0"].shape
    latents = torch.randn(classes, count, latent, generator=generator)
    return mean + spread * _decode(vaes, latents.to(mean.device))


def _started(
    part: str, widths: tuple[int, ...], classes: int, generator: torch.Generator
) -> Tensors:
    """Return linear layers as torch starts them, one per class."""
    tensors: Tensors = {}
    for layer in range(LAYERS):
        rows, columns = widths[layer : layer + 2]
        init = uniform(rows**-0.5)
        tensors[f"{part}_weight_{layer}"] = init((classes, rows, columns), generator)
        tensors[f"{part}_bias_{layer}"] = init((classes, 1, columns), generator)
    return tensors


def _linear(vaes: Tensors, part: str, layer: int, x: Float[Tensor, "c b i"]) -> Tensor:
    return torch.baddbmm(vaes[f"{part}_bias_{layer}"], x, vaes[f"{part}_weight_{layer}"])


def _encode(vaes: Tensors, x: Float[Tensor, "c b f"]) -> Float[Tensor, "c b z2"]:
    """Return means and log-variances side by side; the batch standardises the hidden layers."""
    for layer in range(LAYERS - 1):
        x = _linear(vaes, "encoder", layer, x)
        away = x - x.mean(dim=1, keepdim=True)
        x = away * (away.square().mean(dim=1, keepdim=True) + EPS).rsqrt()
        x = x * vaes[f"encoder_scale_{layer}"] + vaes[f"encoder_shift_{layer}"]
        x = F.leaky_relu(x, SLOPE)
    return _linear(vaes, "encoder", LAYERS - 1, x)


def _decode(vaes: Tensors, x: Float[Tensor, "c b z"]) -> Float[Tensor, "c b f"]:
    for layer in range(LAYERS - 1):
        x = F.leaky_relu(_linear(vaes, "decoder", layer, x), SLOPE)
    return _linear(vaes, "decoder", LAYERS - 1, x)
