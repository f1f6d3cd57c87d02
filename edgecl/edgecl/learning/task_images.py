"""The images of a task: preprocessed once, encoded as often as a phase of learning needs it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import (
    FeatureCache,
    contents_of,
    feature_key,
    padded,
    rows_of,
)
from edgecl.backbones.feature_files import Row
from edgecl.backbones.vit import Features
from edgecl.learning.exemplars import Memory
from edgecl.learning.training import Compute
from edgecl.methods import AnyMethod
from edgecl.program import Encoded
from edgecl.program.fitting import Gather
from edgecl.program.learned import Tensors
from edgecl.reading.constant import Constant, is_constant
from edgecl.reading.reader import Pixels, Read, decode_as, read
from edgecl.reading.scratch import Scratch
from edgecl.streams import ImageSet
from edgecl_deploy.progress import Reporter

Images: TypeAlias = NDArray[np.uint8] | Pixels
BATCH = 8  # images of a forward pass outside training: the last is filled up, and few are in caches
GPU_BATCH = 32  # likewise on a GPU, which small ones do not fill
BLOCK = 256  # images whose features are looked up at once
EXAMPLES = 200  # classes of a task of which a run stores a small picture


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Preprocessed images of one set, without the broken ones.

    Attributes:
        images: uint8 [n, h, w, 3].
        labels: as in the set.
        names: likewise.
        skipped: one line for every image that could not be read.
        constant: the images that have one colour, by their positions.
        positions: of the images in the set.
    """

    images: Images
    labels: tuple[int, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...]
    constant: dict[int, Constant]
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Encoder:
    """Runs images through the passes of a method, in float32, one batch at a time.

    Attributes:
        cache: of the features without injection.
        workers: threads that read images.
        scratch: room for what has a row per image.
    """

    method: AnyMethod
    backbone: Backbone
    cache: FeatureCache
    compute: Compute
    reporter: Reporter
    workers: int = 0
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def reads_pixels(self) -> bool:
        """Return whether images are needed once their frozen features are known."""
        method = self.method
        return (
            method.program.passes != ("plain",)
            or method.program.reads_tokens
            or method.trains != "never"
            or bool(method.config.memory)
        )

    @property
    def batch(self) -> int:
        """Return how many images a forward pass has; as many always, so that bits are the same."""
        return BATCH if self.compute.device.type == "cpu" else GPU_BATCH

    @property
    def stores_plain(self) -> bool:
        """Return whether the method reads features without injection, few enough to store."""
        return "plain" in self.method.program.passes and not self.method.program.reads_tokens

    def load(self, images: ImageSet, title: str) -> ImageBatch:
        """Decode and preprocess; a broken image is skipped and named, one of one colour is named.

        Where frozen features are all that a method reads of an image, they are computed at once,
        the pixels are not held, and an image whose features are stored is not decoded.
        """
        loading = Loading(self, images)
        with self.reporter.bar(title, len(images)) as advance:
            preprocess = self.backbone.preprocess
            for found in read(images, preprocess, loading.is_known, self.workers):
                loading.add(found)
                advance()
        return loading.finish()

    def key(self, content: bytes) -> bytes:
        """Return the key of an image's features without injection."""
        return feature_key(content, self.method.program.taps)

    @torch.no_grad()
    def compute_frozen(self, keys: Sequence[bytes], images: NDArray[np.uint8]) -> dict[bytes, Row]:
        """Compute and store the features without injection, a batch at a time."""
        found: list[Row] = []
        for start in range(0, len(images), self.batch):
            some = images[start : start + self.batch]
            pixels, taps = self._normalised(some), self.method.program.taps
            features = self.backbone.model(pixels, taps=taps).select(slice(len(some)))
            found += rows_of(features.map(Tensor.cpu))
        self.cache.put(keys, found, [is_constant(image) for image in images])
        return dict(zip(keys, found, strict=True))

    def frozen(self, images: Images) -> Features:
        """Return the features without injection, from the cache if known, of at least one image."""
        keys = [self.key(content) for content in contents_in(images)]
        columns: list[NDArray[Any]] = []
        with self.reporter.bar("features", len(keys)) as advance:
            for start in range(0, len(keys), BLOCK):
                block = keys[start : start + BLOCK]
                known = self.cache.get(block)
                first = {key: start + at for at, key in reversed(list(enumerate(block)))}
                unknown = sorted(first[key] for key in first.keys() - known.keys())
                if unknown:
                    known |= self.compute_frozen([keys[at] for at in unknown], images[unknown])
                rows = zip(*(known[key] for key in block), strict=True)
                blocks = [np.stack(column) for column in rows]
                if not columns:
                    shapes = [(len(keys), *one.shape[1:]) for one in blocks]
                    columns = [self.scratch.empty(shape, np.float32) for shape in shapes]
                for column, one in zip(columns, blocks, strict=True):
                    column[start : start + BLOCK] = one
                advance(len(block))
        self.cache.flush()
        cls, *taps = map(torch.from_numpy, columns)
        return Features(cls, torch.zeros(()).expand_as(cls), *taps)

    def plain(self, images: Images) -> Features | None:
        """Return the features without injection; None where the method does not read them.

        Nor where it reads all tokens after the last block: they are too many to store.
        """
        return self.frozen(images) if self.stores_plain and len(images) else None

    @torch.no_grad()
    def encode(
        self,
        images: Images,
        learned: Tensors,
        plain: Features | None,
        title: str,
        *,
        training: bool = False,
        branch: int | None = None,
        injected: Features | None = None,
    ) -> Iterator[tuple[Encoded, int]]:
        """Yield every batch, filled up to `batch`, and how many of its images are real.

        Args:
            learned: on the device.
            plain: what `plain` returns for the images.
            training: the images are those of the task that is learned.
            branch: of several injected passes run this one only.
            injected: the features of the injected passes, if they are known.
        """
        program, model = self.method.program, self.backbone.model
        known_passes = {"plain": plain, "injected": injected}
        unread = all(known_passes[each] is not None for each in program.passes)
        size = self.batch
        with self.reporter.bar(title, len(images)) as advance:
            for start in range(0, max(1, len(images)), size):  # no image: one batch of padding
                here = slice(start, min(start + size, len(images)))
                count = here.stop - start
                known, passed = (
                    None if each is None else each.select(here).map(self._filled)
                    for each in (plain, injected)
                )  # fmt: skip
                pixels = torch.empty(size, 3, 0, 0) if unread else self._normalised(images[here])
                encoded = program.encode(
                    model, pixels, learned, known, training=training, branch=branch,
                    injected=passed,
                )  # fmt: skip
                yield encoded, count
                advance(count)

    def run_injected(
        self, images: Images, learned: Tensors, plain: Features | None, branch: int | None
    ) -> Features:
        """Return the features of an injected pass, one row for each image, on the CPU.

        Args:
            learned: on the device.
            plain: what `plain` returns for the images.
            branch: of several passes.
        """
        found: dict[str, NDArray[Any]] = {}
        start = 0
        for encoded, count in self.encode(images, learned, plain, "predicting", branch=branch):
            for name, tensor in encoded.features("injected").named().items():
                rows = tensor[:count].cpu().numpy()
                if name not in found:
                    found[name] = self.scratch.empty((len(images), *rows.shape[1:]), rows.dtype)
                found[name][start : start + count] = rows
            start += count
        return Features(**{name: torch.from_numpy(rows) for name, rows in found.items()})

    def on_device(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self.compute.device) for name, tensor in tensors.items()}

    def _normalised(self, images: NDArray[np.uint8]) -> Float[Tensor, "b 3 h w"]:
        """Fill a batch up to `batch`, and normalise it on the device."""
        batch = padded(torch.from_numpy(images), self.batch).to(self.compute.device)
        return self.backbone.preprocess.normalise(batch)

    def _filled(self, features: Tensor) -> Tensor:
        """Fill a batch of features [n, ...] with zeros up to `batch`, on the device."""
        missing = features.new_zeros(self.batch - len(features), *features.shape[1:])
        return torch.cat([features, missing]).to(self.compute.device)


