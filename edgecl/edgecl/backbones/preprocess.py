"""From a decoded image to the square of bytes that a program takes, and to normalised pixels.

The square is made by `edgecl_deploy.images`, as on the device. Normalisation is part of the
exported graph.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.pixels import pixels_at
from edgecl_deploy.errors import ImageError
from edgecl_deploy.format import DECODES, FITS, INTERPOLATIONS
from edgecl_deploy.images import ImageSource, least_side, prepare

ValueT = TypeVar("ValueT")
MEND = "Mend the preset or the JSON that it came from."


@dataclass(frozen=True)
class Preprocess:
    """Rotate upright, convert to 8-bit RGB on a background, make it a square.

    It is part of a backbone's digest. The fit is "crop" (resize the shorter side, cut the centre),
    "pad" (the whole image between bars of the background) or "squash" (change its proportions).
    """

    size: int = 224  # pixels, side of the square that is cropped
    resize: int = 224  # pixels, the shorter side before the crop; of the fit "crop"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background: tuple[int, int, int] = (255, 255, 255)  # RGB bytes under transparent pixels
    fit: str = "crop"
    window: tuple[float, float] | None = None  # levels that become 0 and 255, above 8 bits
    decode: str = "full"  # or "draft2": JPEG files at a reduced scale

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
            "fit": self.fit,
            "window": None if self.window is None else list(self.window),
            "decode": self.decode,
        }

    def identity(self) -> dict[str, Any]:
        """Return what a backbone's digest covers: `to_json`, without later fields at defaults.

        So the digest of a backbone that cuts, has no window and decodes in full is that of earlier
        versions.
        """
        later = {"fit": "crop", "window": None, "decode": "full"}
        return {
            name: value
            for name, value in self.to_json().items()
            if name not in later or value != later[name]
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], advice: str = MEND) -> "Preprocess":
        """Read what `to_json` returned, or a JSON of a time before `decode`.

        Args:
            advice: what to do if a value is out of range.

        Raises:
            BackboneError: a key is unknown or missing, or a value is out of range.
        """
        data = {"decode": "full", **data}
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise BackboneError(
                f"preprocessing must have the keys {sorted(known)}, got {sorted(data)}. {MEND}"
            )
        _check(data, advice)
        return cls(
            size=data["size"],
            resize=data["resize"],
            interpolation=data["interpolation"],
            mean=_three(float, data["mean"]),
            std=_three(float, data["std"]),
            background=_three(int, data["background"]),
            fit=data["fit"],
            window=_window(data["window"]),
            decode=data["decode"],
        )

    def at(self, image_size: int) -> "Preprocess":
        """Return the same for another crop size; `resize` changes in proportion."""
        resize = round(self.resize * image_size / self.size)
        return replace(self, size=image_size, resize=resize)

    def with_options(
        self,
        fit: str | None,
        window: Sequence[float] | None,
        background: Sequence[int] | None,
        decode: str | None = None,
        pixels: str | Mapping[str, Any] | None = None,
    ) -> "Preprocess":
        """Return the same with what is given; a fit that cuts nothing has `resize` = `size`."""
        changed = self.to_json()
        if pixels is not None:
            changed |= pixels_at(self.size, pixels)
        if fit is not None and fit != changed["fit"]:
            changed |= {"fit": fit, "resize": self.size}
        if window is not None:
            changed["window"] = list(window)
        if background is not None:
            changed["background"] = list(background)
        if decode is not None:
            changed["decode"] = decode
        advice = "Choose another --window, --background, --resize, --decode or --pixels."
        return Preprocess.from_json(changed, advice)

    @property
    def least_side(self) -> int | None:
        """Return how many pixels of a file's shorter side are decoded at least; None for all."""
        return least_side(self)

    def __call__(self, image: ImageSource) -> NDArray[np.uint8]:
        """Return the image as bytes [h, w, 3] with h = w = size.

        Args:
            image: a PIL image, or what else `edgecl_deploy.images.prepare` takes.

        Raises:
            BackboneError: the image has more than 8 bits and there is no window, or its sides
                differ so much that the resized one is too large.
        """
        try:
            return prepare(image, self)
        except ImageError as error:
            raise BackboneError(str(error)) from error

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
        "fit": "crop",
        "window": None,
    })


def _check(values: Mapping[str, Any], advice: str = MEND) -> None:
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
        f"fit one of {', '.join(FITS)}": values["fit"] in FITS,
        f"decode one of {', '.join(DECODES)}": values["decode"] in DECODES,
        "window null or two finite numbers, the lower one first": values["window"] is None
        or (_numbers(values["window"], 2) and values["window"][0] < values["window"][1]),
    }
    for rule, holds in rules.items():
        if not holds:
            raise BackboneError(f"preprocessing must have {rule}, got {dict(values)}. {advice}")


def _three_numbers(values: object) -> bool:
    return _numbers(values, 3)


def _numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _three(kind: Callable[[Any], ValueT], values: Sequence[Any]) -> tuple[ValueT, ValueT, ValueT]:
    """Return three numbers of one type, as the digest needs them: JSON has 1 for 1.0."""
    first, second, third = values
    return kind(first), kind(second), kind(third)


def _window(values: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a window as floats, as the digest needs them."""
    return None if values is None else (float(values[0]), float(values[1]))
