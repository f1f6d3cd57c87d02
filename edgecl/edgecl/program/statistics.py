"""Statistics of the features of a task's images."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

BLOCK = 4096  # images whose features are in float64 at once
JITTER = 1e-4  # added to the diagonal of every covariance, as SLCA's public code does


def class_means(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "c f"]:
    """Return the mean per class; summed in float64, so the order of the images does not show."""
    return _means(features, labels, classes, lambda rows, _: rows)


def class_variances(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], means: Float[Tensor, "c f"]
) -> Float[Tensor, "c f"]:
    """Return the variance of every feature around the mean of its class."""
    return _means(features, labels, len(means), lambda rows, own: (rows - means[own]).square())


def _means(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    classes: int,
    of: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "c f"]:
    """Return the mean per class of what a function makes of rows and their labels, in blocks."""
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    labels = labels.cpu()
    for rows, own in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
        sums.index_add_(0, own, of(rows.cpu(), own).double())
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return (sums / counts[:, None]).float()


def along_least(
    change: Float[Tensor, "w f"], square: Float64[Tensor, "w w"], rank: int
) -> Float[Tensor, "w f"]:
    """Keep of a change what acts along the `rank` eigenvectors of smallest eigenvalue.

    Args:
        square: a covariance, which need not be centred; which of equal eigenvalues come first, as
            those of fewer images than features do, the library decides.
    """
    least = torch.linalg.eigh(square).eigenvectors[:, :rank]
    return (least @ (least.T @ change.double())).float()


def pseudo_features(
    means: Float[Tensor, "c f"],
    variances: Float[Tensor, "c f"],
    count: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n f"], Int[Tensor, " n"]]:
    """Draw `count` features of every class from a normal distribution; also return the classes."""
    rows = torch.arange(len(means)).repeat_interleave(count)
    noise = torch.randn(len(rows), means.shape[1], generator=generator)
    return means[rows] + variances[rows].sqrt() * noise, rows


def class_covariances(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "c f f"]:
    """Return the unbiased covariance per class, summed in float64; zero for a single image."""
    own = labels.cpu()
    found = []
    for row in range(classes):
        some = features[own == row].cpu().double()
        away = some - some.mean(dim=0)
        found.append((away.T @ away / max(1, len(some) - 1)).float())
    return torch.stack(found)


def cholesky_factors(
    covariances: Float[Tensor, "c f f"], jitter: float = JITTER
) -> Float[Tensor, "c f f"]:
    """Return lower triangles L with L L' = covariance + jitter I, by Cholesky in float64.

    A class of fewer images than features has a singular covariance, so the jitter decides there; it
    is raised tenfold for a class whose rounded covariance is indefinite by more.
    """
    eye = torch.eye(covariances.shape[-1], dtype=torch.float64)
    found = []
    for covariance in covariances.double():
        own = jitter
        factor, failed = torch.linalg.cholesky_ex(covariance + own * eye)
        while failed:
            own *= 10
            factor, failed = torch.linalg.cholesky_ex(covariance + own * eye)
        found.append(factor.float())
    return torch.stack(found)


def correlated_features(
    means: Float[Tensor, "c f"],
    factors: Float[Tensor, "c f f"],
    count: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n f"], Int[Tensor, " n"]]:
    """Draw `count` features of every class from its Gaussian, and return the class of each."""
    noise = torch.randn(len(means), count, means.shape[1], generator=generator)  # c n f
    features = means[:, None] + noise @ factors.transpose(1, 2)  # c n f
    return features.flatten(0, 1), torch.arange(len(means)).repeat_interleave(count)


def k_means(
    points: Float[Tensor, "n f"], count: int, generator: torch.Generator, starts: int = 10
) -> Float[Tensor, "k f"]:
    """Return the centres of Lloyd's algorithm, the tightest of several k-means++ starts.

    It runs in float64 until no point changes its cluster. Fewer points than `count` are taken
    several times; a cluster that loses all its points keeps its centre.
    """
    rows = points.cpu().double()
    found = [_lloyd(rows, _spread(rows, count, generator)) for _ in range(starts)]
    return min(found, key=lambda each: each[1])[0].float()


def _spread(rows: Tensor, count: int, generator: torch.Generator) -> Float[Tensor, "k f"]:
    """Draw points far from each other (Arthur and Vassilvitskii, SODA 2007)."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    nearest = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        nearest = nearest.minimum((rows - rows[chosen[-1]]).square().sum(dim=1))
        weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return rows[chosen]


def _lloyd(rows: Tensor, centres: Tensor, limit: int = 300) -> tuple[Tensor, float]:
    """Return the centres and the sum of squared distances to them."""
    owner = torch.full((len(rows),), -1)
    for _ in range(limit):
        former, owner = owner, torch.cdist(rows, centres).argmin(dim=1)
        if torch.equal(owner, former):
            break
        sums = torch.zeros_like(centres).index_add_(0, owner, rows)
        counts = torch.bincount(owner, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres, float((rows - centres[owner]).square().sum())
