"""Streams `torchvision:DATASET`: torchvision's image classification data sets by name."""

import hashlib
import inspect
import threading
from bisect import bisect_right
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from edgecl.config import nearest
from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._options import ClassOptions, HeldOutOptions, option
from edgecl.streams._registry import register_stream
from edgecl.streams._select import hold_out
from edgecl.streams._sources import DIGEST_BYTES, file_digest, image_digest, open_image
from edgecl.streams._types import ImageSet, Stream

LABELS = ("targets", "_labels", "labels", "y")  # attributes of torchvision's data sets
# What the training part and the test part are made of, where it is not `train` and `test`: images
# for validation are training images here; where the test labels are secret, they are the test.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Country211": (("train", "valid"), ("test",)),
    "DTD": (("train", "val"), ("test",)),
    "FGVCAircraft": (("trainval",), ("test",)),
    "Flowers102": (("train", "val"), ("test",)),
    "ImageNet": (("train",), ("val",)),
    "Imagenette": (("train",), ("val",)),
    "OxfordIIITPet": (("trainval",), ("test",)),
    "PCAM": (("train", "val"), ("test",)),
    "Places365": (("train-standard",), ("val",)),
    "RenderedSST2": (("train", "val"), ("test",)),
}


class DatasetSource:
    """The images of torchvision data sets without transforms, one after the other.

    Where torchvision itself decodes, they come in full whatever `least` is.
    """

    def __init__(self, datasets: Sequence[Any], name: str) -> None:
        self.datasets, self.name = datasets, name
        self._ends = list(accumulate(map(len, datasets)))
        self._asked = threading.local()  # least, of the image that a thread reads
        for dataset in datasets:
            if hasattr(dataset, "loader"):  # of a folder of somebody's images, as ImageFolder
                dataset.loader = lambda path: open_image(
                    Path(path), str(path), least=self._asked.least
                )

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> tuple[Any, int]:
        which = bisect_right(self._ends, index)
        return self.datasets[which], index - (self._ends[which - 1] if which else 0)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        dataset, own = self._at(index)
        self._asked.least = least
        try:
            image = dataset[own][0]
            image.load()  # some leave the file open
        except Exception as error:  # whatever the data set raises for a file that it cannot read
            raise BrokenImageError(
                f"An image must be readable; {self.name}[{index}] is not "
                f"({type(error).__name__}: {error}). Download the data set again."
            ) from error
        assert isinstance(image, Image.Image)
        return image

    def digest(self, index: int, fresh: bool = False) -> bytes:
        """Return the digest of the file or of the image; nothing where it cannot be read."""
        dataset, own = self._at(index)
        if hasattr(dataset, "loader") and hasattr(dataset, "samples"):
            return file_digest(dataset.samples[own][0])
        files = getattr(dataset, "_image_files", None)
        if files is not None and len(files) == len(dataset):
            found = file_digest(files[own])
            return found if hasattr(dataset, "loader") else converted(found)
        try:
            return image_digest(self.image(index))
        except BrokenImageError:
            return b""

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels; of files, from the header alone."""
        dataset, own = self._at(index)
        if not (hasattr(dataset, "loader") and hasattr(dataset, "samples")):
            return self.image(index).mode
        path = Path(dataset.samples[own][0])
        return open_image(path, str(path), header_only=True).mode


def converted(content: bytes) -> bytes:
    """Return the digest of a file that torchvision decodes: to RGB, whole, as it is stored.

    A stream of the same file that is decoded as on the device has other pixels.

    Args:
        content: the digest of the file; nothing where it cannot be read, as what is returned.
    """
    what = b"torchvision RGB " + content
    return hashlib.blake2b(what, digest_size=DIGEST_BYTES).digest() if content else b""


@dataclass(frozen=True)
class TorchvisionOptions(HeldOutOptions, ClassOptions):
    """Options of a data set of torchvision."""

    root: str | None = option("Where the data set's files are.", path=True)
    download: bool | None = option("Let torchvision download into the root.")


@register_stream("torchvision", TorchvisionOptions)
def torchvision_stream(options: TorchvisionOptions) -> Stream:
    """Build a class-incremental stream of a torchvision data set, `increment` classes per task.

    Raises:
        StreamError: root or increment is missing, or the data set cannot be opened.
    """
    name = options.name.partition(":")[2]
    if options.increment is None or options.root is None:
        raise StreamError(
            f"Stream {options.name!r} needs root (the data set's folder) and increment (classes "
            f"per task); got root {options.root!r}, increment {options.increment!r}. Give both."
        )
    download = bool(options.download)
    train, test = open_dataset(name, options.root, download=download)
    classes = class_names(train[0])
    train_set = _images(train, name, "train")
    if test:
        test_set = _images(test, name, "test")
    else:
        named = dict(enumerate(classes))
        train_set, test_set = hold_out(train_set, options.fraction, named, name, options.seed)
    return class_incremental(DataSet(classes, train_set, test_set), options, options.increment)


def open_dataset(name: str, root: str, *, download: bool) -> tuple[list[Any], list[Any]]:
    """Return what the training images and the test images of a data set are in.

    The second list is empty where the data set has no test part.

    Raises:
        StreamError: torchvision has no such data set, or does not find or accept its files.
    """
    from edgecl.backbones._torchvision import prepare_torchvision

    prepare_torchvision()
    from torchvision import datasets

    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if name not in known:
        raise StreamError(
            f"torchvision has no data set {name!r}. {nearest(name, known)} "
            "Its documentation lists all, under torchvision.datasets."
        )
    factory = getattr(datasets, name)
    takes = inspect.signature(factory.__init__).parameters
    common: dict[str, Any] = {"root": root}
    if "download" in takes:
        common["download"] = download
    try:
        train, test = (
            [factory(**common, **each) for each in part] for part in parts_of(name, set(takes))
        )
    except Exception as error:  # RuntimeError, ValueError, OSError, ..., by data set
        raise StreamError(
            f"torchvision must find {name} in {root}; it does not ({error}). Check root, or "
            "allow the download."
        ) from error
    if len({class_names(each) for each in train + test if hasattr(each, "classes")}) > 1:
        raise StreamError(
            f"All parts of {name} in {root} must have the same classes; they differ. "
            "Download the data set again."
        )
    return train, test


def parts_of(name: str, takes: Container[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the arguments that open the training parts of a data set, and its test parts.

    Args:
        takes: the names of what it takes.
    """
    if name == "EMNIST":
        return [{"split": "balanced", "train": True}], [{"split": "balanced", "train": False}]
    if "train" in takes:
        return [{"train": True}], [{"train": False}]
    if "split" in takes:
        train, test = PARTS.get(name, (("train",), ("test",)))
        return [{"split": each} for each in train], [{"split": each} for each in test]
    return [{}], []


def class_names(dataset: Any) -> tuple[str, ...]:
    """Return the class names of a data set, its labels as numbers where it has no names."""
    stated = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if stated:
        return tuple(c if isinstance(c, str) else " ".join(map(str, c)) for c in stated)
    return tuple(str(i) for i in range(max(_labels(dataset)) + 1))


def _images(datasets: Sequence[Any], name: str, part: str) -> ImageSet:
    source = DatasetSource(datasets, f"{name}/{part}")
    labels = [label for dataset in datasets for label in _labels(dataset)]
    names = [f"torchvision:{name}/{part}[{i}]" for i in range(len(source))]
    return ImageSet.of(source, labels, names)


def _labels(dataset: Any) -> list[int]:
    for attribute in LABELS:
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) for label in labels]
    samples = getattr(dataset, "_samples", None)  # (file, label)
    if samples is not None and len(samples) == len(dataset):
        return [int(label) for _, label in samples]
    return [int(dataset[i][1]) for i in range(len(dataset))]  # decodes every image
