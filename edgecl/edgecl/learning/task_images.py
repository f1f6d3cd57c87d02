"""The images of a task: preprocessed once, encoded as often as a phase of learning needs it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgecl.backbones import Backbone, BackboneError, Preprocess
from edgecl.backbones.feature_cache import FeatureCache, image_keys, padded
from edgecl.backbones.vit import Features
from edgecl.learning.exemplars import Memory
from edgecl.learning.training import Compute
from edgecl.methods import AnyMethod
from edgecl.program import Encoded
from edgecl.program.fitting import Gather
from edgecl.program.learned import Tensors
from edgecl.streams import BrokenImageError, ImageSet
from edgecl_deploy.images import WIDE_MODES
from edgecl_deploy.progress import Reporter

BATCH = 32  # images of a forward pass outside training
EXAMPLES = 200  # classes of a task of which a run stores a small picture


@dataclass(frozen=True)
class Constant:
    """A picture that has one colour after preprocessing.

    Attributes:
        why: what took the rest.
        advice: what to do.
    """

    name: str
    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"

    @classmethod
    def of(cls, name: str, image: Image.Image, preprocess: Preprocess) -> "Constant":
        """Find out why a picture has one colour."""
        if image.mode in WIDE_MODES:
            levels = np.asarray(image)
            finite = levels[np.isfinite(levels)]
            if finite.size and finite.min() < finite.max():
                low, high = preprocess.window or (0.0, 0.0)
                return cls(
                    name,
                    f"its levels, {finite.min():g} to {finite.max():g}, are one grey in the window "
                    f"{low:g} to {high:g}",
                    "Begin a run with `--window LOW,HIGH`, the levels that become black and white.",
                )
        elif image.has_transparency_data:
            return cls(
                name,
                f"it has one colour over the background {preprocess.background}",
                "Begin a run with `--background R,G,B`, another colour than the drawings have.",
            )
        elif preprocess.fit == "crop" and not is_constant(np.asarray(image.convert("RGB"))):
            return cls(
                name,
                "the part that the crop leaves has one colour",
                "Begin a run with `--resize pad`, which cuts nothing off.",
            )
        return cls(name, "it has one colour", "Replace these pictures, or drop the class.")


def is_constant(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Return whether a picture has one colour."""
    return bool((pixels == pixels[0, 0]).all())


def complaint(
    task: str, classes: Sequence[str], of_image: Sequence[str], constant: Mapping[int, Constant]
) -> str:
    """Return what is wrong with a task; nothing if enough is left of it.

    Args:
        classes: of the task; each has an image.
        of_image: the class of every image.
        constant: those of one colour, by their positions.
    """
    left = {name for index, name in enumerate(of_image) if index not in constant}
    empty = [name for name in classes if name not in left]
    if not empty and 2 * len(constant) <= len(of_image):
        return ""
    which = f"all of {empty[0]!r}, " if empty else ""
    shown = next(at for at in constant if not empty or of_image[at] == empty[0])
    return (
        "Every class, and half of the pictures of a task, must be more than one plain colour after "
        f"preprocessing, got {which}{len(constant)} of {len(of_image)} of {task} that are not "
        f"({constant[shown]}). {constant[shown].advice}"
    )


@dataclass(frozen=True)
class ImageBatch:
    """Preprocessed images of one set, without the broken ones.

    Attributes:
        images: uint8 [n, h, w, 3].
        labels: as in the set.
        names: likewise.
        skipped: one line for every image that could not be read.
        constant: the images that have one colour, by their positions.
    """

    images: NDArray[np.uint8]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...]
    constant: dict[int, Constant]


