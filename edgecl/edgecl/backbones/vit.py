"""One Vision Transformer with sites; timm, DINOv2 and open_clip towers are configurations of it.

Parameter names are timm's, so timm's files load as they are; `loaders.py` renames open_clip's.
Dosovitskiy et al., ICLR 2021, https://arxiv.org/abs/2010.11929. Nobody subclasses or copies this
file: what a method needs is a site (sites.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.attended import ask
from edgecl.backbones.blocks import BlockItems, Tower, TransformerConfig, per_image
from edgecl.backbones.sites import (
    AttendedToken,
    GeneratedTokens,
    Injection,
    Pixels,
    Projection,
    ScaleShift,
    Tokens,
)

GENERATED_EPS = 1e-6  # of the norm before generated tokens, for every backbone


@dataclass(frozen=True)
class ViTConfig(TransformerConfig):
    """The sizes of one tower; presets are data files."""

    image_size: int = 224  # pixels, square
    patch: int = 16  # pixels, square
    pre_norm: bool = False  # a norm before block 0 (CLIP's ln_pre)
    patch_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch:
            raise BackboneError(
                f"image_size must be a multiple of patch={self.patch}, got {self.image_size}. "
                f"Use {max(1, round(self.image_size / self.patch)) * self.patch}."
            )

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Return n, [CLS] and the patches."""
        return 1 + self.patches


