"""IDX files, whole and hostile, and Fashion-MNIST made of tiny ones."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.streams import StreamError, load_stream
from edgecl.streams import _fashion_mnist as fashion
from edgecl.streams._idx import read_idx


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    head = magic if magic is not None else bytes((0, 0, 8, array.ndim))
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder: Path, ending: str = "", label: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        if label is not None:
            labels[:] = label
        pixels = np.broadcast_to(labels[:, None, None], (count, 28, 28)).astype(np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            data = idx(array)
            path = folder / f"{part}-{name}-ubyte{ending}"
            path.write_bytes(gzip.compress(data) if ending else data)
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_whole_file(tmp_path, ending):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / f"images{ending}"
    path.write_bytes(gzip.compress(idx(array)) if ending else idx(array))
    assert np.array_equal(read_idx(path, 3), array)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "magic"),
        (idx(np.zeros((2, 3, 4), np.uint8), magic=b"\0\0\x0d\x03"), "magic"),
        (idx(np.zeros((2, 3), np.uint8)), "magic"),
        (b"\0\0\x08\x03\0\0", "header is truncated"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:-1], "need 24 bytes, there are 23"),
        (idx(np.zeros((2, 3, 4), np.uint8)) + b"x", "need 24 bytes, there are 25"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 0, 28, 28), "allowed are 1 to"),
    ],
)
def test_hostile_files_are_named(tmp_path, data, reason, ending):
    path = tmp_path / f"images{ending}"
    path.write_bytes(gzip.compress(data) if ending else data)
    with pytest.raises(StreamError, match=rf"images.*{reason}.*Install or download it again"):
        read_idx(path, 3)


def test_huge_sizes_are_refused_before_allocation(tmp_path):
    path = tmp_path / "images.gz"
    head = b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    path.write_bytes(gzip.compress(head + bytes(1000)))
    tracemalloc.start()
    with pytest.raises(StreamError, match="allowed are 1 to"):
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_broken_gzip_is_named(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2, 30, 40), np.uint8)))[:-9])
    with pytest.raises(StreamError, match="Install or download it again"):
        read_idx(path, 3)


@settings(max_examples=100)
@given(data=st.binary(max_size=40), valid=st.booleans())
def test_any_bytes_give_an_array_or_an_error(tmp_path_factory, data, valid):
    path = tmp_path_factory.mktemp("idx") / "labels"
    path.write_bytes((b"\0\0\x08\x01" if valid else b"") + data)
    try:
        array = read_idx(path, 1)
    except StreamError:
        return
    assert idx(array) == path.read_bytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fashion_mnist_from_a_folder(tmp_path, ending):
    stream = load_stream("fashion-mnist", root=str(write_fashion(tmp_path, ending)), seed=None)
    assert stream.classes == fashion.CLASSES
    assert [(len(t.train), len(t.test)) for t in stream.tasks] == [(8, 4)] * 5
    assert stream.tasks[4].train.image(0).getpixel((3, 3)) == 8
    assert load_stream(**stream.spec).tasks[0].train.names == stream.tasks[0].train.names


def test_fashion_mnist_finds_torchvisions_folder(tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw")
    assert len(load_stream("fashion-mnist", root=str(tmp_path)).tasks) == 5


def test_fashion_mnist_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(StreamError, match="Install Debian's dataset-fashion-mnist"):
        load_stream("fashion-mnist", root=str(tmp_path))
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path)
    with pytest.raises(StreamError, match="or give root"):
        load_stream("fashion-mnist")
    with pytest.raises(StreamError, match="Give root"):
        load_stream("fashion-mnist", download=True)


def test_fashion_mnist_that_is_incomplete(tmp_path):
    folder = write_fashion(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(StreamError, match="has four files"):
        load_stream("fashion-mnist", root=str(folder))


def test_fashion_mnist_with_a_wrong_label(tmp_path):
    with pytest.raises(StreamError, match=r"the largest 10\. Install the set again"):
        load_stream("fashion-mnist", root=str(write_fashion(tmp_path, label=10)))


def test_fashion_mnist_without_images_of_a_class(tmp_path):
    with pytest.raises(StreamError, match="Every class of a task must have a training image"):
        load_stream("fashion-mnist", root=str(write_fashion(tmp_path, label=3)))
