"""How many pixels an image may have: on a device, and in a process of a workstation.

A limit bounds memory and time before anything is decoded; no answer depends on it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from edgecl_deploy.errors import ImageError, OptionError, shown

MAX_PIXELS = 2**26  # 67 million: what a photograph needs; 4 bytes each decoded
DEVICE_PIXELS = 2**24  # 16 million: what a camera of a device takes
MOST_PIXELS = 2**27  # that a limit may allow; Pillow itself opens 179 million
VARIABLE = "EDGECL_MAX_PIXELS"  # the limit of a process and of the processes that it starts
SMALLER = "Make it smaller, crop it, or allow more with --max-pixels (in Python max_pixels)."


def check_limit(pixels: int) -> int:
    """Return a limit that can be held.

    Raises:
        OptionError: It is no such number.
    """
    if type(pixels) is not int or not 1 <= pixels <= MOST_PIXELS:
        raise OptionError(
            f"the most pixels of an image must be a number from 1 to {MOST_PIXELS}",
            shown(pixels),
            f"Leave out --max-pixels, max_pixels or {VARIABLE}, or choose another number.",
        )
    return pixels


def workstation_pixels() -> int:
    """Return the most pixels of an image in this process: `MAX_PIXELS`, or what `VARIABLE` has."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return MAX_PIXELS
    return check_limit(int(text) if text.isascii() and text.isdigit() else -1)


@contextmanager
def most_pixels(pixels: int) -> Iterator[None]:
    """Set the limit of this process, and of those that it starts, for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(check_limit(pixels))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def check_pixels(width: int, height: int, most: int) -> None:
    """Refuse an image that would take too much memory.

    Raises:
        ImageError: It has more than `most` pixels, or none.
    """
    if not 0 < width * height <= most:
        raise ImageError(f"an image must have 1 to {most} pixels", f"{width} x {height}", SMALLER)
