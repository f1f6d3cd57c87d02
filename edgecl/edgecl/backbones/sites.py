"""What may be injected into a backbone, and where: the sites.

A site is named for its place and never for a method. An injection is a tuple of items; all of them
apply, so two injections are combined by concatenating their tuples. A tensor without a leading axis
is shared by all images. With a leading axis of g, the batch is g runs of equal length and each run
has its own value: g is the batch size where every image has its own value, and the number of
branches where the batch is repeated for each of them.

Axis letters: b batch, g runs of it, n tokens, d width, h heads, e head width, r rank, p length of a
prompt or prefix, s pixels of an image's side, f width of the features, m rows of a bank.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

Target: TypeAlias = Literal["q", "k", "v", "proj", "fc1", "fc2"]
Point: TypeAlias = Literal["patch", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "norm"]


@dataclass(frozen=True)
class Tokens:
    """Site `tokens`: prompt tokens inserted right after [CLS] before a block.

    Attributes:
        value: the tokens, of the backbone's width.
        block: the block that they enter first.
        keep: they stay to the last block; else they are dropped after this one (VPT-deep).
        positioned: add the position embedding of [CLS] to them, as the PyTorch port of L2P does.
        mask: added to the attention logits of these tokens as keys: 0 for a token, -1e9 for
            padding (fixed slots).
    """

    value: Float[Tensor, "*g p d"]
    block: int = 0
    keep: bool = True
    positioned: bool = False
    mask: Float[Tensor, " p"] | None = None


@dataclass(frozen=True)
class GeneratedTokens:
    """Site `tokens`: prompt tokens made of those that enter the block, dropped after it.

    With x the n tokens before the block, [CLS] and the patches without any other prompt, the new
    tokens are gamma * (down LayerNorm(x) + down_bias) + beta: each is a weighted sum of tokens. The
    norm, with its scale and shift, and the weights are shared by all images.

    Attributes:
        mask: as in `Tokens`.
    """

    norm_scale: Float[Tensor, " d"]
    norm_shift: Float[Tensor, " d"]
    down: Float[Tensor, "p n"]
    down_bias: Float[Tensor, " p"]
    gamma: Float[Tensor, "*g d"]
    beta: Float[Tensor, "*g d"]
    block: int
    mask: Float[Tensor, " p"] | None = None


@dataclass(frozen=True)
class AttendedToken:
    """Site `tokens`: one prompt token that [CLS] makes by attention over a bank, kept to the end.

    With x the [CLS] that enters the block and L_i(y) = y weight_i + bias_i, it asks as
    u = LayerNorm(L_1(gelu(L_0(x)))): queries L_2(u) over the root of the head's width, keys
    L_3(r) and values L_4(r) of the rows r = [u; bank]. The softmax is once more over that root,
    and the token is L_7(gelu(L_6(L_5(attended)))). All images share all of it.

    Attributes:
        heads: of the attention.
        mask: added to the attention logits of the bank's rows: 0 for a row, -1e9 for padding.
    """

    weight: Float[Tensor, "8 d d"]
    bias: Float[Tensor, "8 d"]
    norm_scale: Float[Tensor, " d"]
    norm_shift: Float[Tensor, " d"]
    bank: Float[Tensor, "m d"]
    block: int
    heads: int = 4
    mask: Float[Tensor, " m"] | None = None


@dataclass(frozen=True)
class Prefix:
    """Site `prefix`: keys and values of one block's attention (they do not pass W_k, W_v).

    With A_x the attention over the tokens, A_p the attention over the prefix alone and m the
    softmax mass that a query gives to the prefix, the output before the output projection is
    `concatenated` (1-m) A_x + m A_p; `compensated` (1-m) A_x + A_p; `residual` A_x + weight A_p.

    Attributes:
        weight: per image, in mode `residual` only; None: 1.
        mask: as in `Tokens`; padded values must be zero.
    """

    keys: Float[Tensor, "*g p d"]
    values: Float[Tensor, "*g p d"]
    block: int
    mode: Literal["concatenated", "compensated", "residual"] = "concatenated"
    weight: Float[Tensor, " b"] | None = None
    mask: Float[Tensor, " p"] | None = None


@dataclass(frozen=True)
class Adapter:
    """Site `adapter`: scale * up(activation(down(x))) added to the output of a part of a block.

    Attributes:
        at: the part: the `mlp`, where x is the residual stream before norm2 (AdaptFormer), or the
            `attention`, where x is its input, the output of norm1 (LAE).
    """

    down: Float[Tensor, "*g d r"]
    down_bias: Float[Tensor, "*g r"]
    up: Float[Tensor, "*g r d"]
    up_bias: Float[Tensor, "*g d"]
    block: int
    scale: float = 1.0
    at: Literal["mlp", "attention"] = "mlp"
    activation: Literal["relu", "gelu"] = "relu"


@dataclass(frozen=True)
class Lora:
    """Site `lora`: x a b added to the output of one linear layer of a block, x being its input.

    A scale is multiplied into b beforehand. The widths i and o are those of the layer: d and d for
    `q`, `k`, `v` and `proj`, d and the MLP's hidden width for `fc1`, the reverse for `fc2`.
    """

    a: Float[Tensor, "*g i r"]
    b: Float[Tensor, "*g r o"]
    block: int
    target: Target


@dataclass(frozen=True)
class ScaleShift:
    """Site `scale_shift`: x * scale + shift after one operation (SSF).

    Attributes:
        point: the operation. `patch` and `norm` (the final one) are in no block. The width is that
            of its output: 3d for `qkv`, the MLP's hidden width for `fc1`, d elsewhere.
        block: None for `patch` and `norm`.
    """

    scale: Float[Tensor, "*g w"]
    shift: Float[Tensor, "*g w"]
    point: Point
    block: int | None = None


@dataclass(frozen=True)
class Pixels:
    """Site `pixels`: a value added to the image after its normalisation, before the patches.

    Attributes:
        value: in units of normalised pixels, that is of the preprocessing's standard deviations.
        block: it is in none.
    """

    value: Float[Tensor, "*g 3 s s"]
    block: None = None


@dataclass(frozen=True)
class Projection:
    """Site `projection`: x delta added to the features of a tower; zeros change nothing.

    x is what its projection reads, [CLS] or the mean over the prompt tokens after the final norm. A
    tower without a projection has x itself as its features.

    Attributes:
        block: None, as it is in no block.
    """

    delta: Float[Tensor, "*g w f"]
    block: None = None


Outside: TypeAlias = Pixels | Projection  # items of no block
Prompts: TypeAlias = Tokens | GeneratedTokens | AttendedToken  # items of the site `tokens`
SiteItem: TypeAlias = Prompts | Prefix | Adapter | Lora | ScaleShift | Outside
Injection: TypeAlias = tuple[SiteItem, ...]

SITE_NAMES: dict[type, str] = {
    Tokens: "tokens",
    GeneratedTokens: "tokens",
    AttendedToken: "tokens",
    Prefix: "prefix",
    Adapter: "adapter",
    Lora: "lora",
    ScaleShift: "scale_shift",
    Pixels: "pixels",
    Projection: "projection",
}
