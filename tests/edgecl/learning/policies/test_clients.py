"""Simulated clients: every image is of one, and one step each is a step of all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.policies.clients import ClientMean, parts_of, rounds
from edgecl.optim import TrainConfig
from edgecl.session import learn_task

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Any]
PLAIN = {"epochs": 3, "optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "cosine": True}


def test_every_image_is_of_one_client_and_once_in_an_epoch() -> None:
    generator = torch.Generator().manual_seed(3)
    client = parts_of(23, 5, generator)
    assert sorted(client.bincount().tolist()) == [4, 4, 5, 5, 5]
    schedule = TrainConfig(clients=5, local_steps=2, batch_size=2)
    order = torch.randperm(23, generator=generator)
    found = list(rounds(order, client, schedule))
    assert [len(each) for each in found] == [5, 3]
    assert all(len(own) <= 2 for each in found for own in each)
    for each in found:
        for own in each:
            assert len({int(client[at]) for batch in own for at in batch}) == 1
    seen = torch.cat([batch for each in found for own in each for batch in own])
    assert sorted(seen.tolist()) == list(range(23))
    alone = list(rounds(torch.zeros(1).long(), parts_of(1, 5, generator), schedule))
    assert [[len(batch) for own in each for batch in own] for each in alone] == [[1]]


def test_the_mean_is_by_images_and_leaves_the_rest_alone() -> None:
    leaves = {"w": torch.tensor([1.0], requires_grad=True), "fixed": torch.tensor([0.1])}
    mean = ClientMean(leaves)
    for images, value in ((3, 5.0), (1, 9.0)):
        mean.restart()
        assert leaves["w"].item() == 1.0
        with torch.no_grad():
            leaves["w"].fill_(value)
        mean.add(images)
    mean.finish()
    assert leaves["w"].item() == pytest.approx(6.0)
    assert leaves["fixed"].item() == pytest.approx(0.1)


def test_one_step_of_every_client_is_a_step_over_all_images(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """McMahan et al., section 2: FedSGD, whose mean of gradients is the gradient of all."""
    stream = make_stream(((0, 1),), train=4)
    heads = []
    for out, more in (
        ("one", {"batch_size": 8}),
        ("four", {"batch_size": 2, "clients": 4, "local_steps": 1}),
        ("far", {"batch_size": 1, "clients": 4, "local_steps": 2}),
    ):
        learner = make_learner(
            "single-head", stream, out=out, config={"schedule": {**PLAIN, **more}}
        )
        learn_task(learner, stream.tasks[0], stream.classes)
        heads.append(learner.learned()["head_weight"])
    assert torch.allclose(heads[0], heads[1], rtol=0, atol=1e-6)
    assert not torch.allclose(heads[0], heads[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("more", [{"bits": 20}, {"optimizer": "badam"}, {"local_steps": 0}])
def test_what_does_not_average_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match="Set them with --set schedule"):
        TrainConfig(clients=2, **more)


@pytest.mark.parametrize(
    ("method", "why"), [("lae", "averages its steps"), ("cgil", "trains no images")]
)
def test_a_method_that_cannot_average_is_refused(
    make_learner: MakeLearner, method: str, why: str
) -> None:
    with pytest.raises(MethodError, match=rf"{why}\. Use --set schedule\.clients=1"):
        make_learner(method, config={"schedule": {"clients": 2}})
