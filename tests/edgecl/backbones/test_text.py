"""The text tower against a naive transformer: soft prompts, prefixes, one text at a time."""

import copy
import math

import pytest
import torch
from torch import Tensor

from edgecl.backbones import BackboneError, TextConfig, TextTower
from edgecl.backbones.loaders import random_weights
from edgecl.backbones.sites import Adapter, Injection, Lora, Prefix, ScaleShift, Tokens

SOS, EOT = 30, 31
CONFIG = TextConfig(
    width=24,
    depth=3,
    heads=3,
    norm_eps=1e-5,
    activation="quick_gelu",
    projection=10,
    context_length=12,
    vocab_size=32,
)
TEXTS = ([5, 9], [7, 1, 2, 8, 4], [3])
D, P = CONFIG.width, 4


@pytest.fixture(scope="module")
def tower() -> TextTower:
    """Return a tower with random weights, in float64: then equal means equal."""
    tower = TextTower(CONFIG)
    shapes = {name: value.shape for name, value in tower.state_dict().items()}
    tower.load_state_dict(random_weights(shapes, seed=5))
    return tower.double().eval().requires_grad_(False)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens_of(*texts: list[int], length: int = 0) -> Tensor:
    """Return [SOS], each text, [EOT] and zeros up to the longest text or `length`."""
    ids = [[SOS, *text, EOT] for text in texts]
    length = max(length, *map(len, ids))
    return torch.tensor([text + [0] * (length - len(text)) for text in ids])


def naive(
    tower: TextTower, text: list[int], prefixes: dict[int, Prefix], context: Tensor | None = None
) -> Tensor:
    """Encode one text, query by query and head by head."""
    state, config = tower.state_dict(), tower.config
    x = torch.stack([state["token_embedding.weight"][token] for token in [SOS, *text, EOT]])
    if context is not None:
        x = torch.cat([x[:1], context, x[1:]])
    x = x + state["pos_embed"][: len(x)]
    e = D // config.heads

    def norm(part: Tensor, name: str) -> Tensor:
        centred = part - part.mean(dim=-1, keepdim=True)
        normed = centred / (centred.square().mean(dim=-1, keepdim=True) + config.norm_eps).sqrt()
        return normed * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(part: Tensor, name: str) -> Tensor:
        return part @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for block in range(config.depth):
        q, k, v = linear(norm(x, f"blocks.{block}.norm1"), f"blocks.{block}.attn.qkv").chunk(3, -1)
        out = torch.zeros_like(x)
        for i in range(len(x)):
            for head in range(config.heads):
                at = slice(head * e, (head + 1) * e)
                seen = slice(0, i + 1)  # causal
                logits = k[seen, at] @ q[i, at] / math.sqrt(e)
                out[i, at] = logits.softmax(0) @ v[seen, at]
                if block not in prefixes:
                    continue
                prefix = prefixes[block]
                of_prefix = prefix.keys[:, at] @ q[i, at] / math.sqrt(e)
                over_prefix = of_prefix.softmax(0) @ prefix.values[:, at]
                mass = of_prefix.exp().sum() / (of_prefix.exp().sum() + logits.exp().sum())
                if prefix.mode == "residual":
                    weight = 1.0 if prefix.weight is None else prefix.weight.item()
                    out[i, at] += weight * over_prefix
                elif prefix.mode == "compensated":
                    out[i, at] = (1 - mass) * out[i, at] + over_prefix
                else:
                    out[i, at] = (1 - mass) * out[i, at] + mass * over_prefix
        x = x + linear(out, f"blocks.{block}.attn.proj")
        hidden = linear(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"blocks.{block}.mlp.fc2")
    return norm(x[-1], "norm") @ state["projection"]


def check(found: Tensor, expected: list[Tensor]) -> None:
    assert float(torch.stack(expected).std(dim=0).mean()) > 1e-2  # the texts differ
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-10)


# Against a naive transformer


def test_plain(tower: TextTower) -> None:
    check(tower(tokens_of(*TEXTS)), [naive(tower, text, {}) for text in TEXTS])


def test_a_shared_soft_prompt(tower: TextTower) -> None:
    context = rows(P, D)
    expected = [naive(tower, text, {}, context) for text in TEXTS]
    check(tower(tokens_of(*TEXTS), (), context), expected)


def test_a_soft_prompt_of_each_text(tower: TextTower) -> None:
    context = rows(len(TEXTS), P, D)
    expected = [naive(tower, text, {}, own) for text, own in zip(TEXTS, context, strict=True)]
    check(tower(tokens_of(*TEXTS), (), context), expected)


def test_the_embedding_of_words_as_soft_prompt_is_the_text_with_these_words(
    tower: TextTower,
) -> None:
    words = tower.token_embedding(torch.tensor([6, 11]))
    left = tower(tokens_of(*TEXTS), (), words)
    right = tower(tokens_of(*([6, 11, *text] for text in TEXTS)))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["residual", "compensated", "concatenated"])
def test_a_shared_prefix(tower: TextTower, mode: str) -> None:
    injection = [
        Prefix(rows(P, D, seed=block), rows(P, D, seed=9 + block), block, mode)  # type: ignore[arg-type]
        for block in (0, 2)
    ]
    prefixes = {item.block: item for item in injection}
    expected = [naive(tower, text, prefixes) for text in TEXTS]
    check(tower(tokens_of(*TEXTS), tuple(injection)), expected)


