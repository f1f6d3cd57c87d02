"""Opens a file or its bytes as an upright image, within limits that hold everywhere.

The content decides on the decoder, never the ending. A file is read to memory and closed before it
is decoded: a decoder that maps a file would crash the process when somebody shortens it. No
external program is started, and whatever fails is an ImageError of this one image.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError, features

from edgecl_deploy.errors import ImageError, one_line
from edgecl_deploy.image_limits import MAX_PIXELS, SMALLER, check_pixels, workstation_pixels
from edgecl_deploy.images.kinds import HEAD, kind_of
from edgecl_deploy.images.quiet import quiet

MAX_FILE = 256 * 1024 * 1024  # bytes of one encoded image
MAX_SCANS = 64  # of a JPEG file; encoders write about ten
MAX_SCANNED = 16 * MAX_PIXELS  # pixels times scans: each scan costs a pass over all pixels

_OPTIONAL = frozenset({"WEBP", "AVIF"})  # a build of Pillow may lack them
_AGAIN = "Take the picture again, or write it again with the program that made it."
_ORIENTATION = 0x0112  # the EXIF tag
_MARGINS = "edgecl_margins"  # in the info of an image
_TURNS = {  # how a viewer turns the stored image, and which margins become the four
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (2, 1, 0, 3)),
    3: (Image.Transpose.ROTATE_180, (2, 3, 0, 1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (0, 3, 2, 1)),
    5: (Image.Transpose.TRANSPOSE, (1, 0, 3, 2)),
    6: (Image.Transpose.ROTATE_270, (3, 0, 1, 2)),
    7: (Image.Transpose.TRANSVERSE, (3, 2, 1, 0)),
    8: (Image.Transpose.ROTATE_90, (1, 2, 3, 0)),
}
_SUBFILE = 254  # the TIFF tag that marks a thumbnail
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # in a scan: no stuffing, restart


class Header(NamedTuple):
    """What the beginning of a file says."""

    kind: str  # one of `kinds.FORMATS`
    mode: str  # Pillow's
    width: int  # pixels, as stored
    height: int


class Margins(NamedTuple):
    """The parts of an image's outermost pixels that its file does not have, in pixels."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @classmethod
    def of(cls, image: Image.Image) -> "Margins":
        """Return what was noted when the image was decoded at a reduced scale, else none."""
        noted = image.info.get(_MARGINS)
        return noted if isinstance(noted, cls) else cls()  # a PNG file may hold a text of that name


def open_image(
    source: str | os.PathLike[str] | bytes | bytearray,
    *,
    max_pixels: int | None = None,
    least: int | None = None,
) -> Image.Image:
    """Decode an image, of an animation or of several pages the first, and turn it upright.

    What is no image of the list, is damaged, or is over a limit is an ImageError.

    Args:
        source: A path, or the bytes of a file.
        max_pixels: The largest image, in pixels, that is decoded; None: of a workstation. The
            stored size counts.
        least: Pixels of the shorter side that are needed. A JPEG is decoded at the smallest of the
            scales 1, 1/2, 1/4 and 1/8 whose shorter side has them; None decodes at 1.

    Returns:
        The image in its stored mode.
    """
    most = workstation_pixels() if max_pixels is None else max_pixels
    data = bytes(source) if isinstance(source, (bytes, bytearray)) else _read(Path(source))
    check_bytes(len(data))
    kind = kind_of(data[:HEAD])
    with _understood(kind, BytesIO(data), most) as image:
        if kind == "JPEG":
            _check_scans(data, image.width * image.height)
            if least is not None:
                _reduce(image, least)
        image.load()
        return upright(image)


def _reduce(image: Image.Image, least: int) -> None:
    """Let a JPEG be decoded at the smallest scale whose shorter side has so many pixels.

    Its last column and row may be pixels of which the file has a part; the rest is noted.
    """
    reduced = image.draft(None, (least, least))
    if reduced is not None:
        width, height = reduced[1][2:]  # stored size by scale
        image.info[_MARGINS] = Margins(right=image.width - width, bottom=image.height - height)


