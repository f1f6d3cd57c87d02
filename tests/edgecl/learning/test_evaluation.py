"""Accuracy on classes that were not learned yet, by their names: with and without the label set."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.evaluation import RankedByName, SeenAnswers, top
from edgecl.learning.learner import Learner
from edgecl.learning.task_images import ImageBatch
from edgecl.methods import build_method
from edgecl.program import Outputs
from edgecl.program.learned import join
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def test_zero_shot_knows_every_task_from_the_start(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """By hand: over the embeddings of all names, before and after every task the same."""
    stream = make_stream(test=6)
    learner = make_learner("zero-shot", stream)
    summary = learn_stream(learner, stream)
    assert learner.text is not None
    texts = learner.text.zero_shot(stream.classes)
    scores = [
        learner.predict(learner.load(task.test, "").images, {"texts": texts}).scores
        for task in stream.tasks
    ]
    labels = [torch.tensor(task.test.labels) for task in stream.tasks]
    wide = [
        (s.argmax(dim=1) == y).float().mean().item() for s, y in zip(scores, labels, strict=True)
    ]
    given = [
        (2 * task + s[:, 2 * task : 2 * task + 2].argmax(dim=1) == y).float().mean().item()
        for task, (s, y) in enumerate(zip(scores, labels, strict=True))
    ]
    for stage in range(3):
        found = learner.run.evaluation(stage)
        assert found is not None
        assert found.open == pytest.approx(tuple(wide))
        assert found.oracle == pytest.approx(tuple(given))
    assert summary.mtil is not None
    assert summary.mtil.transfer == pytest.approx(sum(given[1:]) / 2)
    assert found.accuracy == pytest.approx(tuple(wide)), "after the last task all are learned"


def test_candidates_are_in_the_order_of_the_stream(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Equal texts tie, and the first wins: the order must not change when a task is learned."""
    stream = make_stream(((0, 1), (2, 3), (1, 4), (5,)), protocol="dcil")
    learner = make_learner("zero-shot", stream)
    learn_task(learner, stream.tasks[0], stream.classes)
    knowledge = learner.run.knowledge()
    learned = join(learner.declared, knowledge.parts)
    ranked = RankedByName.of(learner, knowledge, learned, stream.tasks[1:])
    assert ranked is not None
    assert ranked.classes == tuple(f"hue-{hue}" for hue in range(6))


def test_a_method_without_text_does_not_look_ahead(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    found = learner.run.evaluation(0)
    assert found is not None
    assert found.oracle is found.open is None
    assert learner.clip is None, "the text tower is not loaded for it"


@pytest.mark.parametrize("name", ["diki", "s-prompts"])
def test_the_task_that_was_matched_is_counted(
    make_learner: MakeLearner, make_stream: MakeStream, name: str
) -> None:
    stream = make_stream(test=6)
    learner = make_learner(name, stream)
    summary = learn_stream(learner, stream)
    learned = join(learner.declared, learner.run.parts())
    counts = [[0] * 3 for _ in range(3)]
    for task, each in enumerate(stream.tasks):
        images = learner.load(each.test, "").images
        for one in range(len(images)):
            matched = learner.predict(images[one : one + 1], learned).match
            counts[task][int(matched)] += 1
    assert summary.matched_confusion == tuple(map(tuple, counts))
    right = sum(counts[task][task] for task in range(3))
    assert summary.matched_task_accuracy == pytest.approx(right / sum(map(sum, counts)))


@pytest.mark.parametrize("name", ["simplecil", "l2p"])
def test_no_task_is_counted_where_none_is_matched(
    make_learner: MakeLearner, make_stream: MakeStream, name: str
) -> None:
    stream = make_stream()
    summary = learn_stream(make_learner(name, stream), stream)
    assert summary.matched_task_accuracy is None
    assert summary.matched_confusion == ()


def test_a_method_on_a_clip_says_so_elsewhere(tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match="needs a CLIP"):
        build_method("zero-shot", BackboneSpec.of(tiny_clip.visual))


def test_only_candidates_win() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    assert top(scores) == ([0], [3.0])
    assert top(scores, torch.tensor([False, True, True])) == ([1], [2.0])


def test_the_score_of_an_answer_is_that_of_a_row_that_counts() -> None:
    answers = SeenAnswers((("ant", "bee"), ("ant",)), torch.tensor([False, True, True]))
    scores = torch.tensor([[9.0, 1.0, 2.0]])  # the row that was moved would win
    images = ImageBatch(np.zeros((1, 4, 4, 3), np.uint8), (1,), ("a.png",), (), {})
    none = torch.zeros(1, 0)
    answers.add(Outputs(scores, none, none.long(), none), ["bee"], images)
    (mistake,) = answers.classes.figures().mistakes
    assert (mistake.said, mistake.score) == ("ant", 2.0)


def test_an_embedding_has_norm_1_and_is_of_its_text_alone(tiny_clip: Clip) -> None:
    text = TextEncoder(tiny_clip)
    names = ["cat", "fire engine", "jack-o'-lantern"]
    whole = text.embed(text.tokens(names, "a {}."))
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(3))
    alone = torch.cat([text.embed(text.tokens([name], "a {}.")) for name in names])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)
    assert text.zero_shot([]).shape == (0, tiny_clip.visual.width)
    context = torch.randn(2, 32)
    moved = text.embed(text.tokens(names, "a {}.", reserve=2), context=context)
    assert (moved - whole).abs().max() > 1e-3


def test_text_is_bfloat16_only_in_training(tiny_clip: Clip) -> None:
    exact, low = TextEncoder(tiny_clip), TextEncoder(tiny_clip, bfloat16=True)
    tokens = exact.tokens(["cat", "dog"], "{}")
    assert torch.equal(exact.embed(tokens), low.embed(tokens))
    assert torch.equal(exact.embed(tokens, training=True), exact.embed(tokens))
    assert not torch.equal(exact.embed(tokens), low.embed(tokens, training=True))
