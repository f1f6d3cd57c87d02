"""HiDe-Prompt: the contrast, the ensemble, and both heads aligned."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.edgecl.support import bank, begun, view
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method
from edgecl.methods.base import Batch
from edgecl.methods.hide_prompt import contrast
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl.program.matchers import TaskInference, newest
from edgecl.session import learn_stream
from edgecl.streams import Stream

D, TASKS, ROWS = 192, 3, 4


def hide(tiny_backbone: Backbone, **config: object) -> Method:
    return build_method("hide-prompt", BackboneSpec.of(tiny_backbone), config)


def test_the_contrast_by_hand() -> None:
    features = bank(2, 4).float()
    plain = Features(features, features)
    former = bank(1, 4, seed=1).float()
    batch = Batch(Encoded(plain, newest(features, 1), plain), torch.tensor([0, 1]), 2)
    for constants in ({}, {"feature_means": former}):
        rows = torch.cat([*constants.values(), features])
        want = 0.0
        for one, row in enumerate(rows):
            alike = [(row @ other / 0.8).item() for other in rows]
            want -= (alike[one] - math.log(sum(map(math.exp, alike)))) / len(rows)
        assert contrast(replace(batch, constants=constants)).item() == pytest.approx(want, abs=1e-5)


def test_training_sees_the_prefix_drawn_to_the_former_mean(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone, ensemble=0.25)
    former = bank(2, 2, 2, 5, D).float()
    leaves = {"task_prefixes": bank(1, 2, 2, 5, D, seed=1).float()}
    want = 0.75 * leaves["task_prefixes"][0] + 0.25 * (former[0] + former[1]) / 2
    task = view(method, 2, 2, {"task_prefixes": former})
    for final in (False, True):
        made = method.parametrize(leaves, task, final=final)
        torch.testing.assert_close(made["task_prefixes"][0], want)
    assert method.parametrize(leaves, view(method, 0, 2, {}), final=True) == {}


def test_the_head_has_a_rate_of_its_own(tiny_backbone: Backbone) -> None:
    for task in (0, 1):
        rates = hide(tiny_backbone, head_rate=0.1).schedule(task).rates
        assert rates == {"head_weight": 0.1, "head_bias": 0.1}
    for wrong in ({"head_rate": 0.0}, {"ensemble": 1.5}):
        with pytest.raises(MethodError, match=r"and hide-prompt\.head_rate above 0, got .* Change"):
            hide(tiny_backbone, **wrong)


def test_hide_trains_its_own_prefix_and_the_rows_of_the_task(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone)
    learned, _ = begun(method, tasks=2)
    assert learned["task_rows"].tolist() == [2, 2]
    assert torch.equal(learned["task_prefixes"][1], learned["task_prefixes"][0])
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
    encoded = method.program.encode(
        tiny_backbone.model, bank(3, 3, 32, 32).float(), leaves, training=True
    )
    labels = torch.tensor([0, 1, 1])
    loss = method.loss(Batch(encoded, labels, 2), leaves)
    scores = method.program.classifier.scores(encoded, leaves)[:, 2:]
    inferred = TaskInference(D, 2 * D).logits(encoded.features("plain").cls, leaves)[:, 2:]
    want = F.cross_entropy(scores, labels) + F.cross_entropy(inferred, labels)
    torch.testing.assert_close(loss, want + 0.1 * contrast(Batch(encoded, labels, 2)))
    loss.backward()
    for name in ("task_prefixes", "head_weight", "inference_head"):
        grad = leaves[name].grad
        assert grad is not None
        assert grad[: len(grad) // 2].abs().max() == 0, f"{name} of the former task"
        assert grad[len(grad) // 2 :].abs().max() > 0
    assert leaves["inference_in"].grad is not None
    assert leaves["task_rows"].grad is None


def test_hide_aligns_both_heads_from_the_second_task_on(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone, align={"epochs": 2})
    labels = torch.arange(6) % 2
    state: Tensors = {}
    for index in range(2):
        learned, _ = begun(method, tasks=index + 1)
        features = {
            name: bank(6, D, seed=seed + index).float()
            for seed, name in enumerate(("feature", "query"))
        }
        task = view(method, index, 2, learned, labels=labels, state=state)
        fitted = method.fit(replace(task, encode=lambda _, found=features: found))
        part, state = fitted.part, fitted.state
        assert {name: len(rows) for name, rows in state.items()} == dict.fromkeys(
            ("feature_means", "feature_variances", "query_means", "query_variances"),
            2 * (index + 1),
        )
        heads = {"head_weight", "head_bias"}
        heads |= {name for name in learned if name.startswith("inference_")}
        assert part.keys() == (heads if index else set())
    for name, tensor in part.items():
        assert (tensor != learned[name]).flatten(1 if tensor.ndim > 1 else 0).any(-1).all(), name


def test_the_loss_sees_the_statistics_of_the_former_tasks(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("hide-prompt", stream)
    seen = []
    loss = learner.method.loss

    def watched(batch: Batch, learned: Tensors) -> Tensor:
        seen.append(len(batch.constants.get("feature_means", ())))
        return loss(batch, learned)

    monkeypatch.setattr(learner.method, "loss", watched)
    learn_stream(learner, stream)
    assert seen == [0] * (len(seen) // 2) + [2] * (len(seen) // 2)
    assert len(learner.run.state()["query_means"]) == 4
    assert not learner.run.state().keys() & learner.learned().keys()
