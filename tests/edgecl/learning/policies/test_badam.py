"""BAdam: the equations in floats, Adam as its limit, and one run of steps through all tasks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.policies.badam import BAdam
from edgecl.optim import TrainConfig, make_optimizer
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.session import learn_stream, learn_task, open_learner

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Any]
ITEM = {"w": TensorSpec("a", {"a": 3}, trained=True)}
TARGET = torch.tensor([1.0, -2.0, 0.5])


def badam(leaf: Tensor, state: Tensors | None = None, **options: Any) -> BAdam:
    schedule = TrainConfig("badam", lr=0.1, **options)
    return BAdam({"w": leaf}, schedule, {}, state or {}, ITEM, torch.Generator().manual_seed(5))


def loss_of(leaf: Tensor) -> Callable[[], Tensor]:
    return lambda: ((leaf - TARGET) ** 2 * torch.tensor([1.0, 3.0, 0.1])).sum()


def test_one_draw_without_spread_is_adam() -> None:
    leaves = [torch.zeros(3, requires_grad=True) for _ in range(2)]
    ours = badam(leaves[0], draws=1, spread=0.0)
    adam = make_optimizer(TrainConfig("adam", lr=0.1), [leaves[1]])
    for _ in range(25):
        ours.step(loss_of(leaves[0]))
        adam.zero_grad()
        loss_of(leaves[1])().backward()
        adam.step()
        torch.testing.assert_close(leaves[0], leaves[1], rtol=0, atol=1e-6)
    assert (leaves[0] - TARGET).abs().max() < 0.5


def test_the_step_is_that_of_the_equations() -> None:
    """One weight of loss w^2, three draws, eta and sigma as the file has them, in floats."""
    leaf = torch.tensor([2.0, 0.0, 0.0], requires_grad=True)
    ours = badam(leaf, draws=3, spread=0.2)
    noise = torch.Generator().manual_seed(5)
    mu, sigma, m, v, eta = 2.0, 0.2, 0.0, 0.0, 0.1 / 0.2**2
    for n in range(1, 6):
        draws = [torch.randn(3, generator=noise)[0].item() for _ in range(3)]
        gradients = [2 * (mu + sigma * e) for e in draws]
        g = sum(gradients) / 3
        h = sum(each * e for each, e in zip(gradients, draws, strict=True)) / 3
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = eta * sigma**2 * math.sqrt(1 - 0.999**n) / (1 - 0.9**n)
        mu -= rate * m / (math.sqrt(v) + 1e-10)
        sigma = sigma * math.sqrt(1 + (sigma * h / 2) ** 2) - sigma**2 * h / 2
        ours.step(lambda: (leaf[:1] ** 2).sum())
        assert leaf[0].item() == pytest.approx(mu, rel=1e-4)
        assert 0.2 * ours.moments["spread"]["w"][0].item() == pytest.approx(sigma, rel=1e-4)
        assert leaf[1:].abs().max() == 0, "the draws leave no trace"
    assert sigma < 0.19, "a weight that the loss depends on gets sure of itself"


def test_steps_in_two_tasks_are_the_steps_of_one() -> None:
    whole, parts = (torch.zeros(3, requires_grad=True) for _ in range(2))
    one = badam(whole, draws=2, spread=0.1)
    for _ in range(6):
        one.step(loss_of(whole))
    first = badam(parts, draws=2, spread=0.1)
    for _ in range(3):
        first.step(loss_of(parts))
    second = badam(parts, first.kept(), draws=2, spread=0.1)
    second.generator = first.generator
    for _ in range(3):
        second.step(loss_of(parts))
    assert torch.equal(whole, parts)
    assert second.moments["steps"]["w"].tolist() == [6.0] * 3


def test_what_a_task_adds_begins_anew() -> None:
    head = {"w": TensorSpec("c d", {"d": 2}, trained=True), "own": TensorSpec("t d", {}, "t")}
    leaves = {"w": torch.zeros(2, 2, requires_grad=True), "own": torch.ones(1, 2)}
    schedule, generator = TrainConfig("badam", spread=0.1), torch.Generator()
    first = BAdam(leaves, schedule, {}, {}, head, generator)
    first.step(lambda: (leaves["w"] - 1).square().sum())
    kept = first.kept()
    assert {name.rsplit(".", 1)[1] for name in kept} == {"w"}, "what all tasks train"
    later = BAdam({"w": torch.zeros(3, 2)}, schedule, {}, kept, head, generator)
    assert torch.equal(later.moments["spread"]["w"][:2], first.moments["spread"]["w"])
    assert later.moments["spread"]["w"][2].tolist() == [1.0, 1.0]
    assert later.moments["steps"]["w"][:, 0].tolist() == [1.0, 1.0, 0.0]
    wide = {"w": torch.zeros(4, 2)}
    back = BAdam(wide, schedule, {}, kept, head, generator, rows=(-1, 1))
    assert torch.equal(back.moments["spread"]["w"][3], first.moments["spread"]["w"][1])
    assert back.moments["steps"]["w"][:, 0].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_the_clip_bounds_the_mean_gradient() -> None:
    leaf = torch.zeros(3, requires_grad=True)
    ours = badam(leaf, draws=2, clip=1e-3)
    ours.step(loss_of(leaf))
    assert leaf.grad is not None
    assert leaf.grad.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_gradients_of_the_sum_are_those_of_as_many_images() -> None:
    leaves = [torch.zeros(3, requires_grad=True) for _ in range(3)]
    for leaf, summed, times in zip(leaves, (True, False, False), (1, 8, 1), strict=True):
        found, loss = badam(leaf, draws=2, spread=0.1, summed=summed), loss_of(leaf)
        found.step(lambda loss=loss, times=times: times * loss(), images=8)
    assert leaves[0].grad is not None
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
    torch.testing.assert_close(leaves[0].grad, 8 * leaves[2].grad)


def test_a_run_goes_on_from_its_folder(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 2, "batch_size": 4, "optimizer": "badam", "draws": 2}
    whole, begun = (
        make_learner("single-head", stream, out=out, config={"schedule": schedule})
        for out in ("whole", "begun")
    )
    learn_stream(whole, stream)
    learn_task(begun, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    path = begun.run.path
    again = open_learner(path, device="cpu", backbone=begun.towers, cache=begun.cache)
    learn_task(again, stream.tasks[1], stream.classes, [task.test for task in stream.tasks])
    one, other = whole.run.state(), again.run.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(whole.learned()["head_weight"], again.learned()["head_weight"])
    assert one["policy.badam.spread.head_weight"].shape == (4, 192)
    assert one["policy.badam.steps.head_weight"][:, 0].tolist() == [8.0, 8.0, 4.0, 4.0]


@pytest.mark.parametrize("wrong", [{"weight_decay": 0.1}, {"amsgrad": True}])
def test_what_badam_does_not_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match="Set them with --set"):
        TrainConfig("badam", **wrong)


def test_another_training_than_of_images_is_refused() -> None:
    with pytest.raises(MethodError, match=r"schedule\.optimizer=adam"):
        make_optimizer(TrainConfig("badam"), [torch.zeros(1, requires_grad=True)])
