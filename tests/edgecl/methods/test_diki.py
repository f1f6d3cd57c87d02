"""DIKI: residual prefixes in both towers, texts on the grid, matched by Gaussians."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Clip, Features, ViT
from edgecl.backbones.sites import Prefix
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.diki import Diki, DikiConfig
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.grid_texts import POINTS, between, grid
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import TaskPrefixes
from edgecl.program.injectors.prefixes import silent
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


# -- residual prefixes


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


def encoded(feature: Tensor, weight: Tensor) -> Encoded:
    match = Match(torch.zeros(len(weight), 1, dtype=torch.int64), weight[:, None])
    return Encoded(None, match, Features(feature, feature))


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


# -- texts between weights


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
