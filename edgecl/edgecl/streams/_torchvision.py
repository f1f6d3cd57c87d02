"""Streams `torchvision:DATASET`: torchvision's image classification data sets by name."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from edgecl.config import nearest
from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._options import ClassOptions, HeldOutOptions, option
from edgecl.streams._registry import register_stream
from edgecl.streams._select import hold_out
from edgecl.streams._sources import open_image
from edgecl.streams._types import ImageSet, Stream

LABELS = ("targets", "_labels", "labels", "y")  # attributes of torchvision's data sets


class DatasetSource:
    """The images of a torchvision data set without transforms.

    Where torchvision itself decodes, they come in full whatever `least` is.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name
        self._least: int | None = None  # of the image that is being read
        if hasattr(dataset, "loader"):  # of a folder of somebody's images, as ImageFolder
            dataset.loader = lambda path: open_image(Path(path), str(path), least=self._least)

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int, least: int | None = None) -> Image.Image:
        self._least = least
        try:
            image = self.dataset[index][0]
        except Exception as error:  # whatever the data set raises for a file that it cannot read
            raise BrokenImageError(
                f"An image must be readable; {self.name}[{index}] is not "
                f"({type(error).__name__}: {error}). Download the data set again."
            ) from error
        assert isinstance(image, Image.Image)
        return image

    def mode(self, index: int) -> str:
        """Return Pillow's name for the kind of pixels; of files, from the header alone."""
        if not (hasattr(self.dataset, "loader") and hasattr(self.dataset, "samples")):
            return self.image(index).mode
        path = Path(self.dataset.samples[index][0])
        return open_image(path, str(path), header_only=True).mode


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
    whole, test = open_dataset(name, options.root, download=download)
    classes = class_names(whole)
    train_set = _images(whole, name, "train")
    if test is not None:
        test_set = _images(test, name, "test")
    else:
        named = dict(enumerate(classes))
        train_set, test_set = hold_out(train_set, options.fraction, named, name, options.seed)
    return class_incremental(DataSet(classes, train_set, test_set), options, options.increment)


def open_dataset(name: str, root: str, *, download: bool) -> tuple[Any, Any]:
    """Return the training part of a data set and its test part, or all of it and None.

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
    parts: list[dict[str, Any]] = [{}]
    if "train" in takes:
        parts = [{"train": True}, {"train": False}]
    elif "split" in takes:
        parts = [{"split": "train"}, {"split": "test"}]
    try:
        opened = [factory(**common, **part) for part in parts]
    except Exception as error:  # RuntimeError, ValueError, OSError, ..., by data set
        raise StreamError(
            f"torchvision must find {name} in {root}; it does not ({error}). Check root, or "
            "allow the download."
        ) from error
    return opened[0], opened[1] if len(opened) > 1 else None


def class_names(dataset: Any) -> tuple[str, ...]:
    """Return the class names of a data set, its labels as numbers where it has no names."""
    stated = getattr(dataset, "classes", None)
    if stated:
        return tuple(c if isinstance(c, str) else " ".join(map(str, c)) for c in stated)
    return tuple(str(i) for i in range(max(_labels(dataset)) + 1))


def _images(dataset: Any, name: str, part: str) -> ImageSet:
    names = [f"torchvision:{name}/{part}[{i}]" for i in range(len(dataset))]
    return ImageSet.of(DatasetSource(dataset, f"{name}/{part}"), _labels(dataset), names)


def _labels(dataset: Any) -> list[int]:
    for attribute in LABELS:
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) for label in labels]
    return [int(dataset[i][1]) for i in range(len(dataset))]  # decodes every image
