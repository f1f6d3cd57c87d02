"""Prefixes of keys and values: per task, shared, mixed; against naive attention."""

import copy

import pytest
import torch
from tests.edgecl.support import bank

from edgecl.backbones import Backbone, ViT
from edgecl.backbones.blocks import Attention, BlockItems
from edgecl.backbones.sites import Prefix
from edgecl.errors import MethodError
from edgecl.program.injectors import Joined, MixedPrefixes, SharedPrefix, TaskPrefixes
from edgecl.program.matchers import Match

D, TASKS, ROWS = 192, 3, 4


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


def matched(*tasks: int) -> Match:
    index = torch.tensor(tasks)[:, None]
    return Match(index, torch.ones(len(tasks), 1))


# -- the layout


def test_a_bank_is_mixed_by_weights_only() -> None:
    with pytest.raises(MethodError, match=r"got one that chooses\. Use AttendedKeys"):
        MixedPrefixes(D, (0,), ROWS).fill(matched(0), {"components": bank(1, 1, 2, ROWS, D)})


def test_every_image_gets_the_keys_and_values_of_its_task_at_every_block() -> None:
    injector = TaskPrefixes(D, (3, 7), ROWS)
    prefixes = bank(TASKS, 2, 2, ROWS, D)
    tasks = (2, 0, 1, 2)
    slots = injector.fill(matched(*tasks), {"task_prefixes": prefixes})
    sites = injector.sites(slots)
    assert [site.block for site in sites] == [3, 7]
    for position, site in enumerate(sites):
        assert isinstance(site, Prefix)
        assert site.mode == "concatenated"
        for image, task in enumerate(tasks):
            assert torch.equal(site.keys[image], prefixes[task, position, 0])
            assert torch.equal(site.values[image], prefixes[task, position, 1])


@pytest.mark.parametrize("mode", ["concatenated", "compensated", "residual"])
def test_a_prefix_does_what_naive_attention_does(mode: str) -> None:
    """One block, one image, one head, one query at a time."""
    torch.manual_seed(0)
    width, heads, tokens, rows = 8, 2, 5, 3
    attention = Attention(width, heads).double()
    x = bank(3, tokens, width, seed=1)
    prefixes = bank(TASKS, 1, 2, rows, width, seed=2)
    injector = TaskPrefixes(width, (0,), rows, mode)  # type: ignore[arg-type]
    tasks = (1, 2, 0)
    sites = injector.sites(injector.fill(matched(*tasks), {"task_prefixes": prefixes}))
    with torch.no_grad():
        got = attention(x, BlockItems(sites, 0), None)
        q, k, v = attention.qkv(x).chunk(3, dim=-1)
        want = torch.zeros(3, tokens, width, dtype=torch.float64)
        half = width // heads
        for image, task in enumerate(tasks):
            for head in range(heads):
                cut = slice(head * half, (head + 1) * half)
                learned_k, learned_v = (prefixes[task, 0, s][:, cut] for s in (0, 1))
                for token in range(tokens):
                    query = q[image, token, cut] / half**0.5
                    own = (k[image][:, cut] @ query).exp()
                    extra = (learned_k @ query).exp()
                    over_tokens = own @ v[image][:, cut]
                    over_prefix = extra @ learned_v
                    mass = own.sum() + extra.sum()
                    want[image, token, cut] = {
                        "concatenated": (over_tokens + over_prefix) / mass,
                        "compensated": over_tokens / mass + over_prefix / extra.sum(),
                        "residual": over_tokens / own.sum() + over_prefix / extra.sum(),
                    }[mode]
        torch.testing.assert_close(got, attention.proj(want), rtol=0, atol=1e-12)


