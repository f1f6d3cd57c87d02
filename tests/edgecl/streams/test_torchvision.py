"""torchvision's data sets as streams, with a data set that needs no files but our own."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from edgecl.streams import BrokenImageError, StreamError, load_stream
from edgecl.streams._torchvision import DatasetSource, class_names


@pytest.fixture
def root(tmp_path):
    """Fashion-MNIST in torchvision's layout: 40 training and 20 test images."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.broadcast_to(labels[:, None, None], (count, 28, 28)).astype(np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            path = raw / f"{part}-{name}-ubyte"
            path.write_bytes(head + array.tobytes())
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return tmp_path


def test_data_set_with_a_train_flag(root):
    stream = load_stream("torchvision:FashionMNIST", root=str(root), increment=5, seed=None)
    assert stream.name == "torchvision:FashionMNIST"
    assert stream.classes[1] == "Trouser"
    assert [(len(t.train), len(t.test)) for t in stream.tasks] == [(20, 10)] * 2
    assert stream.tasks[1].train.image(0).getpixel((0, 0)) == 5
    assert load_stream(**stream.spec).tasks[1].test.names == stream.tasks[1].test.names


def test_data_set_without_parts_holds_images_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{i}.png")
    stream = load_stream("torchvision:ImageFolder", root=str(tmp_path), increment=1, seed=None)
    assert [t.classes for t in stream.tasks] == [("cat",), ("dog",)]
    assert [(len(t.train), len(t.test)) for t in stream.tasks] == [(4, 1)] * 2
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    for i in range(5):
        (tmp_path / "cat" / f"{i}.png").write_bytes(whole[: whole.index(b"IDAT") + 8])
    assert stream.tasks[0].train.mode(0) == "RGB"  # the header is whole
    with pytest.raises(BrokenImageError, match="complete PNG"):
        stream.tasks[0].train.image(0)
    for i in range(5):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(BrokenImageError, match="PostScript"):
        stream.tasks[0].train.image(0)


@pytest.mark.parametrize(
    ("name", "options", "action"),
    [
        ("torchvision:CIFAR100", {}, "Give both"),
        ("torchvision:CIFAR1000", {"increment": 10, "root": "."}, "Did you mean 'CIFAR100'"),
        ("torchvision:", {"increment": 10, "root": "."}, "Its documentation lists all"),
        ("torchvision:CIFAR100", {"increment": 10, "root": "/none"}, "allow the download"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(name, options, action):
    with pytest.raises(StreamError, match=action):
        load_stream(name, **options)


class Few:
    """A data set without class names, one of whose images is broken."""

    targets = (0, 2, 1)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise OSError("truncated")
        return Image.new("L", (2, 2)), self.targets[index]


def test_broken_image_is_named():
    source = DatasetSource(Few(), "Few/train")
    assert (source.image(0).size, source.mode(0)) == ((2, 2), "L")
    with pytest.raises(BrokenImageError, match=r"Few/train\[1\].*Download the data set again"):
        source.image(1)


def test_classes_without_names_are_numbers():
    assert class_names(Few()) == ("0", "1", "2")
