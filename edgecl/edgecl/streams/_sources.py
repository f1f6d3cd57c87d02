"""Sources of pixels: files, arrays in memory, members of zip archives.

A source has ``__len__`` and ``image(i, least)``; it decodes an image on demand, a JPEG file at a
reduced scale that has ``least`` pixels on its shorter side, and raises BrokenImageError for one
that cannot be decoded. It may have ``digest(i, fresh)``, of what is stored, which decodes nothing
and reads it again where it is to be fresh; and ``mode(i)``. Several threads may ask at a time.
Images are upright (EXIF orientation applied) with their stored mode and alpha; every later step is
the backbone's preprocessing.
"""

import hashlib
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl_deploy import images
from edgecl_deploy.errors import ImageError
from edgecl_deploy.images import Header

MAX_MEMBER_BYTES = 16 * 1024 * 1024  # of one encoded image inside an archive
CHUNK = 1 << 20  # bytes of a file that are read at once
DIGEST_BYTES = 16  # of the content of a file


@runtime_checkable
class ImageSource(Protocol):
    """A numbered collection of images that are decoded on demand."""

    def __len__(self) -> int: ...

    def image(self, index: int, least: int | None = None) -> Image.Image: ...


@overload
def open_image(
    file: Path | bytes,
    name: str,
    *,
    header_only: Literal[False] = False,
    least: int | None = None,
) -> Image.Image: ...


@overload
def open_image(file: Path | bytes, name: str, *, header_only: Literal[True]) -> Header: ...


def open_image(
    file: Path | bytes, name: str, *, header_only: bool = False, least: int | None = None
) -> Image.Image | Header:
    """Decode an image and turn it upright, or read its header only, as the device does.

    Args:
        file: the file or its encoded bytes.
        name: of the image, for the error.
        header_only: check kind and size only.
        least: pixels of the shorter side that are needed, as of the device's `open_image`.

    Raises:
        BrokenImageError: the file is not an image, is damaged, or is over a limit.
    """
    try:
        return images.read_header(file) if header_only else images.open_image(file, least=least)
    except ImageError as error:
        raise BrokenImageError(f"{name}: {error} It is skipped until then.") from error


def file_digest(path: str | os.PathLike[str]) -> bytes:
    """Return the digest of a regular file's bytes; nothing where it cannot be read."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > images.MAX_FILE:
                return b""
            while chunk := file.read(CHUNK):
                found.update(chunk)
    except (OSError, ValueError):  # ValueError: a null character in the path
        return b""
    return found.digest()


def pixel_digest(pixels: NDArray[Any]) -> bytes:
    """Return the digest of pixels that are stored as such."""
    shape = f"pixels {pixels.dtype} {list(pixels.shape)}".encode()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()


def image_digest(image: Image.Image) -> bytes:
    """Return the digest of a decoded image: what a conversion to RGB depends on."""
    what = f"image {image.mode} {image.size} {image.info.get('transparency')}".encode()
    whole = image.convert("RGBA") if image.mode in {"P", "PA"} else image  # with its palette
    return hashlib.sha256(what + whole.tobytes()).digest()


class PathSource:
    """Image files by path."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        path = self.paths[index]
        return open_image(path, str(path), least=least)

    def digest(self, index: int, fresh: bool = False) -> bytes:
        """Return the digest of the file, nothing where it cannot be read."""
        return file_digest(self.paths[index])

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels, from the header alone."""
        path = self.paths[index]
        return open_image(path, str(path), header_only=True).mode


class ArraySource:
    """Images in memory: uint8 ``[n, h, w]`` (grey) or ``[n, h, w, 3]`` (RGB)."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[3:] not in ((), (3,)):
            raise StreamError(
                "An image array must be uint8 [n, h, w] or [n, h, w, 3]; got "
                f"{array.dtype} {list(array.shape)}. Convert it before building the stream."
            )
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.array[index]))

    def digest(self, index: int, fresh: bool = False) -> bytes:
        """Return the digest of the pixels."""
        return pixel_digest(self.array[index])

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels."""
        return "L" if self.array.ndim == 3 else "RGB"


class ZipSource:
    """Encoded images inside zip archives; each entry is (archive, member name)."""

    def __init__(self, entries: Sequence[tuple[Path, str]]) -> None:
        self.entries = tuple(entries)
        self._open: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        path, member = self.entries[index]
        name = f"{path}:{member}"
        return open_image(self._read(path, member, name), name, least=least)

    def digest(self, index: int, fresh: bool = False) -> bytes:
        """Return the digest of the encoded image, nothing where it cannot be read."""
        path, member = self.entries[index]
        try:
            data = self._read(path, member, "")
            return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
        except BrokenImageError:
            return b""

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels, from the header alone."""
        path, member = self.entries[index]
        name = f"{path}:{member}"
        return open_image(self._read(path, member, name), name, header_only=True).mode

    def _read(self, path: Path, member: str, name: str) -> bytes:
        try:
            archive = self._archive(path)
            size = archive.getinfo(member).file_size
            if size > MAX_MEMBER_BYTES:
                raise ValueError(f"{size} bytes, limit {MAX_MEMBER_BYTES}")
            return archive.read(member)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BrokenImageError(
                f"An image must be a readable member of its archive; {name} is not "
                f"({type(error).__name__}: {error}). Fetch or install the data set again."
            ) from error

    def _archive(self, path: Path) -> zipfile.ZipFile:
        key = (os.getpid(), path)  # a forked worker must not share the file offset
        if key not in self._open:
            self._open[key] = zipfile.ZipFile(path)
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries, "_open": {}}
