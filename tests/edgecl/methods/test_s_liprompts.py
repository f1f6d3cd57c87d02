"""S-liPrompts: texts behind a task's context, refusal by hand, and what only has a name."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.evaluation import widened
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.s_liprompts import SLiPrompts, SLiPromptsConfig, TaskTexts
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import TaskContext
from edgecl.program.matchers import Match
from edgecl.program.task_rows import may_win
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoded(features: Tensor, tasks: list[int]) -> Encoded:
    index = torch.tensor(tasks)[:, None]
    return Encoded(None, Match(index, torch.zeros(index.shape)), Features(features, features))


def view(names: tuple[str, ...], text: TextEncoder) -> TaskContext:
    return TaskContext(
        index=0, classes=len(names), class_rows=names, labels=torch.zeros(0, dtype=torch.int64),
        plain=None, features={}, learned={}, state={}, generator=torch.Generator(),
        text_encoder=text,
    )  # fmt: skip


def test_rows_of_the_matched_task_and_of_no_task_may_win() -> None:
    head, learned = torch.zeros(6, 1), {"task_rows": torch.tensor([2.0, 3.0])}
    allowed = may_win(head, learned, torch.tensor([[0], [1]]))
    assert allowed.int().tolist() == [[1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]


def test_scores_are_cosines_and_a_refused_row_falls_below_every_other_in_its_order() -> None:
    texts = F.normalize(some(6, 8), dim=-1)
    texts[0] = -texts[5]  # the worst and the best that there can be, for an image along row 5
    learned = {"texts": texts, "task_rows": torch.tensor([2.0, 3.0])}
    scale = math.exp(2.0)
    images = torch.stack([3 * texts[5], 0.1 * texts[3], some(8, seed=1)])
    tasks = [0, 0, 1]
    scores = TaskTexts(8, 2.0, "injected").scores(encoded(images, tasks), learned)
    cosine = F.cosine_similarity(images[:, None], texts[None], dim=-1)
    for image, task in enumerate(tasks):
        own = [0, 1, 5] if task == 0 else [2, 3, 4, 5]
        refused = [row for row in range(6) if row not in own]
        torch.testing.assert_close(scores[image, own], scale * cosine[image, own])
        assert scores[image, refused].max() < scores[image, own].min()
        assert torch.equal(scores[image, refused].argsort(), cosine[image, refused].argsort()), (
            "where only their classes are candidates, they are still told apart"
        )


def test_an_image_of_the_wrong_task_is_never_repaired() -> None:
    learned = {"texts": torch.eye(4), "task_rows": torch.tensor([2.0, 2.0])}
    scores = TaskTexts(4, 4.6, "injected").scores(encoded(torch.eye(4)[2:3], [0]), learned)
    assert scores.argmax().item() in {0, 1}


def test_a_context_that_is_longer_than_the_tower_is_cut_to_what_fits(tiny_clip: Clip) -> None:
    """20 tokens hold "hue-0." in 6 of them, with [SOS] and [EOT]."""
    method, text = build_method("s-liprompts", BackboneSpec.of(tiny_clip)), TextEncoder(tiny_clip)
    context = some(16, 32, seed=1)
    task = view(("hue-0", "hue-1"), text)
    texts = method.parametrize({"context": context}, task, final=True)["texts"]
    tokens = text.tokens(("hue-0", "hue-1"), "{}.")
    assert tokens.shape == (2, 6)
    assert torch.equal(texts, text.embed(tokens, context=context[:14]))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    longer = torch.cat([context[:14], some(2, 32, seed=2)])
    again = method.parametrize({"context": longer}, task, final=True)["texts"]
    assert torch.equal(texts, again)


def test_a_class_name_that_fills_the_tower_leaves_no_room(tiny_clip: Clip) -> None:
    method, text = build_method("s-liprompts", BackboneSpec.of(tiny_clip)), TextEncoder(tiny_clip)
    name = " ".join(["hue"] * 17)  # [SOS], 17 words, "." and [EOT]
    context = some(16, 32).requires_grad_()
    texts = method.parametrize({"context": context}, view((name,), text), final=False)["texts"]
    torch.testing.assert_close(texts, text.embed(text.tokens((name,), "{}.")))
    (gradient,) = torch.autograd.grad(texts.sum(), context)
    assert not gradient.any()


def test_texts_ship_in_place_of_the_context_and_are_read_behind_it(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("s-liprompts", stream)
    learn_stream(learner, stream)
    for part in learner.run.parts():
        assert part.keys() == {"prompts", "centroids", "texts", "task_rows"}
    plain = make_learner("zero-shot", stream, out="plain", config={"templates": ["{}."]})
    learn_stream(plain, stream)
    learned = learner.learned()["texts"]
    assert ((learned - plain.learned()["texts"]).abs().amax(dim=1) > 1e-4).all()


def test_a_domain_is_matched_and_read_with_its_own_texts(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 3), (0, 3)), train=8, test=6, protocol="dil")
    schedule = {"epochs": 12, "batch_size": 4}
    learner = make_learner("s-liprompts", stream, config={"schedule": schedule})
    assert learn_stream(learner, stream).a_last == 1.0
    texts = learner.learned()["texts"]
    assert not torch.equal(texts[:2], texts[2:]), "one context per domain"
    for domain, task in enumerate(stream.tasks):
        outputs = learner.predict(learner.load(task.test, "").images)
        assert outputs.match.flatten().tolist() == [domain] * 12
        assert set(outputs.scores.argmax(dim=1).tolist()) <= {2 * domain, 2 * domain + 1}


def test_classes_that_only_have_a_name_can_win(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("s-liprompts", stream)
    learn_stream(learner, stream)
    assert learner.text is not None
    assert isinstance(learner.method, SLiPrompts)
    learned, names = learner.learned(), ["hue-4", "hue-5"]
    rows = learner.method.zero_shot_rows(learner.text, names, learned)
    wide = widened(learner.declared, learned, rows)
    assert torch.equal(wide["texts"][4:], learner.text.zero_shot(names))
    images = learner.load(stream.tasks[0].test, "").images
    scores = learner.predict(images, wide).scores
    assert scores.shape == (len(images), 6)
    range_ = math.exp(learner.method.program.classifier.logit_scale) * (1 + 1e-6)
    assert (scores[:, 4:].abs() <= range_).all()


@pytest.mark.parametrize("field", ["length", "context", "centroids"])
def test_a_size_of_zero_is_refused(field: str) -> None:
    with pytest.raises(MethodError, match=r"at least 1.* Raise it"):
        SLiPromptsConfig(**{field: 0})
