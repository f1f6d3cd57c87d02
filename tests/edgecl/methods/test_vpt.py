"""VPT: a prompt that is learned once, and a linear head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.edgecl.support import NOTHING
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method
from edgecl.methods.base import Batch
from edgecl.program.classifiers import Encoded
from edgecl.session import learn_stream

D, HIDDEN, DEPTH = 192, 768, 2
VPT = ("vpt-shallow", "vpt-deep")
MakeLearner = Callable[..., Learner]


def built(backbone: Backbone, name: str, **config: Any) -> Method:
    return build_method(name, BackboneSpec.of(backbone), config)


@pytest.mark.parametrize("name", VPT)
def test_a_prompt_is_learned_once_and_later_tasks_add_rows(
    make_learner: MakeLearner, make_stream: Callable[..., Any], name: str
) -> None:
    stream = make_stream(train=3)
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    first, *later = learner.run.parts()
    assert first.keys() == {"prompts", "head_weight", "head_bias"}
    assert all(part.keys() == {"head_weight", "head_bias"} for part in later)
    assert all(part["head_bias"].abs().max() > 0 for part in later), "the new rows are trained"
    assert torch.equal(learner.learned()["prompts"], first["prompts"])


@pytest.mark.parametrize("name", VPT)
def test_vpt_s_loss_masks_the_rows_of_other_tasks(tiny_backbone: Backbone, name: str) -> None:
    torch.manual_seed(0)
    method = built(tiny_backbone, name)
    learned = {
        "head_weight": torch.randn(6, D, requires_grad=True),
        "head_bias": torch.randn(6, requires_grad=True),
    }
    cls, labels = torch.randn(3, D), torch.tensor([1, 0, 1])
    encoded = Encoded(None, NOTHING, Features(cls, torch.full_like(cls, torch.nan)))
    loss = method.loss(Batch(encoded, labels, classes=2), learned)
    logits = cls @ learned["head_weight"][4:].T + learned["head_bias"][4:]
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    loss.backward()
    for tensor in learned.values():
        assert tensor.grad[:4].abs().max() == 0
        assert tensor.grad[4:].abs().min() > 0