def read_header(
    source: str | os.PathLike[str] | bytes | bytearray, *, max_pixels: int | None = None
) -> Header:
    """Check what can be checked without decoding: kind, size in bytes and in pixels.

    It is an ImageError as of `open_image`, which finds damage further on.
    """
    most = workstation_pixels() if max_pixels is None else max_pixels
    if isinstance(source, (bytes, bytearray)):
        check_bytes(len(source))
        return _header(BytesIO(source), most)
    with _opened(Path(source)) as file:
        return _header(file, most)


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data says; unreadable EXIF data turns nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # it is what a camera or an editor left there, and no pixel depends on it
        return image
    if not isinstance(orientation, int) or orientation not in _TURNS:
        return image
    turn, order = _TURNS[orientation]
    turned = image.transpose(turn)
    turned.info = {key: turned.info[key] for key in ("transparency",) if key in turned.info}
    margins = Margins.of(image)
    if any(margins):
        turned.info[_MARGINS] = Margins(*(margins[side] for side in order))
    return turned


def check_bytes(size: int) -> None:
    """Refuse a file that is too large.

    Raises:
        ImageError: It has more than `MAX_FILE` bytes.
    """
    if size > MAX_FILE:
        raise ImageError(
            f"an image file must have at most {MAX_FILE} bytes",
            str(size),
            "Compress it, or make it smaller.",
        )


def _header(file: BinaryIO, max_pixels: int) -> Header:
    kind = kind_of(file.read(HEAD))
    file.seek(0)
    with _understood(kind, file, max_pixels) as image:
        return Header(kind, image.mode, image.width, image.height)


@contextmanager
def _understood(kind: str, file: BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Open a file with Pillow's decoder of one kind; errors inside are turned into ours as well.

    Raises:
        ImageError: Whatever went wrong.
    """
    try:
        with quiet(), Image.open(file, formats=(kind,)) as image:
            check_pixels(image.width, image.height, max_pixels)
            if kind == "TIFF":
                _check_thumbnail(image)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(*_unread(kind)) from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, of another header
        raise ImageError(
            f"an image must have 1 to {max_pixels} pixels", one_line(error), SMALLER
        ) from error
    except Exception as error:  # decoders of hostile files raise almost anything
        raise ImageError(
            f"an image must be a complete {kind} file",
            one_line(error),
            _AGAIN,
        ) from error


def _unread(kind: str) -> tuple[str, str, str]:
    """Return the three parts of the error of a file whose header Pillow does not understand."""
    if kind in _OPTIONAL and not features.check(kind.lower()):
        return (
            f"Pillow must be able to read {kind} files",
            "a build of it that is not",
            "Install Pillow 11.3 or later from its wheel, or convert the image to JPEG or PNG.",
        )
    return (f"an image must be a complete {kind} file", "a header that is damaged", _AGAIN)


def _check_thumbnail(image: Image.Image) -> None:
    """Refuse what cameras store before their raw data.

    Raises:
        ImageError: The first image is marked as a small copy of another.
    """
    if int(getattr(image, "tag_v2", {}).get(_SUBFILE, 0)) & 1:
        raise ImageError(
            "the first image of a TIFF file must be the picture",
            "a thumbnail of another one, as in a raw photograph",
            "Develop it, or take the camera's JPEG.",
        )


def _check_scans(data: bytes, pixels: int) -> None:
    """Bound the time of a JPEG file.

    Raises:
        ImageError: It has too many scans.
    """
    most = min(MAX_SCANS, MAX_SCANNED // pixels)
    if _scans(data, most) > most:
        raise ImageError(
            f"a JPEG file of {pixels} pixels must have at most {most} scans",
            "more",
            "Write it again with the program that made it.",
        )


def _scans(data: bytes, most: int) -> int:
    """Count the scans of a JPEG file up to the end of its first image, or until there are more."""
    scans, at = 0, 2
    while scans <= most and (found := _MARKER.search(data, at)) is not None:
        code, at = found[1][0], found.end()
        if code == 0xD9:  # EOI
            break
        scans += code == 0xDA  # SOS; the search skips its data
        if code not in {0x01, 0xD8}:  # with a length
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans


def _read(path: Path) -> bytes:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size  # reading more takes the memory of it at once
        return file.read(min(size, MAX_FILE) + 1)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file of a size within the limit; never wait for a pipe or a device.

    Raises:
        ImageError: It is something else, or cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(
            "an image file must be there and readable", one_line(error), "Check the path."
        ) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(
                "an image must be a file", "a folder or a device", "Name the image files."
            )
        check_bytes(status.st_size)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