class Loading:
    """What is known of the images of a set while they are read."""

    def __init__(self, encoder: Encoder, images: ImageSet):
        self._encoder = encoder
        self._images = images
        self._positions: list[int] = []
        self._contents: list[bytes] = []
        self._skipped: list[str] = []
        self._constant: dict[int, Constant] = {}
        self._held: NDArray[Any] | None = None
        if encoder.reads_pixels:
            side = encoder.backbone.preprocess.size
            self._held = encoder.scratch.empty((len(images), side, side, 3), np.uint8)
        self._waiting: dict[bytes, NDArray[np.uint8]] = {}  # whose features are not known

    def is_known(self, content: bytes) -> bool:
        """Return whether an image need not be decoded."""
        return not self._encoder.reads_pixels and self._encoder.key(content) in self._encoder.cache

    def add(self, found: Read) -> None:
        """Take the next image."""
        if found.wrong:
            self._skipped.append(found.wrong)
            return
        key, constant = self._encoder.key(found.content), found.constant
        if found.pixels is None and self._encoder.cache.is_constant(key):
            constant = self._again(found.index, found.content).constant  # why it is
        if constant is not None:
            self._constant[len(self._positions)] = constant
        self._positions.append(found.index)
        self._contents.append(found.content)
        if found.pixels is None:
            return
        if self._held is not None:
            self._held[len(self._positions) - 1] = found.pixels
        elif key not in self._encoder.cache:
            self._waiting[key] = found.pixels
            if len(self._waiting) == self._encoder.batch:
                self._compute()

    def finish(self) -> ImageBatch:
        """Return the images that can be used."""
        self._compute()
        self._encoder.cache.flush()
        return ImageBatch(
            Pixels(
                self._contents,
                self._encoder.backbone.preprocess.size,
                lambda row: self._again(self._positions[row], self._contents[row]).pixels,
                None if self._held is None else self._held[: len(self._positions)],
            ),
            tuple(self._images.labels[index] for index in self._positions),
            tuple(self._images.names[index] for index in self._positions),
            tuple(self._skipped),
            self._constant,
            tuple(self._positions),
        )

    def _compute(self) -> None:
        """Compute the features of the images that wait, whose pixels are then not needed."""
        if self._waiting:
            self._encoder.cache.misses += len(self._waiting)
            self._encoder.compute_frozen(
                list(self._waiting), np.stack(list(self._waiting.values()))
            )
            self._waiting = {}

    def _again(self, index: int, content: bytes) -> Read:
        """Decode an image once more; where that is no longer possible, a BrokenImageError."""
        return decode_as(self._images, index, self._encoder.backbone.preprocess, content)


