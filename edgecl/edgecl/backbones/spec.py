"""The sizes and sites of a backbone, from which a method builds its program."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgecl.backbones.clip import Clip
from edgecl.backbones.loaders import Backbone


@dataclass(frozen=True)
class TextSpec:
    """The sizes of a CLIP's text tower."""

    width: int  # w, of a token between blocks
    depth: int  # blocks
    context_length: int  # tokens at most
    logit_scale: float  # the logarithm of the factor on the cosine
    digest: str  # of both towers


@dataclass(frozen=True)
class BackboneSpec:
    """The sizes and sites of a backbone."""

    feature_dim: int  # d, of the features
    depth: int  # blocks, 0 where there are no sites
    sites: frozenset[str]
    digest: str  # of the image tower
    inner: int | None = None  # w, of a token between blocks; None: `feature_dim`
    hidden: int | None = None  # of the MLPs; None: four times `width`
    tokens: int = 0  # n, [CLS] and the patches; 0 where there are no sites
    text: TextSpec | None = None  # of a CLIP
    side: int = 0  # s, pixels of an image's side; 0 where there are no sites

    @property
    def width(self) -> int:
        """Return w, the width of a token between blocks."""
        return self.inner or self.feature_dim

    @property
    def mlp(self) -> int:
        """Return the hidden width of the MLPs."""
        return self.hidden or 4 * self.width

    @property
    def weights_digest(self) -> str:
        """Return the digest of all weights, those of a text tower included."""
        return self.text.digest if self.text else self.digest

    @classmethod
    def of(cls, backbone: Backbone | Clip) -> "BackboneSpec":
        """Describe a loaded backbone, or both towers of a CLIP."""
        if isinstance(backbone, Clip):
            sizes = backbone.text.config
            text = TextSpec(
                sizes.width, sizes.depth, sizes.context_length, backbone.logit_scale,
                backbone.digest,
            )  # fmt: skip
            return replace(cls.of(backbone.visual), text=text)
        described = cls(backbone.width, 0, backbone.sites, backbone.digest)
        if (vit := backbone.vit) is None:
            return described
        inner = vit.width if vit.projection else None
        return replace(
            described,
            depth=vit.depth,
            inner=inner,
            hidden=vit.hidden,
            tokens=vit.tokens,
            side=vit.image_size,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "BackboneSpec":
        """Read what `to_json` returned."""
        text = value["text"]
        sizes = {**value, "sites": frozenset(value["sites"])}
        return cls(**{**sizes, "text": None if text is None else TextSpec(**text)})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sites": sorted(self.sites)}
