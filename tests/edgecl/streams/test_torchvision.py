"""torchvision's data sets as streams, with a data set that needs no files but our own."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.streams import BrokenImageError, PathSource, StreamError, load_stream
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
    source = DatasetSource([Few()], "Few/train")
    assert (source.image(0).size, source.mode(0)) == ((2, 2), "L")
    with pytest.raises(BrokenImageError, match=r"Few/train\[1\].*Download the data set again"):
        source.image(1)


class Converting:
    """A data set of files that decodes them itself, as torchvision's before they had a loader."""

    def __init__(self, *files):
        self._image_files = files

    def __len__(self):
        return len(self._image_files)

    def __getitem__(self, index):
        return Image.open(self._image_files[index]).convert("RGB"), 0


def test_a_file_that_torchvision_decodes_is_another_image_than_one_that_we_decode(tmp_path):
    picture(tmp_path / "a.png")
    files = PathSource([tmp_path / "a.png", tmp_path / "none.png"])
    theirs, ours = Converting(*files.paths), Converting(*files.paths)
    ours.loader = None  # replaced by the decoder of all other streams
    assert DatasetSource([ours], "").digest(0) == files.digest(0)
    assert DatasetSource([theirs], "").digest(0) not in {files.digest(0), b""}
    assert DatasetSource([theirs], "").digest(0) == DatasetSource([theirs], "").digest(0)
    assert DatasetSource([theirs], "").digest(1) == b""


def test_classes_without_names_are_numbers():
    assert class_names(Few()) == ("0", "1", "2")


# -- data sets in their published layouts: (classes, training images of each, test images)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")


def pets(root):
    folder, number = root / "oxford-iiit-pet", 0
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("trainval", 3), ("test", 2)):
        lines = []
        for label, name in enumerate(("Abyssinian", "american_bulldog"), 1):
            for _ in range(count):
                number += 1
                picture(folder / "images" / f"{name}_{number}.jpg")
                lines.append(f"{name}_{number} {label} 1 1")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines))
    return ("Abyssinian", "American Bulldog"), 3, 2


def textures(root):
    folder, number = root / "dtd" / "dtd", 0
    (folder / "labels").mkdir(parents=True)
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for name in ("banded", "dotted"):
            for _ in range(count):
                number += 1
                picture(folder / "images" / name / f"{name}_{number}.jpg")
                lines.append(f"{name}/{name}_{number}.jpg")
        (folder / "labels" / f"{part}1.txt").write_text("\n".join(lines))
    return ("banded", "dotted"), 3, 1


def aircraft(root):
    folder, number = root / "fgvc-aircraft-2013b" / "data", 0
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nA380\n")
    for part, count in (("train", 1), ("val", 1), ("trainval", 2), ("test", 1)):
        lines = []
        for name in ("707-320", "A380"):
            for _ in range(count):
                number += 1
                picture(folder / "images" / f"{number:07d}.jpg")
                lines.append(f"{number:07d} {name}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines))
    return ("707-320", "A380"), 2, 1


def caltech(root):
    folder = root / "caltech101"
    (folder / "Annotations").mkdir(parents=True)
    for name in ("BACKGROUND_Google", "anchor", "ant"):
        for number in range(1, 6):
            picture(folder / "101_ObjectCategories" / name / f"image_{number:04d}.jpg")
    return ("anchor", "ant"), 4, 1


def signs(root):
    folder = root / "gtsrb"
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(2):
        for number in range(3):
            picture(folder / "GTSRB" / "Training" / f"{label:05d}" / f"{number:05d}.ppm")
        picture(folder / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm")
        lines.append(f"{label:05d}.ppm;4;4;0;0;4;4;{label}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines))
    return ("0", "1"), 3, 1


def imagenet(root):
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    torch.save((names, []), root / "meta.bin")
    for part, count in (("train", 3), ("val", 2)):
        for folder in names:
            for number in range(count):
                picture(root / part / folder / f"{number}.JPEG")
    return ("tench Tinca tinca", "goldfish"), 3, 2


LAYOUTS = {
    "OxfordIIITPet": pets,
    "DTD": textures,
    "FGVCAircraft": aircraft,
    "Caltech101": caltech,
    "GTSRB": signs,
    "ImageNet": imagenet,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_opens_whole_and_undecoded(name, tmp_path, monkeypatch):
    """Images for validation are training images; labels and names come from the lists."""
    classes, train, test = LAYOUTS[name](tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    stream = load_stream(f"torchvision:{name}", root=str(tmp_path), increment=1, seed=None)
    monkeypatch.undo()
    assert stream.classes == classes
    for label, task in enumerate(stream.tasks):
        assert (len(task.train), len(task.test)) == (train, test)
        assert {*task.train.labels, *task.test.labels} == {label}
        for images in (task.train, task.test):
            assert all(images.image(i).size == (4, 4) for i in range(len(images)))


def test_parts_follow_one_another(tmp_path):
    textures(tmp_path)
    stream = load_stream("torchvision:DTD", root=str(tmp_path), increment=2, seed=None)
    source = stream.tasks[0].train.source
    files = [source._at(i)[0]._image_files[source._at(i)[1]].name for i in range(len(source))]
    assert files == ["banded_1.jpg", "banded_2.jpg", "dotted_3.jpg", "dotted_4.jpg", "banded_5.jpg",
                     "dotted_6.jpg"]  # fmt: skip


def test_parts_of_other_classes_are_refused(tmp_path):
    textures(tmp_path)
    labels = tmp_path / "dtd" / "dtd" / "labels" / "val1.txt"
    labels.write_text("dotted/dotted_6.jpg")
    with pytest.raises(StreamError, match="must have the same classes"):
        load_stream("torchvision:DTD", root=str(tmp_path), increment=1)
