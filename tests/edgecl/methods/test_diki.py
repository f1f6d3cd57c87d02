"""DIKI: Gaussians and weights by hand, prefixes that add what they should, texts in between."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from edgecl.backbones import Backbone, Clip, Features, ViT
from edgecl.backbones.sites import Prefix
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.diki import Diki, DikiConfig
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.grid_texts import POINTS, GridTexts, between, grid
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import TaskPrefixes
from edgecl.program.injectors.prefixes import silent
from edgecl.program.matchers import Match, TaskGaussians, task_gaussian
from edgecl.program.matchers.gaussian import (
    JITTERS,
    folded,
    folded_product,
    folds_of,
    held_out_densities,
)
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
D = 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# -- the matcher


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


# -- residual prefixes


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


def test_the_weight_in_the_values_is_the_weight_of_the_prefix(vit: ViT) -> None:
    injector = TaskPrefixes(192, (0, 1), 3, "residual")
    bank, pixels = rows(2, 2, 2, 3, 192), rows(4, 3, 32, 32, seed=1)
    weight = torch.tensor([0.0, 0.3, 1.0, 0.7], dtype=torch.float64)
    tasks = torch.tensor([0, 1, 0, 1])
    match = Match(tasks[:, None], weight[:, None])
    got = injector.sites(injector.fill(match, {"task_prefixes": bank}))
    want = tuple(
        Prefix(bank[tasks, block, 0], bank[tasks, block, 1], block, "residual", weight)
        for block in (0, 1)
    )
    with torch.no_grad():
        plain, said = vit(pixels).cls, vit(pixels, got).cls
        torch.testing.assert_close(said, vit(pixels, want).cls, rtol=0, atol=1e-12)
        torch.testing.assert_close(said[0], plain[0], rtol=0, atol=1e-12)
        assert (said - plain).abs().amax(dim=1)[1:].min() > 1e-3


def test_values_of_zero_leave_the_backbone_as_it_is(vit: ViT) -> None:
    injector = TaskPrefixes(192, (0, 1), 3, "residual", init=silent)
    bank = injector.declare()["task_prefixes"].init((1, 2, 2, 3, 192), generator()).double()
    assert bank[:, :, 1].abs().max() == 0
    assert 0.9 < bank[:, :, 0].abs().max() <= 1
    match = Match(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1))
    pixels = rows(2, 3, 32, 32)
    with torch.no_grad():
        said = vit(pixels, injector.sites(injector.fill(match, {"task_prefixes": bank}))).cls
        torch.testing.assert_close(said, vit(pixels).cls, rtol=0, atol=1e-12)


# -- texts between weights


def encoded(feature: Tensor, weight: Tensor) -> Encoded:
    match = Match(torch.zeros(len(weight), 1, dtype=torch.int64), weight[:, None])
    return Encoded(None, match, Features(feature, feature))


def test_an_image_is_held_against_texts_between_those_of_the_two_nearest_weights() -> None:
    texts = F.normalize(rows(3, POINTS, 8).float(), dim=-1)
    weight = torch.tensor([0.0, 0.25, 0.1, 0.6, 1.0])
    feature = 5 * rows(5, 8, seed=1).float()
    got = GridTexts(8, 2.0, on="injected").scores(encoded(feature, weight), {"texts": texts})
    for image, w in enumerate(weight.tolist()):
        low = min(int(4 * w), 3)
        share = 4 * w - low
        mixed = F.normalize((1 - share) * texts[:, low] + share * texts[:, low + 1], dim=-1)
        want = math.exp(2.0) * mixed @ F.normalize(feature[image], dim=-1)
        torch.testing.assert_close(got[image], want, rtol=1e-5, atol=1e-5)


def test_shares_sum_to_one_and_a_weight_of_the_grid_has_one_text() -> None:
    shares = between(torch.linspace(0, 1, 41)[:, None])
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(41))
    assert torch.equal(between(torch.tensor(grid())[:, None]), torch.eye(POINTS))


def diki(clip: Clip, **config: Any) -> Diki:
    return Diki(DikiConfig(**config), BackboneSpec.of(clip))


def view(clip: Clip, *names: str) -> TaskContext:
    return TaskContext(
        index=0, classes=len(names), class_rows=names, labels=torch.zeros(1, dtype=torch.int64),
        plain=None, features={}, learned={}, state={}, generator=generator(),
        text_encoder=TextEncoder(clip),
    )  # fmt: skip


def prefix(method: Diki, size: float) -> Tensor:
    """Return a text prefix whose values are normal."""
    item = method.local()["text_prefix"]
    made = item.init(item.shape(2), generator())
    made[:, 1] = size * torch.randn(made[:, 1].shape, generator=generator(1))
    return made


def test_texts_on_the_grid_have_the_prefix_at_that_weight(tiny_clip: Clip) -> None:
    method, task = (
        diki(tiny_clip, length=3, templates=("{}", "a {}.")),
        view(tiny_clip, "cat", "ox"),
    )
    made = prefix(method, 0.5)
    with torch.no_grad():
        texts = method.parametrize({"text_prefix": made}, task, final=True)["texts"]
    assert texts.shape == (2, POINTS, tiny_clip.visual.width)
    for point, weight in enumerate(grid()):
        each = []
        for template in ("{}", "a {}."):
            tokens = TextEncoder(tiny_clip).tokens(("cat", "ox"), template)
            weights = torch.full((2,), weight)
            sites = tuple(
                Prefix(made[block, 0], made[block, 1], block, "residual", weights)
                for block in (0, 1)
            )
            each.append(TextEncoder(tiny_clip).embed(tokens, sites))
        want = F.normalize(sum(each), dim=-1)
        torch.testing.assert_close(texts[:, point], want, rtol=0, atol=1e-6)
    assert (texts[:, 0] - texts[:, -1]).norm(dim=-1).min() > 0.1
    own = TextEncoder(tiny_clip).zero_shot(("cat", "ox"), ("{}", "a {}."))
    torch.testing.assert_close(texts[:, 0], own, rtol=0, atol=1e-6)


def test_training_embeds_texts_at_weight_one_only(tiny_clip: Clip) -> None:
    method, task = diki(tiny_clip), view(tiny_clip, "cat", "ox")
    made = prefix(method, 0.5).requires_grad_()
    texts = method.parametrize({"text_prefix": made}, task, final=False)["texts"]
    with torch.no_grad():
        want = method.parametrize({"text_prefix": made}, task, final=True)["texts"][:, -1:]
    torch.testing.assert_close(texts, want.expand(-1, POINTS, -1), rtol=0, atol=1e-6)
    weight = torch.ones(2)
    method.program.classifier.scores(
        encoded(torch.ones(2, 192), weight), {"texts": texts}
    ).sum().backward()
    assert made.grad is not None
    assert made.grad.abs().max() > 0


def test_texts_between_grid_points_are_near_exact_ones(tiny_clip: Clip) -> None:
    """The deviation that the module's docstring speaks of, at a prefix that turns texts far."""
    method, task = diki(tiny_clip), view(tiny_clip, "cat", "ox", "a tall green tree")
    made = prefix(method, 1.0)
    weights = torch.linspace(0, 1, 33)
    with torch.no_grad():
        texts = method.parametrize({"text_prefix": made}, task, final=True)["texts"]
        exact = torch.stack([method.texts(task, made, w) for w in weights.tolist()])  # b c f
        mixed = torch.einsum("bg,cgf->bcf", between(weights[:, None]), texts)
    turned = F.cosine_similarity(exact[0], exact[-1], dim=-1)
    assert turned.max() < 0.9, "the prefix matters"
    assert F.cosine_similarity(exact, mixed, dim=-1).min() > 0.995


