"""Sources of pixels: files, arrays in memory, members of zip archives.

A source has ``__len__`` and ``image(i)``; it decodes an image on demand and raises BrokenImageError
for one that cannot be decoded. Images are upright (EXIF orientation applied) with their stored mode
and alpha; every later step is the backbone's preprocessing.
"""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgecl.streams._errors import BrokenImageError, StreamError

MAX_PIXELS = 100_000_000  # of one image; above it a file is refused before it is decoded
MAX_MEMBER_BYTES = 16 * 1024 * 1024  # of one encoded image inside an archive


@runtime_checkable
class ImageSource(Protocol):
    """A numbered collection of images that are decoded on demand."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...


def open_image(file: Path | io.BytesIO, name: str, *, header_only: bool = False) -> Image.Image:
    """Decode one image upright, or read its header only.

    Args:
        file: the file or its encoded bytes.
        name: of the image, for the error.
        header_only: check format and size only; the returned image is closed.

    Raises:
        BrokenImageError: the file is not an image, is truncated, or has more than MAX_PIXELS
            pixels.
    """
    try:
        with Image.open(file) as image:
            small = image.width * image.height <= MAX_PIXELS
            if small and not header_only:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)  # while the file is open
    except Exception as error:  # Pillow's decoders raise a dozen kinds on hostile bytes
        raise BrokenImageError(
            f"An image must be a complete file that Pillow can decode; {name} is not "
            f"({type(error).__name__}: {error}). Replace or delete it; it is skipped until then."
        ) from error
    if not small:
        raise BrokenImageError(
            f"An image must have at most {MAX_PIXELS} pixels; {name} has "
            f"{image.width}x{image.height}. Scale it down; it is skipped until then."
        )
    return image


class PathSource:
    """Image files by path."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        path = self.paths[index]
        return open_image(path, str(path))


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

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.array[index]))


class ZipSource:
    """Encoded images inside zip archives; each entry is (archive, member name)."""

    def __init__(self, entries: Sequence[tuple[Path, str]]) -> None:
        self.entries = tuple(entries)
        self._open: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, index: int) -> Image.Image:
        path, member = self.entries[index]
        name = f"{path}:{member}"
        return open_image(io.BytesIO(self._read(path, member, name)), name)

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
