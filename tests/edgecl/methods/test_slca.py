"""SLCA: slow low-rank terms, the head before its alignment, what is kept per class."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning import training
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.methods.slca import SLCAConfig
from edgecl.optim import TrainConfig, make_optimizer
from edgecl.program.classifiers import Encoded
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def test_low_rank_terms_start_as_no_change(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("slca", stream, config={"schedule": {"epochs": 0}})
    learn_stream(learner, stream)
    images = learner.load(stream.tasks[0].test, "").images
    plain = learner.backbone.model(learner.normalise(torch.from_numpy(images[:]))).cls
    torch.testing.assert_close(learner.predict(images).feature, plain, rtol=1e-6, atol=1e-6)


def test_the_rates_of_the_groups(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[dict[str, float]] = []

    def watched(
        schedule: TrainConfig, leaves: list[Tensor], *rest: object
    ) -> torch.optim.Optimizer:
        optimizer = make_optimizer(schedule, leaves, *rest)  # type: ignore[arg-type]
        owner = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates.append({name: owner[id(leaf)] for name, leaf in zip(names, leaves, strict=True)})
        return optimizer

    stream = make_stream(((0, 1), (2, 3)))
    config = {"schedule": {"lr": 0.2, "epochs": 1}, "first_rate": 0.25, "slow_rate": 0.125}
    learner = make_learner("slca", stream, config=config)
    names = list(learner.method.program.declare())
    monkeypatch.setattr(training, "make_optimizer", watched)
    learn_stream(learner, stream)
    for task, slow in ((0, 0.05), (1, 0.025)):
        assert {name: rates[task][name] for name in names} == pytest.approx({
            name: 0.2 if name.startswith("head") else slow for name in names
        })


def test_the_next_task_goes_on_from_the_head_in_front_of_its_alignment(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Old rows as kept never move, whatever the decay; those that ship are aligned."""
    stream = make_stream(((0, 1), (2, 3), (4, 5)))
    learner = make_learner(
        "slca", stream, config={"schedule": {"epochs": 2, "batch_size": 4, "weight_decay": 0.1}}
    )
    heads = []
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
        heads.append(learner.run.state()["head_weight"])
    for former, later in pairwise(heads):
        assert torch.equal(later[: len(former)], former)
    assert torch.equal(learner.run.part(0)["head_weight"], heads[0])
    for task in (1, 2):
        ships = learner.run.part(task)["head_weight"]
        assert ((ships - heads[task]).abs().amax(dim=1) > 0).all()


def test_what_is_kept_per_class_is_a_mean_a_covariance_and_its_row(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (0, 1)), protocol="dil")
    learner = make_learner("slca", stream)
    learn_stream(learner, stream)
    kept = {name: tuple(tensor.shape) for name, tensor in learner.run.state().items()}
    assert kept == {
        "means": (4, 192), "covariances": (4, 192, 192), "tasks": (4,),
        "head_weight": (4, 192), "head_bias": (4,),
    }  # fmt: skip
    assert learner.run.state()["tasks"].tolist() == [0, 0, 1, 1]


def test_the_loss_by_hand(tiny_backbone: Backbone) -> None:
    """A wrong class has probability 1e-4 in the reversed cross-entropy, the right one 1."""
    method = build_method("slca", BackboneSpec.of(tiny_backbone), {"cross": 0.5, "reverse": 0.25})
    features, labels = torch.randn(3, 192), torch.tensor([1, 0, 1])
    head = {"head_weight": torch.randn(2, 192), "head_bias": torch.randn(2)}
    batch = Batch(Encoded(None, None, Features(features, features)), labels, 2)
    scores = features @ head["head_weight"].T + head["head_bias"]
    wrong = 1 - scores.softmax(dim=1)[torch.arange(3), labels]
    want = 0.5 * F.cross_entropy(scores, labels) - 0.25 * math.log(1e-4) * wrong.mean()
    torch.testing.assert_close(method.loss(batch, head), want)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(MethodError, match=r"above 0, .* Raise it"):
        SLCAConfig(slow_rate=0.0)
    with pytest.raises(MethodError, match=r"cross must be at least 0, .* Raise it"):
        SLCAConfig(cross=-1.0)