@dataclass(eq=False)
class TaskImages:
    """The training images of one task.

    Attributes:
        images: uint8 [n, h, w, 3], preprocessed.
        labels: the class row of each image, counted from the task's first; below 0 those of images
            that the run remembers from earlier tasks.
        skipped: one line for every image that could not be read.
        encoder: what runs the method's passes over them.
        constant: one line for every image that has one colour.
    """

    images: Images
    labels: Int[Tensor, " n"]
    skipped: tuple[str, ...]
    encoder: Encoder
    constant: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def examples(self, classes: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Return the first image of each class, of the first classes."""
        first: dict[int, int] = {}
        for index, label in enumerate(self.labels.tolist()):
            first.setdefault(label, index)
        rows = [row for row in range(len(classes)) if row in first][:EXAMPLES]
        return {classes[row]: self.images[first[row]] for row in rows}

    @property
    def tensor(self) -> UInt8[Tensor, "n h w 3"]:
        """Return the images as a tensor that shares their memory."""
        return torch.from_numpy(self.images[:])

    @cached_property
    def plain(self) -> Features | None:
        """The features without injection; None where the method does not read them."""
        return self.encoder.plain(self.images)

    @cached_property
    def frozen(self) -> Features:
        """The features without injection, whether or not the method reads them."""
        return self.encoder.frozen(self.images) if self.plain is None else self.plain

    def encode(self, gather: Gather, learned: Tensors, title: str = "statistics") -> Tensors:
        """Run the method's passes over the images and collect what a function makes of them.

        Args:
            gather: is given each encoded batch and the learned tensors, on the device; returns
                tensors whose first axis is the images.
            learned: of all tasks, this one's last.

        Returns:
            The same tensors for all images, on the CPU.
        """
        learned = self.encoder.on_device(learned)
        batches = self.encoder.encode(self.images, learned, self.plain, title, training=True)
        found: Tensors = {}
        start = 0
        with torch.no_grad():
            for encoded, count in batches:
                for name, tensor in gather(encoded, learned).items():
                    rows = tensor[:count].cpu()
                    if name not in found:
                        shape, dtype = (len(self), *rows.shape[1:]), rows.numpy().dtype
                        found[name] = torch.from_numpy(self.encoder.scratch.empty(shape, dtype))
                    found[name][start : start + count] = rows
                start += count
        return found

    def with_memory(self, memory: Memory | None, former: int) -> "TaskImages":
        """Return these images followed by those that the run remembers.

        Args:
            former: class rows of the former tasks.
        """
        if memory is None:
            return self
        count, remembered = len(self), memory.images.numpy()
        shape = (count + len(remembered), *remembered.shape[1:])
        images = self.encoder.scratch.empty(shape, np.uint8)
        images[:count], images[count:] = self.images[:], remembered
        contents = [*contents_in(self.images), *contents_of(remembered)]
        labels = torch.cat([self.labels, memory.class_rows - former])
        pixels = Pixels(contents, shape[1], images.__getitem__, images)
        return replace(self, images=pixels, labels=labels)


def contents_in(images: Images) -> Sequence[bytes]:
    """Return the digest of each image, as its features are known by."""
    return images.contents if isinstance(images, Pixels) else contents_of(images)
