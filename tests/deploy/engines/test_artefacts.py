"""A compiled graph that is kept: whatever is in doubt is compiled again, never believed."""

import json
import logging
import os
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgecl_deploy import Classifier, engines
from edgecl_deploy.engines import Artefacts, artefacts, make_engine

KEY = {"engine": "a", "graph": "0" * 64, "batch": 1}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)


@pytest.fixture
def kept(tmp_path):
    found = Artefacts(tmp_path / "kept")
    found.put(KEY, b"compiled" * 1000)
    assert found.get(KEY) == b"compiled" * 1000
    return found


def only(found: Artefacts):
    (path,) = found.folder.iterdir()
    return path


def test_only_this_user_can_read_or_write_it(kept):
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only(kept).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", sorted(KEY))
def test_another_key_finds_nothing(kept, name):
    assert kept.get({**KEY, name: "another"}) is None
    assert kept.get(KEY) is not None


def test_a_file_under_the_name_of_another_key_is_not_believed(kept):
    other = {**KEY, "batch": 2}
    only(kept).rename(kept._path(other))
    assert kept.get(other) is None


DAMAGE = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "no content": lambda data: data[: data.index(b"compiled") - 1],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"x",
    "a bit of the content": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "a bit of the digest": lambda data: flip(data, data.index(b"compiled") - 5),
    "a bit of the key": lambda data: flip(data, 8),
    "a bit of the length": lambda data: flip(data, 3),
    "a length of 4 GiB": lambda data: b"\xff\xff\xff\xff" + data[4:],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"<html>404</html>",
    "twice": lambda data: data * 2,
}


def flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_bytes_are_removed_and_made_again(kept, kind, caplog):
    path = only(kept)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert kept.get(KEY) is None
        assert kept.get(KEY) is None
    assert not path.exists()
    assert len(caplog.records) == 1
    kept.put(KEY, b"again")
    assert kept.get(KEY) == b"again"


def make_link(path):
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def make_folder(path):
    path.unlink()
    path.mkdir()


FOREIGN = {
    "writable by others": lambda path: path.chmod(0o602),
    "readable by others": lambda path: path.chmod(0o644),
    "a link": make_link,
    "a pipe": make_fifo,
    "a folder": make_folder,
    "of another user": pytest.param(lambda path: os.chown(path, 1, 1), marks=root),
    "in a folder open to others": lambda path: path.parent.chmod(0o777),
    "in a folder of another user": pytest.param(
        lambda path: os.chown(path.parent, 1, 1), marks=root
    ),
}


@pytest.mark.parametrize(
    "change",
    [each if not callable(each) else pytest.param(each, id=name) for name, each in FOREIGN.items()],
)
@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX")
def test_what_others_could_write_is_not_read(kept, change, caplog):
    change(only(kept))
    with caplog.at_level(logging.WARNING):
        assert kept.get(KEY) is None
    assert "compiled again" in caplog.text


def test_a_folder_that_is_a_link_is_not_used(kept, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(kept.folder)
    assert Artefacts(link).get(KEY) is None


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path, caplog):
    (tmp_path / "kept").write_text("x")
    found = Artefacts(tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        found.put(KEY, b"x")
        assert found.get(KEY) is None
    assert len(caplog.records) == 1


def test_a_full_disk_is_one_line(kept, monkeypatch, caplog):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefacts, "write_whole", full)
    with caplog.at_level(logging.WARNING):
        kept.put({**KEY, "batch": 9}, b"x")
        kept.put({**KEY, "batch": 8}, b"x")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert kept.get(KEY) is not None


def test_the_oldest_make_room(kept, monkeypatch):
    monkeypatch.setattr(artefacts, "MAX_FILES", 3)
    for batch in range(2, 5):
        os.utime(only(kept) if batch == 2 else kept._path(KEY), (batch, batch))
        kept.put({**KEY, "batch": batch}, b"x")
    assert kept.get(KEY) is None
    assert all(kept.get({**KEY, "batch": batch}) == b"x" for batch in range(2, 5))
    monkeypatch.setattr(artefacts, "MAX_BYTES", 1000)
    kept.put({**KEY, "batch": 7}, b"y" * 700)
    assert kept.get({**KEY, "batch": 7}) == b"y" * 700
    assert len(list(kept.folder.iterdir())) < 4


@pytest.fixture
def start(world):
    if not engines.installed("openvino"):
        pytest.skip("openvino is not installed here")
    path = world.release("red", "blue", program="pool")
    folder = world.root / "kept"

    def run() -> tuple[np.ndarray, int]:
        engine = make_engine("openvino", 1, Artefacts(folder))
        compiled = []
        original = engine._read
        engine._read = lambda graph: compiled.append(graph) or original(graph)
        classifier = Classifier.of_files(world.bundle_path, _files(path))
        classifier = Classifier(classifier.bundle, engine)
        classifier.swap(path)
        return classifier.scores(IMAGES).scores, len(compiled)

    run.folder = folder
    return run


def _files(path):
    from edgecl_deploy.files import read_release

    return read_release(path)


def test_openvino_compiles_once(start):
    (first, compiled), (second, again) = start(), start()
    assert (compiled, again) == (1, 0)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_blob_that_openvino_refuses_is_compiled_again(start, part):
    """Its digest is right and its content is not: of a library that was built otherwise."""
    want, _ = start()
    (path,) = start.folder.iterdir()
    data = path.read_bytes()
    head = data[4 : 4 + int.from_bytes(data[:4], "big")]
    content = data[4 + len(head) + 32 :]
    broken = content[: int(part * len(content))]
    found = Artefacts(start.folder)
    found.put(json.loads(head), broken)
    scores, compiled = start()
    assert compiled == 1
    assert np.array_equal(scores, want)
    assert start()[1] == 0


def test_two_processes_may_start_at_once(start):
    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(start) for _ in range(4)]]
    assert all(np.array_equal(scores, found[0][0]) for scores, _ in found)
    shutil.rmtree(start.folder)
    assert np.array_equal(start()[0], found[0][0])
    assert sys.modules.get("openvino_telemetry", False) is not None