def test_no_image_gets_a_prefix_of_another(vit: ViT) -> None:
    """Ports that reshape without a permutation fail here: images and kinds would mix."""
    injector = TaskPrefixes(D, (0, 1), ROWS)
    learned = {"task_prefixes": bank(TASKS, 2, 2, ROWS, D)}
    pixels, tasks = bank(4, 3, 32, 32, seed=3), (2, 0, 1, 1)
    with torch.no_grad():
        sites = injector.sites(injector.fill(matched(*tasks), learned))
        together = vit(pixels, sites)
        for image, task in enumerate(tasks):
            alone = injector.sites(injector.fill(matched(task), learned))
            single = vit(pixels[image : image + 1], alone)
            torch.testing.assert_close(single.cls[0], together.cls[image], rtol=0, atol=1e-10)
        other = injector.sites(injector.fill(matched(2, 0, 2, 1), learned))
        moved = (vit(pixels, other).cls - together.cls).abs().amax(dim=1) > 1e-3
        assert moved.tolist() == [False, False, True, False]


@pytest.mark.parametrize("mode", ["concatenated", "compensated"])
def test_masked_padding_leaves_no_trace(vit: ViT, mode: str) -> None:
    injector = TaskPrefixes(D, (1,), ROWS, mode)  # type: ignore[arg-type]
    pixels, rows = bank(2, 3, 32, 32), bank(2, 1, 2, 2, D, seed=4)
    padded = {
        "prefix": torch.cat([rows, torch.zeros(2, 1, 2, 2, D)], dim=3),
        "prefix_mask": torch.tensor([0, 0, -1e9, -1e9], dtype=torch.float64),
    }
    with torch.no_grad():
        short = vit(pixels, injector.sites({"prefix": rows})).cls
        assert (short - vit(pixels).cls).abs().max() > 1e-3
        torch.testing.assert_close(
            vit(pixels, injector.sites(padded)).cls, short, rtol=0, atol=1e-10
        )


def test_a_shared_prefix_is_one_for_all_images_and_joins_another(vit: ViT) -> None:
    shared, own = SharedPrefix(D, (0,), 3), TaskPrefixes(D, (1,), ROWS)
    both = Joined((shared, own))
    learned = {
        "shared_prefix": bank(1, 2, 3, D),
        "task_prefixes": bank(TASKS, 1, 2, ROWS, D, seed=1),
    }
    assert both.site == "prefix"
    assert both.declare().keys() == learned.keys()
    assert {name: slot.source for name, slot in both.slots().items()} == {
        "shared_prefix": "learned",
        "prefix": "match",
    }
    sites = both.sites(both.fill(matched(0, 2), learned))
    assert [(site.block, site.keys.shape) for site in sites if isinstance(site, Prefix)] == [
        (0, (3, D)),
        (1, (2, ROWS, D)),
    ]
    for slot in both.slots().values():
        assert slot.masked
    pixels = bank(2, 3, 32, 32)
    with torch.no_grad():
        each = [vit(pixels, (site,)).cls for site in sites]
        assert ((vit(pixels, sites).cls - each[0]).abs().max()) > 1e-3
        assert ((vit(pixels, sites).cls - each[1]).abs().max()) > 1e-3


# -- the mixture of CODA-Prompt


def test_the_mixture_by_hand() -> None:
    """Two components, two blocks, one row of keys and one of values of width 2."""
    components = torch.tensor([
        [[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]],
        [[[[10.0, 20.0]], [[30.0, 40.0]]], [[[50.0, 60.0]], [[70.0, 80.0]]]],
    ])  # m l s p d
    weights = torch.tensor([[[1.0, 0.1], [0.0, -1.0]], [[0.0, 0.0], [2.0, 0.0]]])  # b l m
    injector = MixedPrefixes(2, (0, 1), 1, components=2)
    match = Match(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), weights)
    first, second = injector.sites(injector.fill(match, {"components": components}))
    assert isinstance(first, Prefix)
    assert isinstance(second, Prefix)
    torch.testing.assert_close(first.keys, torch.tensor([[[2.0, 4.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(first.values, torch.tensor([[[6.0, 8.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(second.keys, torch.tensor([[[-50.0, -60.0]], [[10.0, 12.0]]]))
    torch.testing.assert_close(second.values, torch.tensor([[[-70.0, -80.0]], [[14.0, 16.0]]]))
