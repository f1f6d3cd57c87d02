"""The modes of a prefix against naive attention."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgecl.backbones.blocks import Attention, BlockItems
from edgecl.backbones.sites import Prefix

Random = Callable[..., Tensor]


@pytest.fixture
def random() -> Random:
    generator = torch.Generator().manual_seed(7)
    return lambda *shape: 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def naive(
    attention: Attention, x: Tensor, keys: Tensor, values: Tensor, mode: str, weight: Tensor | None
) -> Tensor:
    """Return attention with a prefix, one softmax per image, head and query."""
    b, n, d = x.shape
    e = d // attention.heads
    q, k, v = (part.reshape(b, n, attention.heads, e) for part in attention.qkv(x).chunk(3, dim=-1))
    keys, values = (part.reshape(b, -1, attention.heads, e) for part in (keys, values))
    out = torch.zeros(b, n, attention.heads, e, dtype=x.dtype)
    for image in range(b):
        for head in range(attention.heads):
            for query in range(n):
                own = (k[image, :, head] @ q[image, query, head]) / e**0.5
                other = (keys[image, :, head] @ q[image, query, head]) / e**0.5
                both = torch.softmax(torch.cat([other, own]), dim=0)
                p = len(other)
                if mode == "concatenated":
                    both_values = torch.cat([values[image, :, head], v[image, :, head]])
                    mixed = both @ both_values
                else:
                    alone = torch.softmax(other, dim=0) @ values[image, :, head]
                    if mode == "compensated":
                        mixed = both[p:] @ v[image, :, head] + alone
                    else:
                        share = 1.0 if weight is None else weight[image]
                        mixed = torch.softmax(own, dim=0) @ v[image, :, head] + share * alone
                out[image, query, head] = mixed
    return attention.proj(out.reshape(b, n, d))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["concatenated", "compensated", "residual", "residual-weighted"])
def test_prefix_equals_naive_attention(random: Random, mode: str, shared: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(12, heads=2).double()
    b = 3
    x = 5 * random(b, 4, 12)
    keys, values = 5 * random(b, 2, 12), 5 * random(b, 2, 12)
    if shared:
        keys, values = keys[0], values[0]
    weight = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64) if "weighted" in mode else None
    mode = mode.partition("-")[0]
    prefix = Prefix(keys, values, 0, mode=mode, weight=weight)  # type: ignore[arg-type]
    expected = naive(attention, x, keys.expand(b, 2, 12), values.expand(b, 2, 12), mode, weight)
    torch.testing.assert_close(
        attention(x, BlockItems((prefix,), 0), None), expected, rtol=0, atol=1e-12
    )


def test_concatenated_weighs_tokens_and_prefix_by_their_softmax_mass(random: Random) -> None:
    """Mode by mode, the definitions of `Prefix`: (1-m) A_x + m A_p = compensated - (1-m) A_p."""
    torch.manual_seed(0)
    attention = Attention(12, heads=1).double()
    attention.proj = torch.nn.Identity()  # type: ignore[assignment]
    x, keys, values = random(1, 4, 12), random(2, 12), random(2, 12)
    zero = torch.zeros_like(values)

    def run(mode: str, values: Tensor) -> Tensor:
        return attention(x, BlockItems((Prefix(keys, values, 0, mode=mode),), 0), None)  # type: ignore[arg-type]

    tokens = run("concatenated", zero)  # (1-m) A_x
    torch.testing.assert_close(run("compensated", zero), tokens)
    plain = attention(x, BlockItems((), 0), None)
    prefix = run("residual", values) - plain  # A_p
    torch.testing.assert_close(run("compensated", values), tokens + prefix)
