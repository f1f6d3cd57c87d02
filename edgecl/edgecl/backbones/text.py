"""CLIP's text transformer with sites: the blocks are the ViT's, under a causal mask.

Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020. It runs on the workstation; a device
gets the embeddings of its class names as data.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.blocks import BlockItems, Tower, TransformerConfig, per_image
from edgecl.backbones.sites import SITE_NAMES, Injection


@dataclass(frozen=True)
class TextConfig(TransformerConfig):
    """The sizes of a text tower."""

    context_length: int = 77  # tokens at most, [SOS] and [EOT] among them
    vocab_size: int = 49408


class TextTower(Tower):
    """A text transformer whose forward takes an injection and a soft prompt.

    Takes tokens [b, n], of each text [EOT] the largest, and returns the feature of [EOT] after the
    final norm and the projection, not normalised. It is a function of that text alone; tokens after
    [EOT] change nothing. Raises `BackboneError` for an injection that it cannot take, or for more
    tokens than it has positions.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"prefix", "adapter", "lora", "scale_shift"})

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self.config = config
        d = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, d)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.pos_embed = nn.Parameter(torch.randn(config.context_length, d) * 0.01)

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        injection: Injection = (),
        context: Float[Tensor, "*g p d"] | None = None,
    ) -> Float[Tensor, "b f"]:
        """Encode texts.

        Args:
            tokens: as `Tokenizer` returns them.
            injection: of the sites `prefix`, `adapter`, `lora` and `scale_shift` in blocks. A
                residual prefix may have one weight per text (DIKI).
            context: a soft prompt: vectors of the tower's width between [SOS] and the text, whose
                tokens get later positions (CoOp, equation 3; Zhou et al., IJCV 2022,
                https://arxiv.org/abs/2109.01134); shared by all texts, or one for each.
        """
        x = self.token_embedding(tokens)
        end = tokens.argmax(dim=-1)  # b
        if context is not None:
            prompt = per_image(context, tokens.shape[0])
            x = torch.cat([x[:, :1], prompt, x[:, 1:]], dim=1)
            end = end + prompt.shape[1]
        n = x.shape[1]
        self._check(injection, x)
        x = x + self.pos_embed[:n]
        bias = x.new_full((n, n), float("-inf")).triu(1)  # of the keys after each query
        for index, block in enumerate(self.blocks):
            x = block(x, BlockItems(injection, index), bias)
        return self.project(self.norm(x[torch.arange(x.shape[0], device=x.device), end]))

    def _check(self, injection: Injection, x: Float[Tensor, "b n d"]) -> None:
        length = x.shape[1]
        if length > self.config.context_length:
            raise BackboneError(
                f"A text must have at most {self.config.context_length} tokens with its soft "
                f"prompt, got {length}. Shorten the text, or reserve the prompt's tokens: "
                "tokenizer(texts, reserve=TOKENS)."
            )
        for item in injection:
            name = SITE_NAMES[type(item)]
            if name not in self.sites:
                raise BackboneError(
                    f"A text tower has the sites {', '.join(sorted(self.sites))}, got `{name}`. "
                    "Tokens before a text are a soft prompt: give them as context."
                )
            if item.block is None or not 0 <= item.block < self.config.depth:
                raise BackboneError(
                    f"An injection's block must be in [0, {self.config.depth}), got {item.block}. "
                    "Use a deeper text tower or another block."
                )
