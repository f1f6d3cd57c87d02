"""Directories: complete or not at all."""

import os

import pytest

from edgecl_deploy import errors
from edgecl_deploy.files import (
    read_bundle,
    read_packs,
    read_release,
    write_packs,
    write_release,
)
from edgecl_deploy.format import digest


@pytest.fixture
def made(world):
    return world.made(world.pack(0, ("red",)), world.pack(1, ("green",)))


def test_a_release_round_trips(world, made):
    path = world.root / "new" / "release"
    name = write_release(path, made.release, made.manifests, made.blobs)
    found = read_release(path)
    assert found.release == made.release
    assert found.digest == name == digest((path / "release.json").read_bytes())
    assert dict(found.manifests) == made.manifests
    assert dict(found.blobs) == made.blobs
    assert [pack.classes for pack in found.packs] == [("red",), ("green",)]
    assert os.listdir(path.parent) == ["release"]  # no temporary folder is left
    assert path.stat().st_mode & 0o777 == 0o755


def test_writing_the_same_release_again_does_nothing(world, made):
    path = made.write(world.fresh())
    before = (path / "release.json").stat()
    made.write(path)
    assert (path / "release.json").stat() == before


@pytest.mark.parametrize("kind", ["another release", "a folder", "a file", "a dangling link"])
def test_nothing_is_overwritten(world, made, kind):
    path = world.fresh()
    if kind == "another release":
        world.made(world.pack(0, ("blue",))).write(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a file":
        path.write_bytes(b"mine")
    else:
        path.symlink_to(world.root / "nowhere")
    with pytest.raises(errors.TargetExistsError, match="Write to a new directory"):
        made.write(path)


def test_a_failed_write_leaves_nothing(world, made, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(os.listdir(world.root))
    with pytest.raises(OSError, match="No space left"):
        made.write(world.root / "release")
    assert sorted(os.listdir(world.root)) == before


def test_wrong_bytes_are_not_written(world, made):
    made.blobs = dict.fromkeys(made.blobs, b"other")
    with pytest.raises(errors.DigestError, match="Copy the file again"):
        made.write(world.root / "release")
    assert not (world.root / "release").exists()


def test_a_packs_directory_round_trips(world, made):
    path = world.fresh()
    write_packs(path, made.manifests, made.blobs)
    manifests, blobs = read_packs(path)
    assert list(manifests.items()) == list(made.manifests.items())  # in the order of the tasks
    assert blobs == made.blobs


def test_a_bundle_has_its_digest_and_its_files(world):
    found = read_bundle(world.bundle_path)
    assert found.bundle == world.bundle
    assert found.digest == digest((world.bundle_path / "bundle.json").read_bytes())
    assert [ref.file for ref in found.bundle.files()].count("weights.bin") == 1
    (world.bundle_path / "pool.match.onnx").unlink()
    with pytest.raises(errors.MissingFileError, match="Copy the whole directory again"):
        read_bundle(world.bundle_path)


def test_too_many_bytes_are_refused_before_they_are_read(world, made, monkeypatch):
    path = made.write(world.fresh())
    monkeypatch.setattr("edgecl_deploy.manifest.limits.MAX_LEARNED", 100)
    with pytest.raises(errors.LimitError, match="Release fewer tasks"):
        read_release(path)


def test_the_release_directory_itself_may_be_a_link(world, made):
    link = world.root / "current"
    link.symlink_to(made.write(world.fresh()))
    assert read_release(link).release == made.release