class Features(NamedTuple):
    """What a backbone computes for its images.

    Where every image runs once per branch (injectors/branches.py) there is an axis t of branches.

    Attributes:
        cls: [CLS] after the final norm (and projection).
        prompt: the mean over the kept prompt tokens there, zeros if there are none.
        taps: [CLS] after each of the last k blocks, before the final norm, shallowest first; None
            where k is 0.
        tokens: all tokens after the last block, before the final norm: [CLS], the kept prompt
            tokens with zeros for padding, the patches; None where they are not asked for.
    """

    cls: Float[Tensor, "b *t d"]
    prompt: Float[Tensor, "b *t d"]
    taps: Float[Tensor, "b *t k w"] | None = None
    tokens: Float[Tensor, "b *t n w"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Apply a function to every tensor."""
        return Features(**{name: function(part) for name, part in self.named().items()})

    def select(self, which: Tensor | slice) -> "Features":
        """Return the features of some images."""
        return self.map(lambda part: part[which])

    def named(self) -> dict[str, Tensor]:
        """Return the tensors that are there."""
        return {name: part for name, part in self._asdict().items() if part is not None}


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch, bias=config.patch_bias)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # b n d


class Stem(NamedTuple):
    """What passes from block to block: [CLS], the kept prompt tokens, the patches."""

    x: Float[Tensor, "b n d"]
    weight: Float[Tensor, " p"] | None  # 1 for a kept prompt token, 0 for padding; None: no prompt
    bias: Float[Tensor, " n"] | None  # added to the attention logits of the keys

    def real(self) -> Float[Tensor, "b n d"]:
        """Return the tokens, with zeros for padding."""
        return self.x if self.bias is None else self.x * (self.bias == 0).to(self.x.dtype)[:, None]


def generate_tokens(item: GeneratedTokens, x: Float[Tensor, "b n d"]) -> Tokens:
    """Return the tokens that an item makes of those that enter its block."""

    def each(value: Float[Tensor, "*g d"]) -> Float[Tensor, "b 1 d"]:
        return per_image(value.unsqueeze(-2), x.shape[0])

    normed = F.layer_norm(x, x.shape[-1:], item.norm_scale, item.norm_shift, GENERATED_EPS)
    down = item.down @ normed + item.down_bias.unsqueeze(-1)  # b p d
    made = each(item.gamma) * down + each(item.beta)
    return Tokens(made, item.block, keep=False, mask=item.mask)


def add_pixels(pixels: Float[Tensor, "b 3 s s"], injection: Injection) -> Float[Tensor, "b 3 s s"]:
    """Add what an injection has for the image itself."""
    for item in injection:
        if isinstance(item, Pixels):
            rows = per_image(item.value.flatten(-2), pixels.shape[0])  # b 3 s*s
            pixels = pixels + rows.unflatten(-1, item.value.shape[-2:])
    return pixels


def without_prompts(stem: Stem) -> Float[Tensor, "b n d"]:
    """Return [CLS] and the patches, without prompts."""
    if stem.weight is None:
        return stem.x
    return torch.cat([stem.x[:, :1], stem.x[:, 1 + stem.weight.shape[0] :]], dim=1)


def mean_prompt(
    x: Float[Tensor, "b n d"], weight: Float[Tensor, " p"] | None
) -> Float[Tensor, "b d"]:
    """Return the mean over the kept prompt tokens, zeros if there are none.

    Without prompts nothing is cut from the tokens: TensorRT takes no tensor without elements.
    """
    if weight is None:
        return x[:, 0] - x[:, 0]
    prompts = x[:, 1 : 1 + weight.shape[0]]
    return (prompts * weight[:, None]).sum(dim=1) / weight.sum().clamp(min=1)


class ViT(Tower):
    """A Vision Transformer whose forward takes an injection.

    Takes normalised pixels [b, 3, s, s] and returns `Features`. Raises `BackboneError` for an
    injection into a block that does not exist, or for more taps than blocks.
    """

    sites = frozenset({
        "tokens",
        "prefix",
        "adapter",
        "lora",
        "scale_shift",
        "pixels",
        "projection",
    })

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.config = config
        d = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, d) * 0.02)
        self.patch_embed = PatchEmbed(config)
        self.norm_pre = nn.LayerNorm(d, eps=config.norm_eps) if config.pre_norm else nn.Identity()

    def forward(
        self,
        pixels: Float[Tensor, "b 3 s s"],
        injection: Injection = (),
        taps: int = 0,
        tokens: bool = False,
    ) -> Features:
        self._check(injection, taps)
        embedded = self.patch_embed(add_pixels(pixels, injection))
        patches = BlockItems(injection, None).scaled("patch", embedded)
        return self._run(0, self._stem(patches), injection, taps, tokens)

    def tokens_before(self, block: int, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        """Return the tokens that enter a block, without injection."""
        x = self._stem(self.patch_embed(pixels)).x
        for index in range(block):
            x = self.blocks[index](x, BlockItems((), index), None)
        return x

    def run_from(
        self,
        block: int,
        x: Float[Tensor, "b n d"],
        injection: Injection = (),
        taps: int = 0,
        tokens: bool = False,
    ) -> Features:
        """Run a block and those after it on what `tokens_before` returned for it.

        No item of the injection may enter an earlier block.
        """
        self._check(injection, taps)
        stem = Stem(x, weight=None, bias=None)
        return self._run(block, stem, injection, taps, tokens)

    def _run(
        self, first: int, stem: Stem, injection: Injection, taps: int, tokens: bool
    ) -> Features:
        outside = BlockItems(injection, None)
        tapped: list[Tensor] = []
        for index in range(first, len(self.blocks)):
            items = BlockItems(injection, index)
            inserted = items.of(Tokens)
            asked = [ask(item, stem.x[:, 0]) for item in items.of(AttendedToken)]
            carried = self._insert(stem, [*(item for item in inserted if item.keep), *asked])
            made = [
                generate_tokens(item, without_prompts(carried))
                for item in items.of(GeneratedTokens)
            ]
            only_here = [*(item for item in inserted if not item.keep), *made]
            stem = self._insert(carried, only_here)
            # After the last block only [CLS] and the prompts are computed, unless all tokens are
            # read; both cases use the same weights, so that all programs share them.
            unread = 0 if tokens else self.config.patches
            last = index == len(self.blocks) - 1
            length = stem.x.shape[1] - unread if last else None
            x = self.blocks[index](stem.x, items, stem.bias, length)
            if only_here:  # these tokens were for this block only
                dropped = stem.x.shape[1] - carried.x.shape[1]
                x = torch.cat([x[:, :1], x[:, 1 + dropped :]], dim=1)
            stem = carried._replace(x=x)
            if index >= len(self.blocks) - taps:
                tapped.append(x[:, 0])
        x = outside.scaled("norm", self.norm(stem.x))
        rows = x[:, 0], mean_prompt(x, stem.weight)
        cls, prompt = (outside.projected(row, self.project(row)) for row in rows)
        return Features(
            cls,
            prompt,
            torch.stack(tapped, dim=1) if tapped else None,
            stem.real() if tokens else None,
        )

    def _stem(self, patches: Float[Tensor, "b n d"]) -> Stem:
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        x = self.norm_pre(torch.cat([cls, patches], dim=1) + self.pos_embed)
        return Stem(x, weight=None, bias=None)

    def _insert(self, stem: Stem, items: Iterable[Tokens]) -> Stem:
        """Insert the items' tokens right after [CLS]; those of the first item come first."""
        for item in reversed(list(items)):
            value = item.value + self.pos_embed[0, :1] if item.positioned else item.value
            value = per_image(value, stem.x.shape[0]).to(stem.x.dtype)  # b p d
            bias = stem.bias
            if item.mask is not None or bias is not None:
                here = value.new_zeros(value.shape[1]) if item.mask is None else item.mask
                old = stem.x.new_zeros(stem.x.shape[1]) if bias is None else bias
                bias = torch.cat([old[:1], here, old[1:]])
            real = (
                value.new_ones(value.shape[1])
                if item.mask is None
                else (item.mask == 0).to(value.dtype)
            )
            x = torch.cat([stem.x[:, :1], value, stem.x[:, 1:]], dim=1)
            weight = real if stem.weight is None else torch.cat([real, stem.weight])
            stem = Stem(x, weight, bias)
        return stem

    def _check(self, injection: Injection, taps: int) -> None:
        if not 0 <= taps <= self.config.depth:
            raise BackboneError(
                f"taps must be in [0, {self.config.depth}], the number of blocks, got {taps}. "
                "Use a deeper backbone or fewer taps."
            )
        for item in injection:
            tokens = self.config.tokens
            if isinstance(item, GeneratedTokens) and item.down.shape[-1] != tokens:
                raise BackboneError(
                    f"Tokens are generated from {tokens} tokens here, [CLS] and the patches, got "
                    f"weights for {item.down.shape[-1]}. Train them at this image size."
                )
            side = self.config.image_size
            if isinstance(item, Pixels) and item.value.shape[-2:] != (side, side):
                raise BackboneError(
                    f"What is added to the pixels must have {side} x {side} of them here, got "
                    f"{tuple(item.value.shape[-2:])}. Train it at this image size."
                )
            outside = isinstance(item, Pixels | Projection) or (
                isinstance(item, ScaleShift) and item.point in {"patch", "norm"}
            )
            if outside != (item.block is None):
                raise BackboneError(
                    "Only pixels, projection and the points `patch` and `norm` are in no block, "
                    f"got {type(item).__name__} with block={item.block}. Name the block, or the "
                    "point."
                )
            if item.block is not None and not 0 <= item.block < self.config.depth:
                raise BackboneError(
                    f"An injection's block must be in [0, {self.config.depth}), got {item.block}. "
                    "Use a deeper backbone or another block."
                )
