"""Several injected passes: the bank, one run of all, and training that runs one of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.learning.training import TaskTraining
from edgecl.methods import build_method
from edgecl.program import BackboneModel, Encoded, Outputs, Program
from edgecl.program.injectors import AdapterStack, Branches, LoraStack, SharedPrefix
from edgecl.program.learned import Tensors, join
from edgecl.program.matchers import NoMatcher
from edgecl.session import learn_stream
from edgecl.streams import Stream

D = 192
MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]

INNER = {
    "adapter": AdapterStack(D, 2, 4, 0.7),
    "adapter beside the attention": AdapterStack(D, 1, 4, 1.0, at="attention", activation="gelu"),
    "lora": LoraStack(D, 2, 4),
    "prefix": SharedPrefix(D, (0, 1), 3, "compensated"),
}


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bank(branches: Branches, count: int) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {
        name: 0.3 * torch.randn(count, *item.shape(0)[1:], generator=generator)
        for name, item in branches.declare().items()
    }


def ease(backbone: Backbone) -> Program:
    return build_method("ease", BackboneSpec.of(backbone)).program


def test_tasks_append_branches_or_replace_a_fixed_number_of_them() -> None:
    growing = Branches(INNER["adapter"]).declare()["adapter_down"]
    assert (growing.axes, growing.concat_axis) == ("t l d r", "t")
    assert growing.shape(5, 3, task=2) == (1, 2, D, 4)
    fixed = Branches(INNER["lora"], 2).declare()["lora_k_a"]
    assert (fixed.axes, fixed.concat_axis, fixed.sizes["t"]) == ("t l d r", None, 2)
    assert fixed.shape(5, 3, task=2) == (2, 2, D, 4)
    assert Branches(INNER["lora"]).slots() == INNER["lora"].slots(), "those of one branch"


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("kind", INNER)
def test_one_run_of_all_branches_equals_a_pass_for_each(
    tiny_backbone: Backbone, pixels: Tensor, kind: str, count: int
) -> None:
    branches = Branches(INNER[kind])
    program = replace(ease(tiny_backbone), injector=branches)
    learned = bank(branches, count)
    with torch.no_grad():
        together = program.encode(tiny_backbone.model, pixels, learned).features("injected")
        assert together.cls.shape == (3, count, D)
        for branch in range(count):
            alone = program.encode(tiny_backbone.model, pixels, learned, branch=branch)
            slots = {name: value[branch] for name, value in learned.items()}
            naive = tiny_backbone.model(pixels, INNER[kind].sites(slots))
            for features in (alone.features("injected"), naive):
                torch.testing.assert_close(together.cls[:, branch], features.cls)
                torch.testing.assert_close(together.prompt[:, branch], features.prompt)


def test_taps_have_a_row_per_branch(tiny_backbone: Backbone, pixels: Tensor) -> None:
    program = replace(ease(tiny_backbone), taps=2)
    assert isinstance(program.injector, Branches)
    learned = bank(program.injector, 3)
    taps = program.encode(tiny_backbone.model, pixels, learned).features("injected").taps
    assert taps is not None
    assert taps.shape == (3, 3, 2, D)


@pytest.mark.parametrize("name", ["ease", "lae"])
def test_training_runs_one_branch(
    name: str, make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the third task costs what a step of the first one costs."""
    stream = make_stream()
    learner = make_learner(name, stream)
    images: list[int] = []
    in_training: list[str] = []  # while a loss is computed
    encode, loss = Program.encode, TaskTraining.loss

    def run_encode(program: Program, backbone: BackboneModel, *args: Any, **named: Any) -> Encoded:
        def counted(pixels: Tensor, *rest: Any, **options: Any) -> Features:
            images.append(len(pixels))
            return backbone(pixels, *rest, **options)

        return encode(program, counted if in_training else backbone, *args, **named)

    def run_loss(*args: Any) -> Tensor:
        in_training.append(name)
        try:
            return loss(*args)
        finally:
            in_training.pop()

    monkeypatch.setattr(Program, "encode", run_encode)
    monkeypatch.setattr(TaskTraining, "loss", run_loss)
    learn_stream(learner, stream)
    assert set(images) == {learner.method.schedule(0).train.batch_size}


def test_no_matcher_sees_a_branch(tiny_backbone: Backbone, pixels: Tensor) -> None:
    program = ease(tiny_backbone)
    declared = program.declare()
    parts = [
        {name: 0.1 * torch.randn(item.shape(2, 2 * task, task)) for name, item in declared.items()}
        for task in range(3)
    ]
    out = program.infer(tiny_backbone.model, pixels, join(declared, parts))
    assert isinstance(program.matcher, NoMatcher)
    assert out.scores.shape == (3, 6)
    assert out.feature.shape == (3, 3 * D)
    assert out.match.tolist() == [[0]] * 3
    assert Outputs(*out) == out
