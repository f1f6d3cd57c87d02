"""Turns anything that holds an image into the uint8 array that a program takes.

Decode, turn upright by EXIF, put transparency over the background colour, convert to RGB, make
the shorter side `resize` pixels, cut the centre `size` x `size`. The same definition as
`edgecl.backbones`, bit for bit. Everything is bounded before the pixels are decoded, and whatever
fails is an ImageError of this one image.
"""

import os
import stat
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from edgecl_deploy.errors import ImageError, SelfTestError, one_line
from edgecl_deploy.format import Preprocessing

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray"

MAX_PIXELS = 50_000_000  # of the image as stored, and of the image after the resize
MAX_FILE = 256 * 1024 * 1024  # bytes of one encoded image
# Decoders of raster formats only: others are rarely used, and some start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO")
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def enlarge(images: np.ndarray, side: int) -> np.ndarray:
    """Enlarge canaries to the size that a program takes: repeated pixels, so no filter differs.

    Args:
        images: uint8 [n, s, s, 3], where s divides the side.
        side: Pixels.

    Returns:
        uint8 [n, side, side, 3].

    Raises:
        SelfTestError: They have another shape.
    """
    small = images.shape[1] if images.ndim == 4 else 0
    if not 0 < small <= side or side % small or images.shape[2:] != (small, 3):
        raise SelfTestError(
            f"canaries must be squares whose side divides {side} pixels",
            str(list(images.shape)),
            "Make the release again with `edgecl export release`.",
        )
    times = side // small
    return images if times == 1 else images.repeat(times, axis=1).repeat(times, axis=2)


def prepare(
    source: ImageSource, spec: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Make one image ready for a program.

    Args:
        source: A path, the bytes of an image file, a PIL image, or an array of uint8 [h, w],
            [h, w, 3] or [h, w, 4].
        spec: The preprocessing of the bundle.
        max_pixels: The largest image, in pixels, that is decoded.

    Returns:
        uint8 [size, size, 3], C-contiguous.

    Raises:
        ImageError: It cannot be read, is too large, or is no image.
    """
    try:
        image = _open(source)
        try:
            _check_pixels(*image.size, max_pixels)
            return _to_array(image, spec, max_pixels)
        finally:
            if image is not source:
                image.close()
    except ImageError:
        raise
    except Exception as error:  # decoders of hostile files raise almost anything
        raise ImageError(
            f"an image must be a complete file in one of {', '.join(FORMATS)}",
            one_line(error),
            "Take the picture again, or convert it to JPEG or PNG.",
        ) from error


def _open(source: object) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        source = _read(Path(source))
    if isinstance(source, (bytes, bytearray)):
        _check_bytes(len(source))
        return Image.open(BytesIO(source), formats=FORMATS)
    raise ImageError(
        "an image must be a path, bytes, a PIL image or an array",
        type(source).__name__,
        "Convert it, for example with numpy.asarray(image).",
    )


def _from_array(array: np.ndarray) -> Image.Image:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in {3, 4})):
        raise ImageError(
            "an image array must be uint8 of [h, w], [h, w, 3] or [h, w, 4]",
            f"{array.dtype} {list(array.shape)}",
            "Scale it to 0..255, put the colours last, and call array.astype(numpy.uint8).",
        )
    if array.size == 0:
        raise ImageError(
            "an image array must hold pixels", f"{list(array.shape)}", "Leave the image out."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _read(path: Path) -> bytes:
    # O_NONBLOCK: a named pipe must not hang the process.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        raise ImageError(
            "an image file must be there and readable", one_line(error), "Check the path."
        ) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise ImageError("an image must be a file", "a folder or a device", "Name the image files.")
    with os.fdopen(handle, "rb") as file:
        _check_bytes(status.st_size)
        return file.read(MAX_FILE)


def _check_bytes(size: int) -> None:
    if size > MAX_FILE:
        raise ImageError(
            f"an image file must have at most {MAX_FILE} bytes",
            str(size),
            "Compress it, or make it smaller.",
        )


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise ImageError(
            f"an image must have at most {most} pixels",
            f"{width} x {height}",
            "Make it smaller, or crop it.",
        )


def _to_array(image: Image.Image, spec: Preprocessing, max_pixels: int) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*spec.background, 255))
        image = Image.alpha_composite(under, image)
    elif image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey
        levels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (
        spec.resize if side == short else round(side * spec.resize / short) for side in image.size
    )
    _check_pixels(width, height, max_pixels)  # a very narrow image grows
    image = image.resize((width, height), _FILTERS[spec.interpolation])
    left, top = (width - spec.size) // 2, (height - spec.size) // 2
    image = image.crop((left, top, left + spec.size, top + spec.size))
    return np.ascontiguousarray(np.asarray(image))  # uint8 [h, w, 3]
