"""Images of a set, decoded and preprocessed in order; what is known of one is not decoded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecl.backbones import BackboneError, Preprocess
from edgecl.backbones.feature_cache import contents_of
from edgecl.learning.constant import Constant, is_constant
from edgecl.streams import BrokenImageError, ImageSet


@dataclass(frozen=True, eq=False)
class Read:
    """What was read of one image.

    Attributes:
        index: in its set.
        content: the digest of what is stored.
        pixels: uint8 [h, w, 3], preprocessed; None where they were not asked for, or are broken.
        constant: set where it has one colour.
        wrong: why it cannot be used; nothing where it can.
    """

    index: int
    content: bytes = b""
    pixels: NDArray[np.uint8] | None = None
    constant: Constant | None = None
    wrong: str = ""


def decode(images: ImageSet, index: int, preprocess: Preprocess) -> Read:
    """Decode and preprocess an image; a broken one says why it is."""
    try:
        image = images.image(index, preprocess.least_side)
        pixels = preprocess(image)
    except BrokenImageError as error:
        return Read(index, wrong=str(error))
    except BackboneError as error:
        return Read(index, wrong=f"{images.names[index]}: {error}")
    constant = None
    if is_constant(pixels):
        constant = Constant.of(images.names[index], image, preprocess)
    return Read(index, b"", pixels, constant)


def read(
    images: ImageSet,
    preprocess: Preprocess,
    is_known: Callable[[bytes], bool],
) -> Iterator[Read]:
    """Yield what is read of every image.

    Args:
        is_known: given a digest, whether the image need not be decoded.
    """

    def work(index: int) -> Read:
        content = images.digest(index)
        if content and is_known(content):
            return Read(index, content)
        found = decode(images, index, preprocess)
        if found.pixels is None:
            return found
        content = images.digest(index, fresh=True) or contents_of(found.pixels[None])[0]
        return Read(index, content, found.pixels, found.constant)

    return map(work, range(len(images)))


@dataclass(frozen=True, eq=False)
class Pixels:
    """Preprocessed images uint8 [n, h, w, 3], held, or else decoded each time that they are read.

    Attributes:
        contents: the digest of each image.
        size: h and w.
        decode: returns one of them; an image that can no longer be read is an EdgeclError.
        held: all of them.
    """

    contents: Sequence[bytes]
    size: int
    decode: Callable[[int], NDArray[np.uint8] | None]
    held: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.contents), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        if self.held is not None:
            return self.held[index]
        rows = np.arange(len(self))[index]
        found = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for place, row in enumerate(np.atleast_1d(rows).tolist()):
            found[place] = self.decode(row)
        return found[0] if rows.ndim == 0 else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        return np.asarray(self[:], dtype=dtype)
