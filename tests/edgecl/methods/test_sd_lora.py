"""SD-LoRA: directions of norm 1 that stay, magnitudes that every task learns."""

from collections.abc import Callable

import pytest
import torch
from tests.edgecl.support import view

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.sd_lora import MAGNITUDES, TARGETS, SDLoRAConfig
from edgecl.session import learn_stream
from edgecl.streams import Stream

RAW = ("lora_q_a", "lora_q_b", "lora_v_a", "lora_v_b")


def test_what_ships_is_what_was_trained(tiny_backbone: Backbone) -> None:
    """Each product times its scale is the same before and after the norms move into the scale."""
    method = build_method("sd-lora", BackboneSpec.of(tiny_backbone), {"rank": 3})
    generator = torch.Generator().manual_seed(0)
    declared = method.program.declare()
    leaves = {name: torch.randn(declared[name].shape(2), generator=generator) for name in RAW}
    leaves[MAGNITUDES] = torch.tensor([0.5, -0.3, 2.0])
    task = view(method, 2, 2, {})
    trained = leaves | method.parametrize(leaves, task, final=False)
    ships = leaves | method.parametrize(leaves, task, final=True)
    torch.testing.assert_close(
        trained["lora_scale"], leaves[MAGNITUDES][:, None, None].expand(3, 2, 2)
    )
    assert torch.equal(ships["lora_scale"][:2], trained["lora_scale"][:2])
    for column, target in enumerate(TARGETS):
        products = [
            made["lora_scale"][-1, :, column, None, None]
            * (made[f"lora_{target}_a"][0] @ made[f"lora_{target}_b"][0])
            for made in (trained, ships)
        ]
        torch.testing.assert_close(*products)
        for factor in "ab":
            norms = ships[f"lora_{target}_{factor}"].norm(dim=(-2, -1))
            torch.testing.assert_close(norms, torch.ones(1, 2))


def test_a_later_task_keeps_directions_and_learns_one_magnitude_for_each(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream()
    learner = make_learner("sd-lora", stream, config={"schedule": {"epochs": 4, "batch_size": 4}})
    learn_stream(learner, stream)
    parts = learner.run.parts()
    learned = learner.learned()
    for name in RAW:
        assert learned[name].shape[0] == 3
        torch.testing.assert_close(learned[name].norm(dim=(-2, -1)), torch.ones(3, 2))
    for index, part in enumerate(parts):
        scale = part["lora_scale"]  # t l m
        assert scale.shape == (index + 1, 2, 2)
        former = scale[:-1].flatten(1)
        assert torch.equal(former, former[:, :1].expand(-1, 4)), "one number per former task"
        assert (former - 0.8).abs().min() > 0 if index else True
    assert not torch.equal(parts[1]["lora_scale"][0], parts[2]["lora_scale"][0])
    assert torch.equal(learner.run.state()[MAGNITUDES], torch.full((4,), 0.8))


def test_a_task_that_learned_nothing_ships_no_nan(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    learner = make_learner("sd-lora", make_stream(((0, 1),)), config={"schedule": {"epochs": 0}})
    learn_stream(learner, make_stream(((0, 1),)))
    assert learner.learned()["lora_scale"].abs().max() == 0
    assert learner.learned()["lora_q_b"].abs().max() == 0


def test_a_configuration_that_cannot_be() -> None:
    with pytest.raises(MethodError, match=r"sd-lora.magnitude must be above 0, got 0.0. Use 0.8"):
        SDLoRAConfig(magnitude=0.0)
    with pytest.raises(MethodError, match=r"sd-lora.rank must be at least 1, got 0. Raise it"):
        SDLoRAConfig(rank=0)
