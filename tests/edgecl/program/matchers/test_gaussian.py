"""One Gaussian of frozen features per task: densities, jitter, weights."""

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from edgecl.program.matchers import TaskGaussians, task_gaussian
from edgecl.program.matchers.gaussian import (
    JITTERS,
    folded,
    folded_product,
    folds_of,
    held_out_densities,
)

D = 12


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def task_features(task: int, count: int = 300, d: int = D) -> Tensor:
    """Return features around a direction of the task, correlated."""
    mix = rows(d, d, seed=100 + task) * 0.15
    return (rows(d, seed=task) + rows(count, d, seed=10 + task) @ mix).float()


def gaussian(features: Tensor, jitter: float | None, calibrate: bool) -> dict[str, Tensor]:
    """Return the part of a task of one class."""
    return task_gaussian(features, torch.zeros(len(features), dtype=torch.int64), jitter, calibrate)


def runs(count: int) -> Tensor:
    """Return the folds of one class."""
    return torch.arange(count) * 5 // count


def learned_of(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def reference(features: Tensor, jitter: float) -> MultivariateNormal:
    unit = F.normalize(features.double(), dim=-1)
    covariance = torch.from_numpy(np.cov(unit.numpy().T)) + jitter * torch.eye(unit.shape[1])
    return MultivariateNormal(unit.mean(dim=0), covariance)


@pytest.mark.parametrize("d", [12, 7])
def test_the_density_is_the_gaussian_s(d: int) -> None:
    tasks = [task_features(task, d=d) for task in range(3)]
    learned = learned_of(*(gaussian(each, 1e-7, calibrate=False) for each in tasks))
    matcher = TaskGaussians(d)
    for name, item in matcher.declare().items():
        assert learned[name].shape == (3, *item.shape(5)[1:])
        assert learned[name].dtype == torch.float32
        assert not item.half
    query = 3 * torch.cat([each[:5] for each in tasks])
    want = torch.stack(
        [reference(each, 1e-7).log_prob(F.normalize(query.double(), dim=-1)) for each in tasks], -1
    )
    got = matcher.log_density(query, learned)
    torch.testing.assert_close(got.double(), want / d, rtol=1e-4, atol=1e-4)
    match = matcher(query, learned)
    assert match.index[:, 0].tolist() == want.argmax(dim=1).tolist()
    weight = torch.sigmoid(want.amax(dim=1) / d - 1)
    torch.testing.assert_close(match.score[:, 0].double(), weight, rtol=0, atol=1e-5)


def test_images_of_a_task_match_it_and_others_weigh_little() -> None:
    tasks = [task_features(task) for task in range(3)]
    learned = learned_of(*(gaussian(each[20:], 1e-7, calibrate=False) for each in tasks))
    matcher = TaskGaussians(D)
    for task, each in enumerate(tasks):
        match = matcher(each[:20], learned)
        assert match.index[:, 0].tolist() == [task] * 20
        assert match.score.min() > 0.3
    assert matcher(task_features(7), learned).score.median() < 1e-6


def test_an_image_far_from_a_sharp_gaussian_has_weight_zero_and_no_nan() -> None:
    """Fewer images than features and no shrinking: the jitter decides."""
    learned = gaussian(task_features(0, count=4), 1e-7, calibrate=False)
    match = TaskGaussians(D)(torch.cat([task_features(1, 3), torch.zeros(1, D)]), learned)
    assert match.score.tolist() == [[0.0]] * 4
    own = TaskGaussians(D)(task_features(0, count=4), learned)
    assert own.score.min() > 0.9, "those that it was made of"


def test_training_matches_the_newest_task_with_weight_one() -> None:
    learned = learned_of(*(gaussian(task_features(task), None, True) for task in range(2)))
    match = TaskGaussians(D).own(task_features(0)[:3], learned)
    assert match.index.tolist() == [[1]] * 3
    assert match.score.tolist() == [[1.0]] * 3


@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_a_folded_triangle_multiplies_as_it_is(d: int) -> None:
    lower = rows(d, d).tril()
    packed = folded(lower)
    assert packed.shape == ((d + 1) // 2, d + 1)
    assert packed.numel() <= d * (d + 1) // 2 + d, "no more than half the square and a row"
    x = rows(1, 6, d, seed=1)
    got = folded_product(packed[None], x)[0]
    want = x[0] @ lower.T
    torch.testing.assert_close(got.square().sum(dim=-1), want.square().sum(dim=-1))
    half = (d + 1) // 2
    torch.testing.assert_close(got[:, :half], want[:, :half])
    torch.testing.assert_close(got[:, half : half + d // 2], want.flip(-1)[:, : d // 2])


def test_held_out_images_are_held_against_the_others() -> None:
    features = task_features(0, count=23)
    folds = runs(23)
    got = held_out_densities(F.normalize(features.double(), dim=-1), folds, 1e-3)
    want = []
    for fold in range(5):
        others = reference(features[folds != fold], 1e-3)
        want.append(others.log_prob(F.normalize(features[folds == fold].double(), dim=-1)) / D)
    torch.testing.assert_close(got, torch.cat(want), rtol=1e-6, atol=1e-6)


def test_neighbours_are_held_out_together() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2])
    assert folds_of(labels).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 1, 2, 4, 2]
    assert folds_of(torch.arange(7)).tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_copies_side_by_side_do_not_make_new_images_unlikely() -> None:
    """Every image stands there twice: dealt in turns, each is held against its own copy."""
    features = task_features(0, count=60)
    twice = features.repeat_interleave(2, dim=0)
    unit = F.normalize(twice.double(), dim=-1)
    single = held_out_densities(F.normalize(features.double(), dim=-1), runs(60), 1e-3).mean()
    together = held_out_densities(unit, runs(120), 1e-3).mean()
    in_turns = held_out_densities(unit, torch.arange(120) % 5, 1e-3).mean()
    assert (together - single).abs() < 0.2 * (in_turns - single)


def test_the_jitter_is_the_one_under_which_held_out_images_are_likeliest() -> None:
    few, many = task_features(0, count=8), task_features(0, count=2000)
    unit = F.normalize(few.double(), dim=-1)
    best = max(JITTERS, key=lambda each: held_out_densities(unit, runs(8), each).mean().item())
    assert best > JITTERS[0], "it is not at the end of the list"
    got = gaussian(few, None, calibrate=False)
    for name, tensor in gaussian(few, best, calibrate=False).items():
        assert torch.equal(got[name], tensor)
    for name, tensor in gaussian(many, 1e-7, calibrate=False).items():
        near = gaussian(many, None, calibrate=False)[name]
        torch.testing.assert_close(near, tensor, rtol=0.02, atol=0.05)


def test_a_calibrated_weight_is_a_half_one_deviation_below_held_out_images() -> None:
    features = task_features(0, count=60)
    part = gaussian(features, 1e-4, calibrate=True)
    densities = held_out_densities(F.normalize(features.double(), dim=-1), runs(60), 1e-4)
    mean, spread = densities.mean().item(), densities.std(correction=0).item()
    slope, offset = part["gaussian_slopes"].item(), part["gaussian_offsets"].item()
    assert spread > 0.2
    assert slope == pytest.approx(4 / spread, rel=1e-5)
    assert offset == pytest.approx(slope * (mean - spread), rel=1e-5)
    new = torch.cat([task_features(0, count=80)[60:], task_features(1, count=4)])
    matcher = TaskGaussians(D)
    want = torch.sigmoid(slope * matcher.log_density(new, part) - offset)
    torch.testing.assert_close(matcher(new, part).score, want)
    assert want[:20].mean() > 0.7
    assert want[20:].max() < 0.01


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_image_or_two_have_a_gaussian(count: int, calibrate: bool) -> None:
    part = gaussian(task_features(0, count=count), None, calibrate)
    assert all(tensor.isfinite().all() for tensor in part.values())
    assert TaskGaussians(D)(task_features(0, count=count), part).score.min() > 0.5