def test_names_that_were_not_learned_are_clip_s_own_at_every_weight(tiny_clip: Clip) -> None:
    method = diki(tiny_clip)
    texts = method.zero_shot_rows(TextEncoder(tiny_clip), ("cat", "ox"), {})["texts"]
    own = TextEncoder(tiny_clip).zero_shot(("cat", "ox"))
    assert torch.equal(texts, own[:, None].expand(-1, POINTS, -1))
    assert method.zero_shot_rows(TextEncoder(tiny_clip), (), {})["texts"].shape == (0, POINTS, 192)


# -- the method


def test_without_training_it_is_the_plain_clip(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    untrained = make_learner("diki", stream, config={"schedule": {"epochs": 0}})
    plain = make_learner("zero-shot", stream, out="plain")
    for learner in (untrained, plain):
        learn_stream(learner, stream)
    images = np.concatenate([untrained.load(task.test, "").images for task in stream.tasks])
    got, want = untrained.predict(images), plain.predict(images)
    torch.testing.assert_close(got.feature, want.feature, rtol=0, atol=1e-6)
    scale = want.scores.abs().max().item()
    torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-6 * scale)
    assert len(set(got.match.flatten().tolist())) > 1


def test_an_image_is_matched_and_weighs_by_its_task_s_gaussian(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=8, test=6)
    learner = make_learner("diki", stream)
    learn_stream(learner, stream)
    learned = learner.learned()
    assert learned["gaussian_factors"].shape == (2, 96, 193)
    assert learned["task_prefixes"].shape == (2, 2, 2, 8, 192)
    for index, task in enumerate(stream.tasks):
        outputs = learner.predict(learner.load(task.test, "").images)
        assert outputs.match.flatten().tolist() == [index] * 12
        assert outputs.match_score.mean() > 0.5
        assert outputs.match_score.max() <= 1


def test_prefixes_enter_the_first_blocks_of_both_towers(tiny_clip: Clip) -> None:
    assert diki(tiny_clip).program.injector.blocks == (0, 1), "no more than there are"
    method = diki(tiny_clip, blocks=1, length=4)
    assert (method.program.injector.blocks, method.text_prefix.blocks) == ((0,), (0,))
    assert method.local()["text_prefix"].shape(3) == (1, 2, 4, 32)
    assert method.program.declare()["task_prefixes"].shape(3) == (1, 1, 2, 4, 192)


@pytest.mark.parametrize("field", ["blocks", "length"])
def test_a_size_of_zero_is_refused(field: str) -> None:
    with pytest.raises(MethodError, match=r"at least 1.* Raise it"):
        DikiConfig(**{field: 0})


def test_a_gaussian_needs_its_jitter() -> None:
    with pytest.raises(MethodError, match=r"jitter must be at least 1e-10, got 0.* Use 1e-7"):
        DikiConfig(jitter=0.0)
