"""From anything that holds an image to the uint8 square that a program takes.

Open, turn upright by EXIF, convert to 8-bit RGB, then fit: `crop` makes the shorter side `resize`
pixels and cuts the centre, `pad` makes the longer side `size` pixels and fills up with the
background, `squash` makes both sides `size` pixels.
"""

import os
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from PIL import Image

from edgecl_deploy.errors import ImageError, OptionError, SelfTestError, one_line
from edgecl_deploy.image_limits import check_pixels, workstation_pixels
from edgecl_deploy.images.opening import Margins, open_image, upright
from edgecl_deploy.images.pixels import WIDE_DTYPES, Colour, Window, scale, to_rgb
from edgecl_deploy.images.quiet import quiet

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray"
Channels = Literal["rgb", "bgr"]  # the order of the colours in an array
CHANNELS: tuple[str, ...] = get_args(Channels)

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_STARTS_PROGRAMS = frozenset({"EPS"})  # decoders of Pillow


@runtime_checkable
class Spec(Protocol):
    """The part of a preprocessing that is done before the graph."""

    @property
    def size(self) -> int:
        """Side of the square, pixels."""

    @property
    def resize(self) -> int:
        """The shorter side before the crop, pixels; of no other fit."""

    @property
    def interpolation(self) -> str:
        """One of `FILTERS`."""

    @property
    def fit(self) -> str:
        """`crop`, `pad` or `squash`."""

    @property
    def background(self) -> Colour:
        """Under transparent pixels, and in the bars of `pad`."""

    @property
    def decode(self) -> str:
        """`full`, or `draft2`: JPEG files at a reduced scale."""

    @property
    def window(self) -> Window | None:
        """The levels that become 0 and 255, of images of more than 8 bits."""


def least_side(spec: Spec) -> int | None:
    """Return how many pixels of a file's shorter side are decoded at least; None for all.

    `draft2` is named for the factor: the resize to the square has twice the pixels that it keeps.
    """
    return 2 * spec.resize if spec.decode == "draft2" else None


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
    source: ImageSource,
    spec: Spec,
    *,
    channels: Channels = "rgb",
    max_pixels: int | None = None,
) -> np.ndarray:
    """Make one image ready for a program.

    Args:
        source: A path, the bytes of an image file, a PIL image, or an array: uint8 [h, w],
            [h, w, 1], [h, w, 3] or [h, w, 4], or with a window any other real type of [h, w] or
            [h, w, 1].
        spec: The preprocessing of the bundle, or of the learner's backbone.
        channels: The order of the colours in an array; OpenCV has `bgr`. Files say theirs.
        max_pixels: The largest image, in pixels, as stored and after the resize; None: of a
            workstation.

    Returns:
        uint8 [size, size, 3], C-contiguous.

    Raises:
        ImageError: It cannot be read, is too large, or is no image.
        OptionError: `channels` is something else.
    """
    if channels not in CHANNELS:
        raise OptionError(
            "channels must be rgb or bgr", repr(channels), 'Say "bgr" for arrays of OpenCV.'
        )
    most = workstation_pixels() if max_pixels is None else max_pixels
    try:
        image = _opened(source, spec, channels, most)
        margins = Margins.of(image)
        with quiet():
            image = to_rgb(image, spec.background, spec.window)
        return np.array(_fitted(image, margins, spec, most))  # a copy, which the caller may change
    except ImageError:
        raise
    except Exception as error:  # conversions of hostile images raise almost anything
        raise ImageError(
            "an image must be one that can be converted to 8-bit RGB",
            one_line(error),
            "Convert it to JPEG or PNG.",
        ) from error


def _opened(source: object, spec: Spec, channels: Channels, max_pixels: int) -> Image.Image:
    """Return the source, upright.

    Raises:
        ImageError: It is nothing that can be opened.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source, spec, channels, max_pixels)
    elif isinstance(source, Image.Image):
        image = _from_pillow(source, max_pixels)
    elif isinstance(source, (str, os.PathLike, bytes, bytearray)):
        image = open_image(source, max_pixels=max_pixels, least=least_side(spec))
    else:
        raise ImageError(
            "an image must be a path, bytes, a PIL image or an array",
            type(source).__name__,
            "Convert it, for example with numpy.asarray(image).",
        )
    return image


def _from_pillow(image: Image.Image, max_pixels: int) -> Image.Image:
    """Decode an image that somebody opened, which stays theirs.

    Raises:
        ImageError: It is too large, or its decoder would start a program.
    """
    check_pixels(*image.size, max_pixels)
    if image.format in _STARTS_PROGRAMS:
        raise ImageError(
            "an image must be one that no other program decodes",
            f"{image.format}",
            "Convert it to PNG.",
        )
    with quiet():
        image.load()
        return upright(image)


def _from_array(array: np.ndarray, spec: Spec, channels: Channels, most: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # [h, w]
    colours = array.ndim == 3 and array.shape[2] in {3, 4}
    wide = array.ndim == 2 and array.dtype.name in WIDE_DTYPES
    if not wide and (array.dtype != np.uint8 or not (array.ndim == 2 or colours)):
        raise ImageError(
            "an image array must be uint8 of [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], or one "
            "channel of another type with a window",
            f"{array.dtype} {list(array.shape)}",
            _advice(array),
        )
    if array.size == 0:
        raise ImageError(
            "an image array must hold pixels", f"{list(array.shape)}", "Leave the image out."
        )
    check_pixels(array.shape[1], array.shape[0], most)
    if wide:
        array = scale(array, spec.window)
    elif colours and channels == "bgr":
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]
    return Image.fromarray(np.ascontiguousarray(array))


def _advice(array: np.ndarray) -> str:
    """Return what to do with an array that is no image."""
    if array.ndim == 3 and array.shape[0] in {1, 3, 4} and array.shape[2] not in {1, 3, 4}:
        return "Put the colours last: array.transpose(1, 2, 0)."
    if array.ndim == 4:
        return "Pass the images one by one."
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3, 4}):
        return "Choose one channel or three."
    return "Scale it to 0..255, and call array.astype(numpy.uint8)."


def _fitted(image: Image.Image, margins: Margins, spec: Spec, max_pixels: int) -> Image.Image:
    """Return an RGB image, without its margins, as a square of `size` pixels.

    Raises:
        ImageError: It is so narrow that it grows too large before the crop.
    """
    size, filter_ = spec.size, FILTERS[spec.interpolation]
    right, bottom = image.width - margins.right, image.height - margins.bottom
    box = (margins.left, margins.top, right, bottom)
    sides = (box[2] - box[0], box[3] - box[1])
    if spec.fit == "squash":
        return image.resize((size, size), filter_, box)
    if spec.fit == "pad":
        long = max(sides)
        width, height = (
            size if side == long else max(1, round(side * size / long)) for side in sides
        )
        square = Image.new("RGB", (size, size), spec.background)
        square.paste(
            image.resize((width, height), filter_, box),
            ((size - width) // 2, (size - height) // 2),
        )
        return square
    short = min(sides)
    width, height = (
        spec.resize if side == short else round(side * spec.resize / short) for side in sides
    )
    if width * height > max_pixels:
        raise ImageError(
            f"an image must have at most {max_pixels} pixels once its shorter side is resized",
            f"{image.width} x {image.height}, resized {width} x {height}",
            "Crop the image, begin a run with `--resize pad`, or allow more with --max-pixels.",
        )
    image = image.resize((width, height), filter_, box)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
