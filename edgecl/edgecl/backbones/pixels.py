"""What public code makes of an image before its backbone, by name.

A backbone's weights come with a preprocessing of their own; published figures of continual learning
were often made with another one. A set of pixels replaces it, and is part of the digest.
"""

import json
from collections.abc import Mapping
from typing import Any

from edgecl.backbones._errors import BackboneError
from edgecl.config import nearest

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # pixels in 0..1
OPTIONS = ("mean", "std", "interpolation", "shorter", "fit")
PIXELS: Mapping[str, Mapping[str, Any]] = {  # `shorter` is for a square of 224 pixels
    # LAMDA-PILOT, utils/data.py, build_transform; l2p-pytorch, datasets.py, and its descendants
    "pilot": UNIT | {"interpolation": "bicubic", "shorter": 256, "fit": "crop"},
    # CODA-Prompt, dataloaders/utils.py, but for DomainNet
    "coda": UNIT | {"interpolation": "bilinear", "fit": "squash"},
    # HiDe-Prompt, datasets.py, build_cifar_transform: with the statistics of CIFAR-100
    "hide": {
        "mean": (0.5071, 0.4867, 0.4408),
        "std": (0.2675, 0.2565, 0.2761),
        "interpolation": "bicubic",
        "shorter": 256,
        "fit": "crop",
    },
    # torchvision's references
    "imagenet": {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
        "shorter": 256,
        "fit": "crop",
    },
}


def parse_pixels(text: str) -> str | dict[str, Any]:
    """Read a name, or options as JSON.

    Raises:
        BackboneError: it begins as JSON and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise BackboneError(
            f'pixels must be a name, or JSON such as {{"mean": [0, 0, 0]}}, got {text!r} '
            f"({error}). Mend it."
        ) from error


def pixels_at(size: int, pixels: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a preprocessing that a set of pixels names.

    Args:
        size: of the square, in pixels.
        pixels: the name of a set, or its options: `mean`, `std` (of RGB in 0..1), `interpolation`,
            `shorter` (pixels of the shorter side before the crop) and `fit`.

    Raises:
        BackboneError: there is no such set or option.
    """
    if isinstance(pixels, str):
        if pixels not in PIXELS:
            raise BackboneError(
                f"pixels must be one of {', '.join(PIXELS)}, or options of its own, got "
                f"{pixels!r}. {nearest(pixels, PIXELS)}"
            )
        options = dict(PIXELS[pixels])
        if "shorter" in options:  # rounded down, as there
            options["shorter"] = options["shorter"] * size // 224
    else:
        options = dict(pixels)
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise BackboneError(
            f"pixels have the options {', '.join(OPTIONS)}, got {', '.join(unknown)}. "
            f"{nearest(unknown[0], OPTIONS)}"
        )
    if options.get("fit", "crop") != "crop":
        options.setdefault("shorter", size)  # there is nothing to cut
    if "shorter" in options:
        options["resize"] = options.pop("shorter")
    return options
