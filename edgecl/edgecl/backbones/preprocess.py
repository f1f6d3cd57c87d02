"""From a decoded image to the square of bytes that a program takes, and to normalised pixels.

The device has the same definition (`edgecl_deploy.preprocess`); a test compares the two bit for
bit. Normalisation is part of the exported graph.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from edgecl.backbones._errors import BackboneError

ValueT = TypeVar("ValueT")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
MAX_RESIZED_PIXELS = 50_000_000  # of one image after the resize: 150 MB, aspect 4,000 at 112 px


@dataclass(frozen=True)
class Preprocess:
    """Rotate upright, lay on a background, resize the shorter side, crop the centre.

    It is part of a backbone's digest.
    """

    size: int = 224  # pixels, side of the square that is cropped
    resize: int = 224  # pixels, the shorter side before the crop
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background: tuple[int, int, int] = (255, 255, 255)  # RGB bytes under transparent pixels

    def __post_init__(self) -> None:
        _check(vars(self))

    def to_json(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "background": list(self.background),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Preprocess":
        """Read what `to_json` returned.

        Raises:
            BackboneError: a key is unknown or missing, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise BackboneError(
                f"preprocessing must have the keys {sorted(known)}, got {sorted(data)}. "
                "Mend the preset or the JSON that it came from."
            )
        _check(data)
        return cls(
            size=data["size"],
            resize=data["resize"],
            interpolation=data["interpolation"],
            mean=_three(float, data["mean"]),
            std=_three(float, data["std"]),
            background=_three(int, data["background"]),
        )

    def at(self, image_size: int) -> "Preprocess":
        """Return the same for another crop size; `resize` changes in proportion."""
        resize = round(self.resize * image_size / self.size)
        return replace(self, size=image_size, resize=resize)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image as bytes [h, w, 3] with h = w = size.

        Raises:
            BackboneError: the image is so elongated that the resized one takes more than 150 MB.
        """
        rgb = to_rgb(image, self.background)
        short, long = min(rgb.size), max(rgb.size)
        resized_long = round(long * self.resize / short)
        if resized_long * self.resize > MAX_RESIZED_PIXELS:
            raise BackboneError(
                f"An image may have at most {MAX_RESIZED_PIXELS} pixels once its shorter side is "
                f"{self.resize}, got "
                f"{rgb.width} x {rgb.height} pixels. Crop the image."
            )
        portrait = rgb.width <= rgb.height
        shape = (self.resize, resized_long) if portrait else (resized_long, self.resize)
        rgb = rgb.resize(shape, INTERPOLATIONS[self.interpolation])
        left, top = (rgb.width - self.size) // 2, (rgb.height - self.size) // 2
        rgb = rgb.crop((left, top, left + self.size, top + self.size))
        return np.array(rgb, dtype=np.uint8)  # h w 3

    def normalise(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Return (x / 255 - mean) / std, channels first; every exported graph begins with it."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device)
        return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)  # b 3 h w


def declared_preprocess(
    size: int, resize: int, interpolation: str, mean: Any, std: Any
) -> Preprocess:
    """Build the preprocessing that a hub declares, on a white background.

    timm's `random` and other filters of its training recipes become bicubic, as in its validation.
    """
    return Preprocess.from_json({
        "size": size,
        "resize": resize,
        "interpolation": interpolation if interpolation in INTERPOLATIONS else "bicubic",
        "mean": mean,
        "std": std,
        "background": [255, 255, 255],
    })


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return an image of any mode upright and in RGB; transparent pixels show the background."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        front = image.convert("RGBA")
        back = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(back, front).convert("RGB")
    if image.mode == "I" or image.mode.startswith(
        "I;16"
    ):  # 16-bit grey; Pillow's own conversion clips
        levels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _check(values: Mapping[str, Any]) -> None:
    """Check the fields, which may come from JSON.

    Raises:
        BackboneError: a field breaks its rule.
    """
    size, resize, background = values["size"], values["resize"], values["background"]
    rules = {
        "1 <= size <= resize in whole pixels": type(size) is int is type(resize)
        and 1 <= size <= resize,
        f"interpolation one of {', '.join(INTERPOLATIONS)}": values["interpolation"]
        in list(INTERPOLATIONS),
        "mean three finite numbers": _three_numbers(values["mean"]),
        "std three finite numbers above 0": _three_numbers(values["std"])
        and min(values["std"]) > 0,
        "background three bytes": _three_numbers(background)
        and all(type(value) is int and 0 <= value <= 255 for value in background),
    }
    for rule, holds in rules.items():
        if not holds:
            raise BackboneError(
                f"preprocessing must have {rule}, got {dict(values)}. "
                "Mend the preset or the JSON that it came from."
            )


def _three_numbers(values: object) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _three(kind: Callable[[Any], ValueT], values: Sequence[Any]) -> tuple[ValueT, ValueT, ValueT]:
    """Return three numbers of one type, as the digest needs them: JSON has 1 for 1.0."""
    first, second, third = values
    return kind(first), kind(second), kind(third)