def test_a_padded_prefix_under_the_causal_mask(tower: TextTower) -> None:
    keys, values = rows(P, D), rows(P, D, seed=1)
    plain = tower(tokens_of(*TEXTS), (Prefix(keys, values, 1),))
    pad = torch.zeros(2, D, dtype=torch.float64)
    mask = torch.tensor([0.0] * P + [-1e9] * 2, dtype=torch.float64)
    padded = Prefix(torch.cat([keys, pad]), torch.cat([values, pad]), 1, mask=mask)
    torch.testing.assert_close(tower(tokens_of(*TEXTS), (padded,)), plain, rtol=0, atol=1e-12)


def test_a_residual_prefix_of_each_text_with_a_weight_of_each(tower: TextTower) -> None:
    weight = torch.tensor([0.2, 0.0, 0.7], dtype=torch.float64)
    keys, values = rows(2, len(TEXTS), P, D), rows(2, len(TEXTS), P, D, seed=1)
    injection = tuple(
        Prefix(keys[block], values[block], block, "residual", weight) for block in (0, 1)
    )
    expected = []
    for index, text in enumerate(TEXTS):
        at = slice(index, index + 1)
        own = {
            block: Prefix(keys[block, index], values[block, index], block, "residual", weight[at])
            for block in (0, 1)
        }
        expected.append(naive(tower, text, own))
    found = tower(tokens_of(*TEXTS), injection)
    check(found, expected)
    torch.testing.assert_close(found[1], tower(tokens_of(TEXTS[1]))[0], rtol=0, atol=1e-12)


def test_a_soft_prompt_and_a_prefix_together(tower: TextTower) -> None:
    context, prefix = rows(P, D), Prefix(rows(2, D), rows(2, D, seed=1), 1, "residual")
    expected = [naive(tower, text, {1: prefix}, context) for text in TEXTS]
    check(tower(tokens_of(*TEXTS), (prefix,), context), expected)


# Neutral injections and gradients


def test_residual_prefixes_with_zero_values_change_nothing(tower: TextTower) -> None:
    tower = copy.deepcopy(tower).float()
    plain = tower(tokens_of(*TEXTS))
    keys = rows(P, D).float()
    injection = tuple(
        Prefix(keys, torch.zeros(P, D), block, "residual", torch.full((3,), 0.7))
        for block in range(CONFIG.depth)
    )
    torch.testing.assert_close(tower(tokens_of(*TEXTS), injection), plain, rtol=0, atol=1e-6)


def test_every_kind_of_item_acts_and_gets_a_gradient(tower: TextTower) -> None:
    def leaf(*shape: int) -> Tensor:
        return rows(*shape).requires_grad_()

    plain = tower(tokens_of(*TEXTS))
    items: list[Injection] = [
        (Prefix(leaf(P, D), leaf(P, D), 0),),
        (Lora(leaf(D, 2), leaf(2, 4 * D), 1, "fc1"),),
        (Adapter(leaf(D, 2), leaf(2), leaf(2, D), leaf(D), 2),),
        (ScaleShift(leaf(3 * D), leaf(3 * D), "qkv", 0),),
    ]
    for injection in items:
        found = tower(tokens_of(*TEXTS), injection)
        assert (found - plain).abs().max().item() > 1e-3
        leaves = [part for part in vars(injection[0]).values() if isinstance(part, Tensor)]
        gradients = torch.autograd.grad(found.square().sum(), leaves)
        assert all(gradient.abs().max().item() > 0 for gradient in gradients)


# Every text alone


@pytest.mark.parametrize("prompted", [False, True])
def test_a_text_alone_is_the_text_in_a_batch(tower: TextTower, prompted: bool) -> None:
    context = rows(len(TEXTS), P, D) if prompted else None
    together = tower(tokens_of(*TEXTS, length=8), (), context)
    for index, text in enumerate(TEXTS):
        own = None if context is None else context[index]
        alone = tower(tokens_of(text), (), own)
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-12)


def test_what_follows_the_end_changes_nothing(tower: TextTower) -> None:
    tokens = tokens_of([5, 9], length=7)
    other = tokens.clone()
    other[:, 5:] = 17
    torch.testing.assert_close(tower(other), tower(tokens), rtol=0, atol=1e-12)


# Errors


@pytest.mark.parametrize(
    ("injection", "action"),
    [
        ((Tokens(torch.zeros(2, D)),), "give them as context"),
        ((ScaleShift(torch.ones(D), torch.zeros(D), "norm"),), "Use a deeper text tower"),
        ((Lora(torch.zeros(D, 1), torch.zeros(1, D), 3, "q"),), r"\[0, 3\), got 3. Use a deeper"),
    ],
)
def test_an_injection_that_it_cannot_take(
    tower: TextTower, injection: Injection, action: str
) -> None:
    with pytest.raises(BackboneError, match=action):
        tower(tokens_of(*TEXTS), injection)


def test_more_tokens_than_positions(tower: TextTower) -> None:
    tower(tokens_of([1], length=8), (), rows(4, D))
    with pytest.raises(BackboneError, match=r"at most 12 .* got 13. .*reserve=TOKENS"):
        tower(tokens_of([1], length=8), (), rows(5, D))


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(BackboneError, match="Mend the preset"):
        TextConfig(width=10, heads=3)


def test_without_a_projection_the_feature_is_as_wide_as_a_token() -> None:
    tower = TextTower(TextConfig(width=8, depth=1, heads=2, vocab_size=32, context_length=5))
    assert tower.width == 8
    assert tower(tokens_of([1])).shape == (1, 8)
