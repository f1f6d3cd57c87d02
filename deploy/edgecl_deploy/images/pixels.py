"""From a decoded image of any mode to 8-bit RGB, upright already.

Grey, palette, CMYK, LAB and YCbCr: as Pillow converts them. Transparency: over a background.
More than 8 bits (16- and 32-bit integers, floats): from a window of levels to 0..255.
"""

import numpy as np
from PIL import Image

from edgecl_deploy.errors import ImageError

Colour = tuple[int, int, int]
Window = tuple[float, float]

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # more than 8 bits
WIDE_DTYPES = ("uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
_BAND = 2**20  # pixels that are converted at once: bounds the memory of what is in between


def to_rgb(image: Image.Image, background: Colour, window: Window | None) -> Image.Image:
    """Return an image in RGB; the image itself if it is that already.

    One of more than 8 bits without a window is an ImageError.

    Args:
        image: Of any mode.
        background: Under transparent pixels.
        window: The levels that become 0 and 255, for images of more than 8 bits.
    """
    if image.mode in WIDE_MODES:
        levels = np.asarray(image)  # [h, w]
        grey = Image.fromarray(scale(levels, window))
        clear = image.info.get("transparency")
        if type(clear) is not int:
            return grey.convert("RGB")
        rgb = np.array(grey.convert("RGB"))
        rgb[levels == clear] = background
        return Image.fromarray(rgb)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        return _over(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def scale(levels: np.ndarray, window: Window | None) -> np.ndarray:
    """Map levels linearly: the window to 0..255, what is outside to its ends, NaN to 0.

    It is floor(255 (x - low) / (high - low) + 1/2) in float64, one operation after the other, so
    every machine gives the same bits.

    Args:
        levels: [h, w] of any real type.
        window: The levels that become 0 and 255.

    Returns:
        uint8 [h, w].

    Raises:
        ImageError: There is no window.
    """
    if window is None:
        low, high = extent(levels)
        raise ImageError(
            "an image of more than 8 bits must come with a window, the levels that become black "
            "and white, which is fixed when a run begins",
            f"levels {low:g} to {high:g} and no window",
            "Begin a run with `--window LOW,HIGH`, or convert the image to 8 bits.",
        )
    low, high = window
    found = np.empty(levels.shape, np.uint8)
    rows = max(1, _BAND // max(1, levels.shape[1]))
    for top in range(0, len(levels), rows):
        part = levels[top : top + rows].astype(np.float64)
        part -= low
        part *= 255
        part /= high - low
        part += 0.5
        np.floor(part, out=part)
        part[np.isnan(part)] = 0
        found[top : top + rows] = part.clip(0, 255)
    return found


def extent(levels: np.ndarray) -> Window:
    """Return the lowest and the highest finite level; 0 and 0 if there is none."""
    finite = levels[np.isfinite(levels)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _over(image: Image.Image, background: Colour) -> Image.Image:
    """Put an image with transparency over a colour, some rows at a time."""
    width, height = image.size
    found = Image.new("RGB", image.size)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        front = image.crop(box).convert("RGBA")
        back = Image.new("RGBA", front.size, (*background, 255))
        found.paste(Image.alpha_composite(back, front).convert("RGB"), box[:2])
    return found
