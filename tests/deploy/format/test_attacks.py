"""Hostile files: each is a named error with an action, in bounded memory and time."""

import importlib.util
import json
import os
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecl_deploy import Classifier, errors
from edgecl_deploy.format import (
    digest,
    parse_bundle,
    parse_index,
    parse_pack,
    parse_release,
    read_tensors,
    write_tensors,
)

MAKE = Path(__file__).parents[2] / "attacks" / "make.py"
READERS = {
    "pack": parse_pack,
    "release": parse_release,
    "bundle": parse_bundle,
    "index": parse_index,
    "tensors": read_tensors,
}
MOST_MEMORY = 32 * 1024 * 1024  # bytes besides the file itself
MOST_SECONDS = 5.0


def load_make():
    spec = importlib.util.spec_from_file_location("attacks_make", MAKE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


make = load_make()


@pytest.mark.parametrize("attack", make.attacks(), ids=lambda each: f"{each.reader}-{each.name}")
def test_an_attack_is_a_named_error_in_bounded_memory(attack):
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(errors.DeployError, match=attack.action) as caught:
            READERS[attack.reader](attack.data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(caught.value).__name__ == attack.error
    assert peak < MOST_MEMORY
    assert time.perf_counter() - begin < MOST_SECONDS
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["pack", "release", "bundle"])
def test_the_files_that_attacks_start_from_are_sound(kind):
    data = json.dumps(getattr(make, kind)()).encode()
    parsed = READERS[kind](data)
    assert READERS[kind](parsed.to_bytes()) == parsed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_that_are_no_numbers_are_refused(world, value, dtype):
    tensors = {"prototypes": np.array([[0, value, 1]], np.float32)}
    made = world.made(world.pack(0, ("red",), tensors=tensors, dtype=dtype))
    with pytest.raises(errors.NonFiniteError, match="Do not use this pack; learn the task again"):
        Classifier.open(world.bundle_path, made.write(world.fresh()))


def test_a_pack_of_another_backbone_is_refused(world):
    pack, blobs = world.pack(0, ("red",))
    path = world.made((replace(pack, backbone="0" * 64), blobs)).write(world.fresh())
    with pytest.raises(errors.WrongBackboneError, match="Install the bundle of that backbone"):
        Classifier.open(world.bundle_path, path)


@pytest.mark.parametrize("where", ["release.json", "packs", "blobs"])
@pytest.mark.parametrize("change", ["flip", "truncate", "extend"])
def test_any_change_of_a_release_is_refused(world, where, change):
    path = world.release("red")
    file = path / where
    if file.is_dir():
        (file,) = file.iterdir()
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(
        {
            "flip": data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :],
            "truncate": data[:-1],
            "extend": data + b"}",
        }[change]
    )
    with pytest.raises(errors.DeployError, match=r"\. [A-Z]"):
        Classifier.open(world.bundle_path, path)


@pytest.mark.parametrize("where", ["release.json", "packs", "blobs", "packs/*", "blobs/*"])
def test_links_inside_a_release_are_refused(world, where):
    path = world.release("red")
    (target,) = path.glob(where)
    moved = world.root / "elsewhere"
    target.rename(moved)
    target.symlink_to(moved)
    with pytest.raises(errors.SymlinkError, match="copy the real files, without links"):
        Classifier.open(world.bundle_path, path)


@pytest.mark.parametrize("name", ["bundle.json", "weights.bin", "plain.fused.onnx"])
def test_links_inside_a_bundle_are_refused(world, name):
    target, moved = world.bundle_path / name, world.root / "elsewhere"
    target.rename(moved)
    target.symlink_to(moved)
    with pytest.raises(errors.SymlinkError, match="copy the real files, without links"):
        Classifier.open(world.bundle_path, world.release("red"))


def test_a_pipe_or_a_folder_is_no_file(world):
    path = world.release("red")
    (path / "release.json").unlink()
    os.mkfifo(path / "release.json")
    with pytest.raises(errors.SymlinkError, match="copy the real files"):
        Classifier.open(world.bundle_path, path)
    (path / "release.json").unlink()
    (path / "release.json").mkdir()
    with pytest.raises(errors.SymlinkError, match="copy the real files"):
        Classifier.open(world.bundle_path, path)


@pytest.mark.parametrize("where", ["release.json", "packs", "blobs"])
def test_a_missing_file_is_named(world, where):
    path = world.release("red")
    (path / where).rename(world.root / "gone")
    with pytest.raises(errors.MissingFileError, match="Copy the whole directory again"):
        Classifier.open(world.bundle_path, path)


def test_a_huge_file_is_refused_before_it_is_read(world):
    path = world.release("red")
    for where in ("release.json", "packs/*", "blobs/*"):
        (file,) = path.glob(where)
        data = file.read_bytes()
        os.truncate(file, 10 * 2**30)  # a hole: it takes no space
        tracemalloc.start()
        with pytest.raises(errors.SizeError, match="Copy the whole directory again"):
            Classifier.open(world.bundle_path, path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        tracemalloc.stop()
        file.write_bytes(data)
    weights = world.bundle_path / "weights.bin"
    os.truncate(weights, 10 * 2**30)
    with pytest.raises(errors.SizeError, match="Copy the whole directory again"):
        Classifier.open(world.bundle_path, path)


def test_a_blob_that_contradicts_its_manifest_is_refused(world):
    pack, _ = world.pack(0, ("red",))

    def opened(**tensors):
        blob = write_tensors(tensors)
        entry = replace(pack.tensors["prototypes"], blob=digest(blob))
        own = replace(pack, tensors={"prototypes": entry}, blobs={digest(blob): len(blob)})
        path = world.made((own, {digest(blob): blob})).write(world.fresh())
        return Classifier.open(world.bundle_path, path)

    half = np.zeros((1, 3), np.float16)
    assert opened(prototypes=half).classes == ("red",)
    with pytest.raises(errors.TensorShapeError, match="Export the task again"):
        opened(prototypes=np.zeros((3, 1), np.float16))
    with pytest.raises(errors.TensorDtypeError, match="Export the task again"):
        opened(prototypes=half.astype(np.float32))
    with pytest.raises(errors.ExtraTensorError, match="Export the task again"):
        opened(prototypes=half, more=half)
