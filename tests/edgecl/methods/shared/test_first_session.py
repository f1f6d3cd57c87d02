"""Methods in closed form for which the first task trains an injection, or none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.ridge import one_hot
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


@pytest.mark.parametrize("name", ["ranpac", "layup"])
def test_without_a_first_session_nothing_is_trained(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(train=8)
    learner = make_learner(name, stream, config={"first_session": "none"})
    assert learner.method.program.passes == ("plain",)
    assert not learner.method.program.slots()
    summary = learn_stream(learner, stream)
    assert summary.a_last > 0.5
    assert learner.run.part(0).keys() == {"head_weight", "head_scale"}
    with_session = make_learner(name, out="other").program
    assert with_session.interface != learner.program.interface
    # The head is that of all images at once, from the features that the learner reads.
    state = learner.run.state()
    views = [learner.encoder.plain(learner.load(task.train, "").images) for task in stream.tasks]
    features = torch.cat([
        learner.method.program.classifier.feature(Encoded(view, None, None))  # type: ignore[arg-type]
        for view in views
    ])
    h = learner.method.program.classifier.expand(features, learner.learned()).double()  # type: ignore[attr-defined]
    classes = torch.tensor([label for task in stream.tasks for label in task.train.labels])
    torch.testing.assert_close(state["gram"], h.T @ h, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["moments"], h.T @ one_hot(classes, 6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        ("adapter", "aper-adapter"),
        ("ssf", "aper-ssf"),
        ("vpt", "aper-vpt-deep"),
        ("vpt-shallow", "aper-vpt-shallow"),
    ],
)
def test_a_first_session_is_that_of_aper(
    kind: str, twin: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """RanPAC's phase 1 is APER's: the same seed learns the same, bit for bit."""
    stream = make_stream(((0, 1),))
    schedule = {"optimizer": "sgd", "lr": 0.05, "epochs": 2, "batch_size": 4, "weight_decay": 5e-4}
    session = {"first_session": kind, "length": 5}
    runs = {}
    for name, config in {twin: {}, "ranpac": session, "layup": session}.items():
        runs[name] = make_learner(name, stream, config={**config, "schedule": schedule}, out=name)
        learn_stream(runs[name], stream)
    injected = runs[twin].program.injector.declare().keys()
    want = runs[twin].run.part(0)
    assert all(tensor.abs().max() > 0 for name, tensor in want.items() if name in injected)
    for name in ("ranpac", "layup"):
        assert set(runs[name].program.trained_once) == injected
        found = runs[name].run.part(0)
        assert all(torch.equal(found[tensor], want[tensor]) for tensor in injected)


def test_a_head_of_a_fixed_scale(tiny_backbone: Backbone) -> None:
    """LayUP's public code multiplies the cosines by 30."""
    method = build_method("layup", BackboneSpec.of(tiny_backbone), {"head_scale": 30.0})
    assert method.local().keys() == {"session_weight"}
    features, weight = torch.randn(4, 192), torch.randn(2, 192)
    seen = Features(features, features)
    labels = torch.tensor([0, 1, 1, 0])
    cosine = F.normalize(features, dim=1) @ F.normalize(weight, dim=1).T
    loss = method.loss(Batch(Encoded(None, None, seen), labels, 2), {"session_weight": weight})
    torch.testing.assert_close(loss, F.cross_entropy(30 * cosine, labels))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ranpac", {"size": 0}),
        ("ranpac", {"length": 0}),
        ("ranpac", {"rank": 0}),
        ("ranpac", {"seed": -1}),
        ("layup", {"taps": 0}),
        ("layup", {"rank": 0}),
        ("layup", {"length": 0}),
        ("layup", {"head_scale": -1.0}),
    ],
)
def test_sizes_that_cannot_be(tiny_backbone: Backbone, name: str, config: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"must be at least [01], got .* Raise it"):
        build_method(name, BackboneSpec.of(tiny_backbone), config)