def load_images(images: ImageSet, backbone: Backbone, reporter: Reporter, title: str) -> ImageBatch:
    """Decode and preprocess; a broken image is skipped and named, one of one colour is named."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    skipped: list[str] = []
    constant: dict[int, Constant] = {}
    with reporter.bar(title, len(images)) as advance:
        for index, label in enumerate(images.labels):
            try:
                image = images.image(index, backbone.preprocess.least_side)
                prepared = backbone.preprocess(image)
                if is_constant(prepared):
                    found = Constant.of(images.names[index], image, backbone.preprocess)
                    constant[len(pixels)] = found
                pixels.append(prepared)
                labels.append(label)
                names.append(images.names[index])
            except BrokenImageError as error:
                skipped.append(str(error))
            except BackboneError as error:
                skipped.append(f"{images.names[index]}: {error}")
            advance()
    size = backbone.preprocess.size
    stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
    return ImageBatch(stacked, tuple(labels), tuple(names), tuple(skipped), constant)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Runs images through the passes of a method, in float32, one batch at a time.

    Attributes:
        cache: of the features without injection.
    """

    method: AnyMethod
    backbone: Backbone
    cache: FeatureCache
    compute: Compute
    reporter: Reporter

    @torch.no_grad()
    def frozen(self, images: NDArray[np.uint8]) -> Features:
        """Return the features without injection, from the cache if known, of at least one image."""
        taps = self.method.program.taps
        keys = image_keys(images, taps)
        unknown = self.cache.missing(keys)
        if unknown:
            computed = [
                self.backbone
                .model(self.backbone.preprocess.normalise(batch), taps=taps)
                .select(slice(count))
                .map(Tensor.cpu)
                .named()
                for _, count, batch in self._batches(images[unknown], "features")
            ]
            names = computed[0]
            features = Features(**{name: torch.cat([f[name] for f in computed]) for name in names})
            self.cache.put([keys[index] for index in unknown], features)
        return self.cache.get(keys)

    def plain(self, images: NDArray[np.uint8]) -> Features | None:
        """Return the features without injection; None where the method does not read them.

        Nor where it reads all tokens after the last block: they are too many to store.
        """
        if (
            "plain" not in self.method.program.passes
            or self.method.program.reads_tokens
            or not len(images)
        ):
            return None
        return self.frozen(images)

    @torch.no_grad()
    def encode(
        self,
        images: NDArray[np.uint8],
        learned: Tensors,
        plain: Features | None,
        title: str,
        *,
        training: bool = False,
    ) -> Iterator[tuple[Encoded, int]]:
        """Yield every batch, filled up to `BATCH`, and how many of its images are real.

        Args:
            learned: on the device.
            plain: what `plain` returns for the images.
            training: the images are those of the task that is learned.
        """
        for start, count, batch in self._batches(images, title):
            known = None
            if plain is not None:
                known = plain.select(slice(start, start + count)).map(self._filled)
            pixels = self.backbone.preprocess.normalise(batch)
            program, model = self.method.program, self.backbone.model
            yield program.encode(model, pixels, learned, known, training=training), count

    def on_device(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self.compute.device) for name, tensor in tensors.items()}

    def _batches(
        self, images: NDArray[np.uint8], title: str
    ) -> Iterator[tuple[int, int, UInt8[Tensor, "b h w 3"]]]:
        """Yield each batch's first position, its number of images, and its images with padding."""
        with self.reporter.bar(title, len(images)) as advance:
            for start in range(0, max(1, len(images)), BATCH):  # no image: one batch of padding
                batch = torch.from_numpy(images[start : start + BATCH])
                yield start, len(batch), padded(batch, BATCH).to(self.compute.device)
                advance(len(batch))

    def _filled(self, features: Tensor) -> Tensor:
        """Fill a batch of features [n, ...] with zeros up to `BATCH`, on the device."""
        missing = features.new_zeros(BATCH - len(features), *features.shape[1:])
        return torch.cat([features, missing]).to(self.compute.device)


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

    images: NDArray[np.uint8]
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
        return torch.from_numpy(self.images)

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
        with torch.no_grad():
            found = [
                {name: tensor[:count].cpu() for name, tensor in gather(encoded, learned).items()}
                for encoded, count in batches
            ]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def with_memory(self, memory: Memory | None, former: int) -> "TaskImages":
        """Return these images followed by those that the run remembers.

        Args:
            former: class rows of the former tasks.
        """
        if memory is None:
            return self
        images = np.concatenate([self.images, memory.images.numpy()])
        labels = torch.cat([self.labels, memory.class_rows - former])
        return replace(self, images=images, labels=labels)
