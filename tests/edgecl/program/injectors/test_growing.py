"""Low-rank terms that grow with the tasks: they are changes of weights, and add up."""

import copy

import pytest
import torch
from tests.edgecl.support import images, same

from edgecl.backbones import Backbone
from edgecl.program.injectors import GrowingLora
from edgecl.program.learned import Tensors

D, DEPTH, TASKS = 192, 2, 3


def random_terms(injector: GrowingLora) -> Tensors:
    generator = torch.Generator().manual_seed(3)
    return {
        name: 0.1 * torch.randn(TASKS, *item.shape(2)[1:], generator=generator)
        for name, item in injector.declare().items()
    }


@pytest.mark.parametrize("designed", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_products_of_all_tasks_are_one_change_of_each_weight(
    tiny_backbone: Backbone, designed: bool, scaled: bool
) -> None:
    injector = GrowingLora(D, DEPTH, 4, ("q", "v"), designed=designed, scaled=scaled)
    terms = random_terms(injector)
    assert ("lora_a" in terms, "lora_scale" in terms) == (designed, scaled)
    model = copy.deepcopy(tiny_backbone.model)
    for block, each in enumerate(model.blocks):
        change = {}
        for column, target in enumerate(("q", "v")):
            a = terms["lora_a" if designed else f"lora_{target}_a"][:, block]
            b = terms[f"lora_{target}_b"][:, block]
            scale = terms["lora_scale"][:, block, column] if scaled else torch.ones(TASKS)
            change[target] = sum(scale[t] * a[t] @ b[t] for t in range(TASKS)).T
        with torch.no_grad():
            none = torch.zeros(D, D)
            each.attn.qkv.weight += torch.cat([change["q"], none, change["v"]])
    with torch.no_grad():
        want = model(images())
        same(tiny_backbone.model(images(), injector.sites(terms)), want, atol=1e-4)
        assert (want.cls - tiny_backbone.model(images()).cls).abs().max() > 0.1
        nothing = {name: tensor[:0] for name, tensor in terms.items()}
        plain = tiny_backbone.model(images())
        same(tiny_backbone.model(images(), injector.sites(nothing)), plain, atol=1e-6)
        padded = {name: torch.cat([t, torch.zeros_like(t)]) for name, t in terms.items()}
        same(tiny_backbone.model(images(), injector.sites(padded)), want, atol=1e-4)
