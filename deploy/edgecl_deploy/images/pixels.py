"""From a decoded image of any mode to 8-bit RGB, upright already.

Grey, palette, CMYK, LAB and YCbCr: as Pillow converts them. Transparency: over a background.
More than 8 bits (16- and 32-bit integers, floats): from a window of levels to 0..255.
"""

from collections.abc import Iterator

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

    Args:
        image: Of any mode.
        background: Under transparent pixels.
        window: The levels that become 0 and 255, for images of more than 8 bits.

    Raises:
        ImageError: It has more than 8 bits, and there is no window.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in WIDE_MODES and window is None:
        raise ImageError(*_no_window(extent(np.asarray(image))))
    found = Image.new("RGB", image.size)
    for top, bottom in _bands(*image.size):
        part = image.crop((0, top, image.width, bottom))
        found.paste(_converted(part, background, window), (0, top))
    return found


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each band, and the one after its last."""
    rows = max(1, _BAND // max(1, width))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _converted(image: Image.Image, background: Colour, window: Window | None) -> Image.Image:
    """Return some rows of an image in RGB."""
    if image.mode in WIDE_MODES:
        levels = np.asarray(image)  # [h, w]
        rgb = np.repeat(scale(levels, window)[:, :, None], 3, axis=2)
        clear = image.info.get("transparency")
        if type(clear) is int:
            rgb[levels == clear] = background
        return Image.fromarray(rgb)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    front = image.convert("RGBA")
    back = Image.new("RGBA", front.size, (*background, 255))
    return Image.alpha_composite(back, front).convert("RGB")


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
        raise ImageError(*_no_window(extent(levels)))
    low, high = window
    found = np.empty(levels.shape, np.uint8)
    for top, bottom in _bands(levels.shape[1], len(levels)):
        part = levels[top:bottom].astype(np.float64)
        with np.errstate(all="ignore"):  # what overflows is outside of every window
            part -= low
            part *= 255
            part /= high - low
            part += 0.5
        np.floor(part, out=part)
        part[np.isnan(part)] = 0
        found[top:bottom] = part.clip(0, 255)
    return found


def extent(levels: np.ndarray) -> Window:
    """Return the lowest and the highest finite level; 0 and 0 if there is none."""
    finite = levels[np.isfinite(levels)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _no_window(found: Window) -> tuple[str, str, str]:
    """Return the parts of the error of an image of more than 8 bits where no window is set."""
    return (
        "an image of more than 8 bits must come with a window, the levels that become black and "
        "white, which is fixed when a run begins",
        f"levels {found[0]:g} to {found[1]:g} and no window",
        "Begin a run with `--window LOW,HIGH`, or convert the image to 8 bits.",
    )
