"""LAE: the moving average, the epochs of rest, the vote, and all three kinds of injection."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.sites import Adapter, Lora, Prefix
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.lae import Ensemble, OfflineCopy
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy.progress import Reporter
from edgecl_export.bundle import write_program
from edgecl_export.parity import check_program

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
KINDS = {"adapter": Adapter, "lora": Lora, "prefix": Prefix}

every_kind = pytest.mark.parametrize("kind", KINDS)


def injected(learner: Learner, task: int) -> Tensors:
    part = learner.run.part(task)
    return {name: part[name] for name in learner.method.program.injector.declare()}


@every_kind
def test_two_tasks_of_every_kind(
    kind: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 3), (1, 4)), train=8)
    schedule = {"epochs": 10, "batch_size": 4}
    learner = make_learner("lae", stream, config={"kind": kind, "schedule": schedule})
    assert learn_stream(learner, stream).a_last > 0.5
    for name, bank in injected(learner, 0).items():
        assert torch.equal(bank[0], bank[1]), name
        assert bank.abs().max() > 0
    for name, bank in injected(learner, 1).items():
        assert not torch.equal(bank[0], bank[1]), name


@every_kind
def test_the_sites_of_every_kind(kind: str, tiny_backbone: Backbone) -> None:
    method = build_method("lae", BackboneSpec.of(tiny_backbone), {"kind": kind, "blocks": 1})
    slots = {
        name: torch.zeros(item.shape(0)[1:])
        for name, item in method.program.injector.declare().items()
    }
    items = method.program.injector.sites(slots)
    assert {type(item) for item in items} == {KINDS[kind]}
    assert {item.block for item in items} == {0}
    for item in items:
        if isinstance(item, Adapter):
            assert (item.at, item.activation, item.scale) == ("attention", "gelu", 1.0)
        if isinstance(item, Prefix):
            assert item.mode == "compensated"
    if kind == "lora":
        assert [item.target for item in items if isinstance(item, Lora)] == ["k", "v"]


@pytest.mark.parametrize("kind", ["lora", "prefix"])  # adapters are in the tests of all methods
def test_every_kind_exports(kind: str, tiny_backbone: Backbone, tmp_path: Path) -> None:
    program = build_method("lae", BackboneSpec.of(tiny_backbone), {"kind": kind}).program
    entry = write_program(program, tiny_backbone, tmp_path, Reporter())
    assert entry.branches == "t"
    assert check_program(program, tiny_backbone, entry, tmp_path) < 1e-5


def test_the_kinds_are_three_interfaces(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    programs = [build_method("lae", spec, {"kind": kind}).program for kind in KINDS]
    assert len({program.interface for program in programs}) == 3


def test_the_offline_copy_is_the_moving_average(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("lae", stream, config={"decay": 0.9, "rest": 0.0})
    steps: list[dict[str, Tensor]] = []
    update = OfflineCopy.update

    def noted(self: OfflineCopy, tensors: Tensors) -> None:
        update(self, tensors)
        if self.share < 1:  # from the second task on
            steps.append({name: tensor.detach().clone() for name, tensor in tensors.items()})

    monkeypatch.setattr(OfflineCopy, "update", noted)
    learn_stream(learner, stream)
    assert len(steps) == 4  # 8 images in batches of 4, twice
    for name, start in injected(learner, 0).items():
        offline = start[1]
        for step in steps:
            offline = 0.9 * offline + 0.1 * step[name][0]
        torch.testing.assert_close(injected(learner, 1)[name][1], offline)


@pytest.mark.parametrize(("rest", "moves"), [(1.0, False), (0.5, True)])
def test_the_injection_rests_in_the_first_epochs_of_later_tasks(
    rest: float, moves: bool, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("lae", stream, config={"rest": rest})
    learn_stream(learner, stream)
    first, second = (injected(learner, task) for task in range(2))
    assert any(not torch.equal(first[name][0], second[name][0]) for name in first) == moves
    assert learner.run.part(1)["head_weight"].abs().max() > 0


def test_three_of_five_epochs(tiny_backbone: Backbone) -> None:
    method = build_method("lae", BackboneSpec.of(tiny_backbone))
    names = method.program.injector.declare()
    assert method.schedule(0).train.epochs == method.schedule(1).train.epochs == 5
    assert method.schedule(0).frozen_epochs == dict.fromkeys(names, 0)
    assert method.schedule(1).frozen_epochs == dict.fromkeys(names, 3)


def test_the_larger_probability_wins() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 2, 5, generator=generator)
    learned = {
        "head_weight": torch.randn(4, 5, generator=generator),
        "head_bias": torch.randn(4, generator=generator),
    }
    match = Match(torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1))
    encoded = Encoded(None, match, Features(features, torch.zeros_like(features)))
    votes = [
        F.linear(features[:, branch], learned["head_weight"], learned["head_bias"]).softmax(dim=-1)
        for branch in range(2)
    ]
    torch.testing.assert_close(
        Ensemble(5, "cls").scores(encoded, learned), torch.maximum(*votes).log()
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0}, r"lae.rank must be at least 1, got 0. Raise it"),
        ({"decay": 1.5}, r"in \[0, 1\], got 1.5 and 0.6. Use 0.9999"),
        ({"schedule": {"weight_decay": 0.1}}, r"must be 0, .* got 0.1. Leave it out"),
        ({"schedule": {"later": {"weight_decay": 0.1}}}, r"must be 0, .* got 0.1. Leave"),
    ],
)
def test_a_config_without_sense(
    tiny_backbone: Backbone, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        build_method("lae", BackboneSpec.of(tiny_backbone), config)
