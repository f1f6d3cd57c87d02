"""Small pictures of images as a program sees them, for reports: JPEG in base64, bounded.

A run stores them, so that a report needs none of the images later.
"""

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecl.learning.fields import refuse, text

SIDE = 96  # pixels of the longer side at most
LARGEST = 6000  # characters of one picture
QUALITIES = (80, 60, 40, 20, 5)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return a picture of uint8 [h, w, 3]; one that is hard to compress loses quality.

    The text is empty where even the lowest is too large.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
        if len(encoded) <= LARGEST:
            return encoded
    return ""


def picture(value: object, where: str) -> str:
    """Read a picture, or the empty text in place of one."""
    found = text(value, where)
    if len(found) > LARGEST or not _BASE64.fullmatch(found):
        refuse(where, f"a picture in base64 of at most {LARGEST} characters", value)
    return found
