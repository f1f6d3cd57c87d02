"""BLIP: bits by the formula, rounding on a grid around the start, and tasks that keep to them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.policies.blip import BOUND, PRIOR, Bits, short, unit
from edgecl.learning.training import TaskTraining
from edgecl.methods import build_method
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.session import learn_stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Any]
ITEM = {"w": TensorSpec("a d", {"a": 2, "d": 2}, trained=True)}
MOST = 20


def begun(leaf: Tensor, state: Tensors | None = None, index: int = 0) -> Bits:
    return Bits.begin(MOST, index, state or {}, {"w": leaf}, ITEM)


def test_bits_and_rounding_are_those_of_the_formula() -> None:
    """Two tasks, against the public code's formulas in floats; the unit is what it starts with."""
    torch.manual_seed(0)
    start = torch.tensor([[0.5, -0.5], [0.5, -0.5]])
    assert unit(start) == 0.5
    leaf, state = start.clone(), {}
    bits, former = [0] * 4, [PRIOR / 0.25] * 4
    for task in range(2):
        box = begun(leaf, state, task)
        assert torch.equal(box.anchor["w"], leaf)
        leaf += 0.02 * torch.randn(2, 2)
        trained = leaf.clone()
        fisher = 10.0 ** torch.tensor([[-20.0, -10.0], [-8.0, 30.0]])
        state = box.settle({"w": leaf}, {"w": fisher})
        for row, found in enumerate(fisher.flatten().tolist()):
            gain = 0.5 * math.log2((found + former[row] * (task + 1)) / (former[row] * (task + 2)))
            bits[row] = min(MOST, bits[row] + max(0, math.ceil(gain)))
            former[row] = (former[row] * (task + 1) + found) / (task + 2)
            step = BOUND * 0.5 * 2.0 ** -bits[row]
            way = (trained - start).flatten()[row].item()
            want = round(way / step) * step if bits[row] else 0.0
            assert (leaf - start).flatten()[row].item() == pytest.approx(want, abs=1e-7)
        assert state["policy.blip.bits.w"].flatten().tolist() == bits
        assert state["policy.blip.bits.w"].dtype == torch.uint8
        assert state["policy.blip.fisher.w"].flatten().tolist() == pytest.approx(former, rel=1e-5)
    assert bits[0] == 0, "what no task needs is back at its start"
    assert bits[3] == MOST
    assert 0 < bits[1] < bits[2] < MOST


def test_a_later_task_moves_what_its_free_bits_reach() -> None:
    leaf = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    box = begun(leaf)
    state = box.settle({"w": leaf}, {"w": torch.tensor([[0.0, 1e-9], [1e-7, 1e30]])})
    bits = state["policy.blip.bits.w"].float()
    anchor = leaf.clone()
    later = begun(leaf, state, 1)
    leaf += 100
    later.clip({"w": leaf})
    room = torch.where(bits > 0, BOUND * 0.5**bits, BOUND * (1 - 0.5**MOST))
    torch.testing.assert_close(leaf - anchor, room, rtol=0, atol=1e-6)


def test_new_rows_of_a_head_have_no_bits_yet() -> None:
    item = {"w": TensorSpec("c d", {"d": 2}, trained=True)}
    leaf = torch.randn(2, 2)
    state = Bits.begin(MOST, 0, {}, {"w": leaf}, item).settle({"w": leaf}, {"w": torch.ones(2, 2)})
    grown = torch.cat([leaf, torch.randn(1, 2)])
    later = Bits.begin(MOST, 1, state, {"w": grown}, item)
    assert (later.found["w"] > 0).tolist() == [[True] * 2, [True] * 2, [False] * 2]
    assert torch.equal(later.start["w"][2], short(grown)[2])


@pytest.mark.parametrize(
    ("start", "sigma"),
    [(torch.zeros(3, 8, 16), 0.25), (torch.zeros(5), 1 / 6), (torch.ones(2, 64), 0.125)],
)
def test_the_unit_of_what_starts_constant(start: Tensor, sigma: float) -> None:
    assert unit(start) == pytest.approx(sigma)


def test_with_all_bits_a_task_is_what_it_is_without_and_the_next_one_moves_nothing(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The law of 20 bits: equal to 1e-4 after the first task; then all is fixed."""
    stream = make_stream(((0, 1), (2, 3)))
    free = make_learner("l2p", stream, out="free")
    learn_stream(free, stream)
    found = TaskTraining.fisher

    def everything(*given: Any) -> Tensors:
        return {name: torch.full_like(each, 1e30) for name, each in found(*given).items()}

    monkeypatch.setattr(TaskTraining, "fisher", everything)
    schedule = {"epochs": 2, "batch_size": 4, "bits": MOST}
    kept = make_learner("l2p", stream, out="kept", config={"schedule": schedule})
    learn_stream(kept, stream)
    images = kept.load(stream.tasks[0].test, "").images
    one, other = (each.predict(images, each.run.part(0)).scores for each in (free, kept))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    first, second = (part["prompts"] for part in kept.run.parts())
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    free_first, free_second = (part["prompts"] for part in free.run.parts())
    assert (free_first - free_second).abs().max() > 1e-3
    assert not torch.equal(*(part["prompt_keys"] for part in kept.run.parts())), "keys are free"


def test_a_run_keeps_to_the_bits_that_its_images_find(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """DualPrompt's shared prefix, in real tasks; the task's own prefixes have no bits."""
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 2, "batch_size": 4, "bits": MOST, "lr": 0.1}
    learner = make_learner("dualprompt", stream, config={"schedule": schedule})
    seen: list[Tensors] = []
    settle = Bits.settle

    def watched(box: Bits, leaves: Tensors, fisher: Tensors) -> Tensors:
        seen.append(settle(box, leaves, fisher))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bits, "settle", watched)
        learn_stream(learner, stream)
    assert {name.rsplit(".", 1)[1] for name in seen[0]} == {"shared_prefix"}
    assert learner.run.state().keys() == seen[1].keys()
    before, after = (part["shared_prefix"] for part in learner.run.parts())
    start, bits = (seen[0][f"policy.blip.{what}.shared_prefix"] for what in ("start", "bits"))
    assert len(bits.unique()) > 1
    room = BOUND * unit(start) * 0.5 ** bits.float()
    assert ((after - before).abs() <= 1.5 * room)[bits > 0].all(), "its box, and a rounding"
    assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("name", "match"), [("vpt-shallow", "has none. Leave them out"), ("lae", "schedule.bits=0")]
)
def test_a_method_with_nothing_to_keep_is_refused(tiny_clip: Clip, name: str, match: str) -> None:
    with pytest.raises(MethodError, match=match):
        build_method(name, BackboneSpec.of(tiny_clip), {"schedule": {"bits": MOST}})
