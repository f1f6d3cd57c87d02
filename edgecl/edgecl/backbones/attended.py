"""A prompt token that [CLS] makes in the middle of the pass, by attention over a bank of rows."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.sites import AttendedToken, Tokens

EPS = 1e-5  # of the norm before the attention, for every backbone
PADDING = -1e9  # added to the attention logits of what is hidden


def ask(item: AttendedToken, x: Float[Tensor, "b d"]) -> Tokens:
    """Return the token that an item makes of each [CLS], hidden if its bank is empty or padding."""
    made, _ = attended(item, x)
    rows = item.bank.new_zeros(item.bank.shape[0]) if item.mask is None else item.mask
    hidden = F.pad(rows, (1, 0), value=PADDING).amax(dim=0, keepdim=True)
    return Tokens(made.unsqueeze(1), item.block, mask=hidden)


def attended(
    item: AttendedToken, x: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "h b n"]]:
    """Return what an item makes of each [CLS], and its attention logits.

    These are of [CLS] itself, then of the rows of the bank. What the rows are as keys and values
    is no function of an image, and computed once for a batch. A row before them stands for [CLS]:
    ONNX Runtime 1.31 divides by the size of an empty product.
    """
    heads, root = item.heads, (x.shape[-1] // item.heads) ** -0.5
    weights, biases = item.weight.unbind(), item.bias.unbind()

    def layer(index: int, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return rows @ weights[index] + biases[index]

    def split(rows: Float[Tensor, "n d"]) -> Float[Tensor, "h n e"]:
        return rows.unflatten(-1, (heads, -1)).transpose(0, 1)

    entered = layer(1, F.gelu(layer(0, x)))
    asks = F.layer_norm(entered, x.shape[-1:], item.norm_scale, item.norm_shift, EPS)
    bank = F.pad(item.bank, (0, 0, 1, 0))
    query, keys, values = split(layer(2, asks)) * root, layer(3, bank), split(layer(4, bank))
    own = (query * split(layer(3, asks))).sum(dim=-1, keepdim=True)  # h b 1
    others = (query @ split(keys).transpose(1, 2))[..., 1:]  # h b m
    logits = torch.cat([own, others if item.mask is None else others + item.mask], dim=-1)
    share = logits.softmax(dim=-1) * root
    found = share @ values + share[..., :1] * (split(layer(4, asks)) - values[:, :1])
    joined = layer(5, found.transpose(0, 1).flatten(1))  # b d
    return layer(7, F.gelu(layer(6, joined))), logits
