"""Images of a set, decoded and preprocessed in order; what is known of one is not decoded."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecl.backbones import BackboneError, Preprocess
from edgecl.backbones.feature_cache import contents_of
from edgecl.reading.constant import Constant, is_constant
from edgecl.reading.scratch import MEMORY
from edgecl.streams import BrokenImageError, ImageSet
from edgecl_deploy.engines.processor import usable_cores

AHEAD = 128  # images that are read before they are asked for
TRIES = 3  # decodings of a file that is replaced meanwhile
T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """How images are read, which changes no result.

    Attributes:
        workers: threads that decode; 0: none beside the one that computes.
        memory: bytes of the images and features of the task, and of the test images, that may be in
            memory; beyond it they are in files.
    """

    workers: int = field(default_factory=usable_cores)
    memory: int = MEMORY


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


def content_of(images: ImageSet, index: int, pixels: NDArray[np.uint8]) -> bytes:
    """Return the digest of an image as it is stored now, or else of its pixels."""
    return images.digest(index, fresh=True) or contents_of(pixels[None])[0]


def decode_as(images: ImageSet, index: int, preprocess: Preprocess, content: bytes) -> Read:
    """Decode an image that was read before.

    Raises:
        BrokenImageError: if it no longer can be, or is another one.
    """
    found = decode(images, index, preprocess)
    if found.pixels is None:
        raise BrokenImageError(found.wrong)
    if content_of(images, index, found.pixels) != content:
        raise BrokenImageError(
            f"An image must stay what it was when it was first read; {images.names[index]} is "
            "another one now. Put the former one back, or start the command again."
        )
    return found


def in_order(work: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """Yield what work makes of 0, 1, ...; threads are at most `AHEAD` items ahead.

    Pillow decodes and resizes without the interpreter's lock. What work raises comes where its
    result would; whatever ends the iteration ends the threads.
    """
    if workers < 1:
        yield from map(work, range(count))
        return
    ahead: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgecl-reader")
    try:
        items = iter(range(count))
        ahead.extend(pool.submit(work, item) for item in islice(items, AHEAD))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(work, item) for item in islice(items, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def read(
    images: ImageSet,
    preprocess: Preprocess,
    is_known: Callable[[bytes], bool],
    workers: int,
) -> Iterator[Read]:
    """Yield what is read of every image, in order.

    The digest of a file that is replaced meanwhile is that of what was decoded.

    Args:
        is_known: given a digest, whether the image need not be decoded.
        workers: threads.
    """

    def work(index: int) -> Read:
        content = images.digest(index)
        if content and is_known(content):
            return Read(index, content)
        for _ in range(TRIES):
            found, before = decode(images, index, preprocess), content
            if found.pixels is None:
                return found
            content = images.digest(index, fresh=True)
            if content == before:
                return replace(found, content=content or contents_of(found.pixels[None])[0])
        name = images.names[index]
        return Read(index, wrong=f"{name}: it was replaced each time that it was read.")

    return in_order(work, len(images), workers)


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

    dtype: ClassVar["np.dtype[np.uint8]"] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 4

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
