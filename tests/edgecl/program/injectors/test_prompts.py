"""Shared prompts: tokens after [CLS], in the first block or in every one."""

import pytest
import torch
from tests.edgecl.support import images, same, started, through
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.sites import Tokens
from edgecl.program.injectors import SharedPrompts

D, HIDDEN, DEPTH = 192, 768, 2


@pytest.mark.parametrize("depth", [None, DEPTH])
def test_shared_prompts_are_tokens_behind_cls(tiny_backbone: Backbone, depth: int | None) -> None:
    injector = SharedPrompts(D, 5, depth)
    learned = started(injector)
    assert learned["prompts"].shape == ((5, D) if depth is None else (2, 5, D))
    rows = [learned["prompts"]] if depth is None else list(learned["prompts"])
    by_hand = tuple(
        Tokens(each, block, keep=depth is None, positioned=False) for block, each in enumerate(rows)
    )
    found = through(tiny_backbone, injector, learned, images())
    with torch.no_grad():
        same(found, tiny_backbone.model(images(), by_hand), atol=0)
        assert (found.cls - tiny_backbone.model(images()).cls).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [None, DEPTH])
def test_prompts_start_uniform_and_no_two_rows_are_equal(depth: int | None) -> None:
    prompts = started(SharedPrompts(768, 50, depth))["prompts"]
    bound = (6 / 1536) ** 0.5
    assert prompts.abs().max() <= bound
    assert prompts.abs().max() > 0.99 * bound
    rows = prompts.reshape(-1, 768)
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize("depth", [None, DEPTH])
@pytest.mark.parametrize("padding", [1, 4])
def test_padded_and_masked_rows_leave_no_trace(
    tiny_backbone: Backbone, depth: int | None, padding: int
) -> None:
    injector = SharedPrompts(D, 3, depth)
    prompts = started(injector)["prompts"]
    mask = torch.cat([torch.zeros(3), torch.full((padding,), -1e9)])
    filled = F.pad(prompts, (0, 0, 0, padding))
    with torch.no_grad():
        found = tiny_backbone.model(
            images(), injector.sites({"prompts": filled, "prompts_mask": mask})
        )
    same(found, through(tiny_backbone, injector, {"prompts": prompts}, images()), atol=1e-5)


def test_the_order_of_the_rows_does_not_matter(tiny_backbone: Backbone) -> None:
    for depth in (None, DEPTH):
        injector = SharedPrompts(D, 4, depth)
        prompts = started(injector)["prompts"]
        one = through(tiny_backbone, injector, {"prompts": prompts}, images())
        other = through(tiny_backbone, injector, {"prompts": prompts.flip(-2)}, images())
        same(one, other, atol=1e-5)
