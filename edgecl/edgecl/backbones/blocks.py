"""Transformer blocks with sites, and the tower that the image and the text encoder are built on.

Parameter names are timm's. What a method needs is a site (sites.py); nobody subclasses a block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.sites import Adapter, Injection, Lora, Prefix, Projection, ScaleShift

ItemT = TypeVar("ItemT")
Length: TypeAlias = int | torch.SymInt  # symbolic while a graph is traced
ADAPTER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a stack of blocks, whatever its tokens are."""

    width: int = 768  # d
    depth: int = 12  # blocks
    heads: int = 12  # h
    mlp_ratio: float = 4.0  # hidden width of the MLP over d
    layer_scale: bool = False  # DINOv2's LayerScale after attention and MLP
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-6
    projection: int | None = None  # width of CLIP's joint space

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BackboneError(
                f"width must be a multiple of heads={self.heads}, got {self.width}. "
                "Mend the preset."
            )

    @property
    def hidden(self) -> int:
        """Return the hidden width of the MLPs."""
        return int(self.width * self.mlp_ratio)


class BlockItems:
    """The items of an injection for one block (None: those in no block)."""

    def __init__(self, injection: Injection, block: int | None):
        self._items = [item for item in injection if item.block == block]

    def of(self, kind: type[ItemT]) -> list[ItemT]:
        return [item for item in self._items if isinstance(item, kind)]

    def scaled(self, point: str, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        for item in self.of(ScaleShift):
            if item.point == point:
                x = scale_shift(x, item.scale, item.shift)
        return x

    def added(
        self, target: str, x: Float[Tensor, "b n i"], out: Float[Tensor, "b n o"]
    ) -> Float[Tensor, "b n o"]:
        """Add the low-rank terms of a linear layer to its output for x."""
        for item in self.of(Lora):
            if item.target == target:
                out = out + linear(linear(x, item.a), item.b)
        return out

    def adapted(
        self, at: str, x: Float[Tensor, "b n d"], out: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b n d"]:
        """Add the outputs of the adapters at one part of the block to the part's output."""
        for item in self.of(Adapter):
            if item.at == at:
                hidden = ADAPTER_ACTIVATIONS[item.activation](linear(x, item.down, item.down_bias))
                out = out + item.scale * linear(hidden, item.up, item.up_bias)
        return out

    def projected(self, x: Float[Tensor, "b d"], out: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """Add what is learned of the projection to its output for x."""
        for item in self.of(Projection):
            out = out + linear(x.unsqueeze(1), item.delta).squeeze(1)
        return out


def per_image(value: Float[Tensor, "*g p d"], batch: Length) -> Float[Tensor, "b p d"]:
    """Give every image of the batch its value: the shared one, its own, or that of its run."""
    value = value if value.ndim == 3 else value.unsqueeze(0)
    runs = value.shape[0]
    return value.unsqueeze(1).expand(-1, batch // runs, -1, -1).flatten(0, 1)  # b p d


def linear(
    x: Float[Tensor, "b n d"],
    weight: Float[Tensor, "*g d r"],
    bias: Float[Tensor, "*g r"] | None = None,
) -> Float[Tensor, "b n r"]:
    """Multiply by the shared weight, by each image's own, or by that of its run, without a copy."""
    b, n, d = x.shape
    runs = x if weight.ndim == 2 else x.reshape(weight.shape[0], -1, d)  # g b/g*n d
    out = runs @ weight
    out = out if bias is None else out + bias.unsqueeze(-2)
    return out if weight.ndim == 2 else out.reshape(b, n, -1)


def scale_shift(
    x: Float[Tensor, "b n w"], scale: Float[Tensor, "*g w"], shift: Float[Tensor, "*g w"]
) -> Float[Tensor, "b n w"]:
    """Return x * scale + shift; both are shared, each image's own, or those of its run."""
    if scale.ndim == 1:
        return x * scale + shift
    runs = x.reshape(scale.shape[0], -1, x.shape[-1])  # g b/g*n w
    return (runs * scale.unsqueeze(-2) + shift.unsqueeze(-2)).reshape(x.shape)


class LayerScale(nn.Module):
    """Touvron et al., ICCV 2021, https://arxiv.org/abs/2103.17239."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gamma


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with the sites `prefix`, `lora` and `scale_shift`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        items: BlockItems,
        bias: Float[Tensor, "*q n"] | None,
        length: Length | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Attend from the first `length` tokens (None: from all) to all tokens."""
        parts = dict(zip("qkv", self._project(x, length), strict=True))
        for name, part in parts.items():
            parts[name] = items.added(name, x[:, :length] if name == "q" else x, part)
        for item in items.of(ScaleShift):
            if item.point == "qkv":
                factors = zip(item.scale.chunk(3, dim=-1), item.shift.chunk(3, dim=-1), strict=True)
                for name, (scale, shift) in zip("qkv", factors, strict=True):
                    parts[name] = scale_shift(parts[name], scale, shift)
        q, k, v = (self._split(part) for part in parts.values())
        out = self._attend(q, k, v, items.of(Prefix), bias)
        out = out.transpose(1, 2).flatten(2)  # b m d
        return items.scaled("proj", items.added("proj", out, self.proj(out)))

    def _project(self, x: Float[Tensor, "b n d"], length: Length | None) -> tuple[Tensor, ...]:
        """Return the queries of the first `length` tokens and the keys and values of all."""
        if length is None:
            return self.qkv(x).chunk(3, dim=-1)
        d = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = F.linear(x[:, :length], weight[:d], bias[:d])
        return queries, *F.linear(x, weight[d:], bias[d:]).chunk(2, dim=-1)

    def _split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n e"]:
        b, n, d = x.shape
        return x.reshape(b, n, self.heads, d // self.heads).transpose(1, 2)  # b h n e

    def _per_head(self, value: Float[Tensor, "*g p d"], batch: Length) -> Float[Tensor, "b h p e"]:
        return self._split(per_image(value, batch))

    def _attend(
        self,
        q: Float[Tensor, "b h m e"],
        k: Float[Tensor, "b h n e"],
        v: Float[Tensor, "b h n e"],
        prefixes: list[Prefix],
        bias: Float[Tensor, "*q n"] | None,
    ) -> Float[Tensor, "b h m e"]:
        """Attend to the tokens and to the prefix, combined by the prefix's mode (see `Prefix`).

        Raises:
            BackboneError: a block has more than one prefix.
        """
        if not prefixes:
            return softmax_attention(q, k, v, bias)
        if len(prefixes) > 1:
            raise BackboneError(
                f"A block takes one prefix, got {len(prefixes)} at block {prefixes[0].block}. "
                "Concatenate their keys and values, or use different blocks."
            )
        prefix = prefixes[0]
        pk, pv = (self._per_head(part, q.shape[0]) for part in (prefix.keys, prefix.values))
        if prefix.mode == "concatenated":
            return softmax_attention(
                q,
                torch.cat([pk, k], dim=2),
                torch.cat([pv, v], dim=2),
                joined_bias(prefix.mask, pk.shape[2], bias, k.shape[2], like=q),
            )
        over_tokens = softmax_attention(q, k, v, bias)
        over_prefix = softmax_attention(q, pk, pv, prefix.mask)
        if prefix.mode == "residual":
            if prefix.weight is not None:
                over_prefix = prefix.weight[:, None, None, None] * over_prefix
            return over_tokens + over_prefix
        mass_of_tokens = torch.sigmoid(log_mass(q, k, bias) - log_mass(q, pk, prefix.mask))
        return mass_of_tokens.unsqueeze(-1) * over_tokens + over_prefix


def softmax_attention(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    bias: Float[Tensor, "*q m"] | None,
) -> Float[Tensor, "b h n e"]:
    """Attend; the bias is added to the logits, per key or per query and key."""
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return unfused_attention(q, k, v, bias)
    # The mask is expanded over the queries: ONNX Runtime's Attention refuses a query axis of one.
    mask = None if bias is None else bias.expand(q.shape[2], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def unfused_attention(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    bias: Float[Tensor, "*q m"] | None,
) -> Float[Tensor, "b h n e"]:
    """Attend in bfloat16, operation by operation.

    On a CPU, PyTorch's fused kernel takes about six times as long, most of it in the backward pass.
    """
    low = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):  # its softmax is in float32, at twice the memory
        q, k, v = (part.to(low) for part in (q * q.shape[-1] ** -0.5, k, v))
        logits = q @ k.transpose(-1, -2)
        logits = logits if bias is None else logits + bias.to(low)
        return logits.softmax(dim=-1) @ v


def log_mass(
    q: Float[Tensor, "b h n e"], k: Float[Tensor, "b h m e"], bias: Float[Tensor, "*q m"] | None
) -> Float[Tensor, "b h n"]:
    """Return the logarithm of each query's sum of exponentiated logits over these keys."""
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.logsumexp(logits if bias is None else logits + bias, dim=-1)


def joined_bias(
    first: Float[Tensor, " p"] | None,
    first_length: Length,
    second: Float[Tensor, "*q n"] | None,
    second_length: Length,
    like: Tensor,
) -> Float[Tensor, "*q m"] | None:
    """Concatenate two biases of keys; None is zero."""
    if first is None and second is None:
        return None
    first = like.new_zeros(first_length) if first is None else first
    second = like.new_zeros(second_length) if second is None else second
    if second.ndim > 1:  # per query
        first = first.expand(*second.shape[:-1], -1)
    return torch.cat([first, second], dim=-1)


class Mlp(nn.Module):
    """Two linear layers with the sites `lora` and `scale_shift`."""

    def __init__(self, width: int, hidden: int, activation: str):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU() if activation == "gelu" else QuickGELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"], items: BlockItems) -> Float[Tensor, "b n d"]:
        x = self.act(items.scaled("fc1", items.added("fc1", x, self.fc1(x))))
        return items.scaled("fc2", items.added("fc2", x, self.fc2(x)))


class Block(nn.Module):
    """A pre-norm transformer block with its sites."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn = Attention(width, config.heads)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = Mlp(width, config.hidden, config.activation)
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        items: BlockItems,
        bias: Float[Tensor, "*q n"] | None,
        length: Length | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Return the first `length` tokens after the block, all where it is None."""
        inner = items.scaled("norm1", self.norm1(x))
        out = self.ls1(self.attn(inner, items, bias, length))
        x = x[:, :length] + items.adapted("attention", inner[:, :length], out)
        out = self.ls2(self.mlp(items.scaled("norm2", self.norm2(x)), items))
        return x + items.adapted("mlp", x, out)


class Tower(nn.Module):
    """Blocks, the final norm and, for CLIP, the projection into the joint space."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        d = config.width
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.projection = (
            nn.Parameter(torch.randn(d, config.projection) * d**-0.5) if config.projection else None
        )
        self.width = config.projection or d  # of the features

    def project(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Map features into the joint space, if there is one."""
        return x if self.projection is None else x @ self.projection
