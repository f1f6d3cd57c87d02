"""A picture that costs a decoder about what a photograph does, made here."""

from io import BytesIO

import numpy as np
from PIL import Image

_OCTAVES = ((3, 90.0), (9, 60.0), (33, 35.0), (129, 14.0), (513, 6.0))  # cells across, deviation
_DISCS = 12  # whose rims are edges
_QUALITY = 90


def sample_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make a picture of smooth noise, as natural images have it, with edges.

    Args:
        width: Pixels.
        height: Pixels.
        seed: Another picture for every seed.

    Returns:
        RGB. The memory it takes to make is 24 bytes a pixel.
    """
    rng = np.random.default_rng(seed)
    bands = []
    discs = [
        (*rng.uniform(0, (width, height)), rng.uniform(height / 20, height / 4), rng.random(3))
        for _ in range(_DISCS)
    ]
    for band in range(3):
        light = np.full((height, width), 128, np.float32)
        for cells, deviation in _OCTAVES:
            shape = (max(2, round(cells * height / width)), cells)
            coarse = Image.fromarray(rng.normal(0, deviation, shape).astype(np.float32))
            light += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        for x, y, radius, colour in discs:
            columns, rows = _near(x, radius, width), _near(y, radius, height)
            part = light[rows.start : rows.stop, columns.start : columns.stop]  # around the disc
            across = (np.array(columns, np.float32) - x) ** 2
            down = (np.array(rows, np.float32) - y) ** 2
            inside = across[None, :] + down[:, None] < radius**2
            part[inside] = 0.4 * part[inside] + 0.6 * 255 * colour[band]
        bands.append(Image.fromarray(light.clip(0, 255).astype(np.uint8)))
    return Image.merge("RGB", bands)


def _near(centre: float, radius: float, size: int) -> range:
    """Return the pixels of a row or a column that a disc may reach."""
    return range(max(0, int(centre - radius)), min(size, int(centre + radius) + 2))


def encoded(image: Image.Image) -> bytes:
    """Return an image as a JPEG file of a camera's quality."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
