"""PromptFusion: the fusion and the weighted loss by hand, contexts that rest, both branches."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.methods.promptfusion import Blend, PromptFusion
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]

WIDTH = 3


def encoded(prompts: Tensor) -> Encoded:
    none = Match(torch.zeros(len(prompts), 1).long(), torch.ones(len(prompts), 1))
    return Encoded(None, none, Features(torch.full_like(prompts, torch.nan), prompts))


def tensors(share: float, classes: int = 4) -> Tensors:
    torch.manual_seed(0)
    return {
        "texts": F.normalize(torch.randn(classes, WIDTH), dim=-1),
        "head_weight": torch.randn(classes, WIDTH),
        "head_bias": torch.randn(classes),
        "blend": torch.tensor([share]),
    }


@pytest.mark.parametrize("share", [0.0, 1.0, -100.0, 100.0])
def test_the_logits_are_a_share_of_each_branch(share: float) -> None:
    prompts, learned = torch.randn(5, 2, WIDTH), tensors(share)
    scores = Blend(WIDTH, 2.0).scores(encoded(prompts), learned)
    clip = math.exp(2.0) * F.normalize(prompts[:, 0], dim=-1) @ learned["texts"].T
    vit = prompts[:, 1] @ learned["head_weight"].T + learned["head_bias"]
    booster = 1 / (1 + math.exp(-share))
    torch.testing.assert_close(scores, (1 - booster) * clip + booster * vit)
    if share == -100:
        torch.testing.assert_close(scores, clip)
    if share == 100:
        torch.testing.assert_close(scores, vit)


def test_the_loss_by_hand(tiny_clip: Clip) -> None:
    """Two former rows, two of the task; one of the images is remembered."""
    method = build_method("promptfusion", BackboneSpec.of(tiny_clip))
    assert isinstance(method, PromptFusion)
    method.blend = Blend(WIDTH, 2.0)
    prompts, learned = torch.randn(3, 2, WIDTH), tensors(1.0)
    labels = torch.tensor([0, -1, 1])  # the rows 2, 1 and 3
    own = {"alpha": torch.tensor([0.5, -0.5]), "beta": torch.tensor([2.0])}
    constants = {"theta": torch.tensor(1.5)}
    loss = method.loss(Batch(encoded(prompts), labels, 2, constants), learned | own)
    logs = method.blend.scores(encoded(prompts), learned).log_softmax(dim=-1)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    old = 1.5 / sigmoid(2.0)
    wanted = -(logs[0, 2] * sigmoid(0.5) + logs[1, 1] * old + logs[2, 3] * sigmoid(-0.5)) / 3
    torch.testing.assert_close(loss, wanted)


def test_two_tasks(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both branches train, texts of former rows rest, and old images return, within the budget."""
    image = 32 * 32 * 3
    stream = make_stream(((0, 3), (1, 4)), train=8)
    config = {"memory": 8 * image + 1, "schedule": {"epochs": 10, "batch_size": 4}}
    learner = make_learner("promptfusion", stream, config=config)
    seen: list[Any] = []
    loss = PromptFusion.loss

    def noted(self: PromptFusion, batch: Batch, learned: Tensors) -> Tensor:
        seen.append((float(batch.constants["theta"]), batch.labels, len(learned["context"])))
        return loss(self, batch, learned)

    monkeypatch.setattr(PromptFusion, "loss", noted)
    assert learn_stream(learner, stream).a_last > 0.5
    first, second = learner.run.part(0), learner.run.part(1)
    for branch in (0, 1):
        assert not torch.equal(first["prompts"][branch], second["prompts"][branch])
    assert not torch.equal(first["head_weight"], second["head_weight"][:2]), (
        "rows are trained again"
    )
    assert not torch.equal(first["blend"], second["blend"])
    assert first["texts"].shape == second["texts"].shape == (2, 192)
    assert learner.text is not None
    plain = learner.text.zero_shot(["hue-0", "hue-3"], ("{}.",))
    assert (first["texts"] - plain).abs().max() > 1e-4, "a context of its own"
    assert {theta for theta, _, _ in seen} == {0.0, 0.5}
    assert {count for _, _, count in seen} == {2}, "contexts of the task's classes only"
    old = {int(label) for theta, labels, _ in seen for label in labels if theta and label < 0}
    assert old == {-1, -2}
    assert [learner.run.record(task).exemplars for task in (0, 1)] == [8, 8]


def test_a_class_that_was_not_learned_has_its_name_only(make_learner: MakeLearner) -> None:
    learner = make_learner("promptfusion")
    assert learner.text is not None
    rows = learner.method.zero_shot_rows(learner.text, ["hue-5"], {})
    assert torch.equal(rows["texts"], learner.text.zero_shot(["hue-5"]))
    assert not rows["head_weight"].any()
    assert not rows["head_bias"].any()


def test_what_cannot_be_is_refused(tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match=r"promptfusion\.length must be at least 1.*Raise it"):
        build_method("promptfusion", BackboneSpec.of(tiny_clip), {"length": 0})
