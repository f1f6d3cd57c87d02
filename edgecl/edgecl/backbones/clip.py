"""A CLIP: an image tower, a text tower, its tokenizer and the temperature of their cosine.

Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._libraries import import_open_clip
from edgecl.backbones._open_clip import text_config
from edgecl.backbones.digest import Identity, fingerprints
from edgecl.backbones.loaders import (
    Backbone,
    choose_source,
    find_preset,
    load_backbone,
    random_weights,
)
from edgecl.backbones.rounding import read_weights
from edgecl.backbones.sources import Blueprint
from edgecl.backbones.sources.checkpoint import check_shapes
from edgecl.backbones.text import TextTower
from edgecl_deploy.manifest.canonical import canonical, digest

TEMPLATES = ("a photo of a {}.",)
START_SCALE = math.log(1 / 0.07)  # of the temperature, before CLIP is trained


@dataclass(frozen=True)
class Tokenizer:
    """CLIP's byte-pair encoding as open_clip has it, which needs no network."""

    context_length: int  # tokens at most

    def __call__(self, texts: Sequence[str], reserve: int = 0) -> Int[Tensor, "b n"]:
        """Return [SOS], the text's tokens, [EOT] and zeros up to the length of the longest text.

        Args:
            texts: at least one.
            reserve: tokens to leave free for a soft prompt that is inserted later.

        Raises:
            BackboneError: a text is too long; open_clip would cut it.
        """
        limit = self.context_length - reserve
        # With one token more than is allowed, a text that open_clip cut is too long.
        tokens: Tensor = import_open_clip().tokenize(list(texts), max(limit, 1) + 1)
        ends = tokens.argmax(dim=-1)  # b
        longest = int(ends.max())
        if longest >= limit:
            raise BackboneError(
                f"A text must have at most {limit} tokens with [SOS] and [EOT], got "
                f"{texts[int(ends.argmax())]!r}. Shorten the class name, the template or the soft "
                "prompt."
            )
        inside = (tokens == int(tokens.max())).sum(dim=-1) > 1  # b
        if bool(inside.any()):
            raise BackboneError(
                f"A text must not hold <end_of_text>, got {texts[int(inside.int().argmax())]!r}: "
                "CLIP reads nothing after it. Change the class name or the template."
            )
        return tokens[:, : longest + 1]

    def merges(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of the encoding, the first to be merged first."""
        return tuple(import_open_clip().SimpleTokenizer().bpe_ranks)


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP and what identifies it.

    Attributes:
        text: in eval mode, without gradients.
        logit_scale: the logarithm of the factor on the cosine (100 in OpenAI's).
        identity: of the text tower and the temperature.
        spec: as JSON; `load_clip(**spec)` loads the same again.
        templates: texts in which it was trained to read class names, with {} for the name.
    """

    name: str
    visual: Backbone
    text: TextTower
    tokenizer: Tokenizer
    logit_scale: float
    identity: Identity
    spec: dict[str, Any]
    templates: tuple[str, ...] = TEMPLATES

    @cached_property
    def digest(self) -> str:
        """Return the sha256 over both towers; packs name `visual.digest`, a device has no text."""
        text = {"weights": self.identity.weights, "config": self.identity.config}
        return digest(canonical({"visual": self.visual.digest, "text": text}))

    def with_window(self, window: tuple[float, float]) -> "Clip":
        """Return the same with a window of levels for images of more than 8 bits."""
        visual = self.visual.with_window(window)
        return replace(self, visual=visual, spec={**self.spec, "window": list(window)})

    @torch.no_grad()
    def encode_text(
        self,
        names: Sequence[str],
        templates: Sequence[str] | None = None,
        batch_size: int = 256,
    ) -> Float[Tensor, "c f"]:
        """Return one embedding of norm 1 for each class name.

        It is the mean over the templates of their normalised embeddings, normalised again.

        Args:
            templates: texts with {} for the name, instead of the CLIP's own.

        Raises:
            BackboneError: there are no names or templates, or a template has no {}.
        """
        templates = self.templates if templates is None else templates
        if not names or not templates or not all("{}" in template for template in templates):
            raise BackboneError(
                "Class names and templates must be given, and every template must hold {} for the "
                f"name, got {len(names)} names and the templates {list(templates)}. "
                f"Give templates such as {TEMPLATES[0]!r}."
            )
        texts = [template.replace("{}", name) for name in names for template in templates]
        device = self.text.pos_embed.device
        of_texts = torch.cat([
            self.text(self.tokenizer(texts[at : at + batch_size]).to(device))
            for at in range(0, len(texts), batch_size)
        ])
        per_name = F.normalize(of_texts, dim=-1).unflatten(0, (len(names), len(templates)))  # c t f
        return F.normalize(per_name.mean(dim=1), dim=-1)


def load_clip(
    name: str = "clip-b32",
    *,
    weights: Path | str | None = None,
    image_size: int | None = None,
    tag: str | None = None,
    random_seed: int | None = None,
    fit: str | None = None,
    window: Sequence[float] | None = None,
    background: Sequence[int] | None = None,
    decode: str | None = None,
    pixels: str | Mapping[str, Any] | None = None,
) -> Clip:
    """Load a CLIP whose towers are a plain ViT and CLIP's own text transformer.

    Any other model, and weights that cannot be loaded or do not fit, are a `BackboneError`.

    Args:
        name: `edgecl-clip-s` (needs no hub), `clip-b32`, `clip-b16`, `open_clip:MODEL[/TAG]`,
            or a JSON file in open_clip's format.
        weights: a safetensors file or torch checkpoint of the whole model under open_clip's names,
            instead of the hub's; with `int8` as in `load_backbone`, the text tower stays as it is.
        image_size: pixels, as in `load_backbone`.
        tag: other weights of the model.
        random_seed: random weights, for tests and benchmarks.
        fit: as in `load_backbone`.
        window: as in `load_backbone`.
        background: as in `load_backbone`.
        decode: as in `load_backbone`.
        pixels: as in `load_backbone`.
    """
    preset = find_preset(name, tag)
    config = text_config(preset)
    visual = load_backbone(
        name, weights=weights, image_size=image_size, tag=tag, random_seed=random_seed,
        fit=fit, window=window, background=background, decode=decode, pixels=pixels,
    )  # fmt: skip
    with torch.device("meta"):  # takes no memory and no random numbers
        text = TextTower(config)
    source = choose_source(preset, read_weights(weights)[0], random_seed)
    blueprint = text_blueprint(text)
    tensors = source.text_tower(blueprint)
    check_shapes(tensors, blueprint.shapes, f"the text tower in {source.where}")
    identity = Identity(fingerprints(tensors), dict(vars(config)))
    logit_scale = float(tensors.pop("logit_scale"))
    text.load_state_dict(tensors, assign=True)
    return Clip(
        name=visual.name,
        visual=visual,
        text=text.eval().requires_grad_(False),
        tokenizer=Tokenizer(config.context_length),
        logit_scale=logit_scale,
        identity=identity,
        spec={key: value for key, value in visual.spec.items() if key != "depth"},
        templates=preset.templates or TEMPLATES,
    )


def text_blueprint(text: TextTower) -> Blueprint:
    """Return the tensors that a text tower needs, and the temperature."""
    shapes = {name: tensor.shape for name, tensor in text.state_dict().items()}
    shapes["logit_scale"] = torch.Size()

    def initial(seed: int) -> dict[str, Tensor]:
        return random_weights(shapes, seed) | {"logit_scale": torch.tensor(START_SCALE)}

    return Blueprint(shapes, initial)
