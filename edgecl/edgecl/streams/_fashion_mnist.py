"""Stream `fashion-mnist`: 70,000 grey images of 28 x 28 pixels, 5 tasks of 2.

The files are read from `root` (a folder of IDX files, or torchvision's) or from Debian's package
dataset-fashion-mnist; with `download` torchvision fetches them.
"""

from dataclasses import dataclass
from pathlib import Path

from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._errors import StreamError
from edgecl.streams._idx import read_idx
from edgecl.streams._options import ClassOptions, option
from edgecl.streams._registry import register_stream
from edgecl.streams._sources import ArraySource
from edgecl.streams._torchvision import open_dataset
from edgecl.streams._types import ImageSet, Stream

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)


@dataclass(frozen=True)
class FashionMnistOptions(ClassOptions):
    """Options of `fashion-mnist`."""

    root: str | None = option("Where the data set's files are.", path=True)
    download: bool | None = option("Let torchvision download into the root.")


@register_stream("fashion-mnist", FashionMnistOptions)
def fashion_mnist(options: FashionMnistOptions) -> Stream:
    """Build the stream from the four IDX files."""
    folder = _folder(options)
    train, test = _read(folder, "train"), _read(folder, "t10k")
    return class_incremental(DataSet(CLASSES, train, test), options, options.increment or 2)


def _folder(options: FashionMnistOptions) -> Path:
    if options.download:
        if options.root is None:
            raise StreamError(
                "A download needs a folder to write to; got download without root. Give root."
            )
        open_dataset("FashionMNIST", options.root, download=True)
    roots = [DEBIAN] if options.root is None else [Path(options.root)]
    folders = [f for root in roots for f in (root, root / "FashionMNIST" / "raw")]
    for folder in folders:
        if _file(folder, "train-images-idx3-ubyte") is not None:
            return folder
    raise StreamError(
        f"Stream 'fashion-mnist' needs its IDX files; {roots[0]} has none. Install Debian's "
        "dataset-fashion-mnist, or give root (a folder with train-images-idx3-ubyte[.gz], ...), "
        "or give root and download."
    )


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read(folder: Path, part: str) -> ImageSet:
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    paths = [_file(folder, name) for name in names]
    if paths[0] is None or paths[1] is None:
        raise StreamError(
            f"Fashion-MNIST has four files; {folder} lacks {' or '.join(names)}. "
            "Install or download the set again."
        )
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels) or labels.max() >= len(CLASSES):
        raise StreamError(
            f"{paths[1]} must hold a label below {len(CLASSES)} for each of {len(images)} images; "
            f"it holds {len(labels)}, the largest {labels.max()}. Install the set again."
        )
    names_of = [f"{paths[0].name}[{i}]" for i in range(len(images))]
    return ImageSet.of(ArraySource(images), [int(label) for label in labels], names_of)
