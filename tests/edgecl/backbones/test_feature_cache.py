"""The cache of frozen features: memory, disk, damage, bounds, several processes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edgecl.backbones import Features, feature_cache, feature_files
from edgecl.backbones.feature_cache import (
    FeatureCache,
    contents_of,
    feature_key,
    padded,
    rows_of,
)
from edgecl.backbones.feature_files import Shard, clear, stored
from edgecl.cache import cache_dir

DIGEST = "ab" * 32


def keys_of(*names: str) -> list[bytes]:
    return [feature_key(hashlib.sha256(name.encode()).digest()) for name in names]


def some(count: int, start: float = 0) -> Features:
    rows = start + torch.arange(4.0 * count).reshape(count, 4)
    return Features(rows, torch.zeros_like(rows))


def put(cache: FeatureCache, names: str, start: float = 0, constant: str = "") -> None:
    """Store and write the features of images that are called by one letter each."""
    flags = [name in constant for name in names]
    cache.put(keys_of(*names), rows_of(some(len(names), start)), flags)
    cache.flush()


def first_of(cache: FeatureCache, names: str) -> dict[str, float]:
    """Return the first feature of each image that is known."""
    found = cache.get(keys_of(*names))
    return {
        name: float(found[key][0][0]) for name in names for key in keys_of(name) if key in found
    }


def shards(root: Path) -> list[Path]:
    return sorted((root / "features").glob("*/*.safetensors"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_put_comes_back(tmp_path: Path, on_disk: bool) -> None:
    cache = FeatureCache(tmp_path if on_disk else None, DIGEST)
    put(cache, "ab", constant="b")
    put(cache, "c", 100)
    assert first_of(cache, "caax") == {"c": 100, "a": 0}
    assert [key in cache for key in keys_of("a", "x")] == [True, False]
    assert [cache.is_constant(key) for key in keys_of("a", "b")] == [False, True]


def test_a_row_waits_in_memory_until_it_is_written(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, DIGEST)
    cache.put(keys_of("a"), rows_of(some(1, 7)), [False])
    assert not shards(tmp_path)
    assert first_of(cache, "a") == {"a": 7}
    cache.flush()
    cache.flush()
    assert len(shards(tmp_path)) == 1
    assert first_of(cache, "a") == {"a": 7}


def test_many_rows_are_written_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 3 * 16)
    cache = FeatureCache(tmp_path, DIGEST)
    for name in "abcdefgh":
        cache.put(keys_of(name), rows_of(some(1)), [False])
    assert len(shards(tmp_path)) == 2
    assert len(first_of(cache, "abcdefgh")) == 8


def test_the_keys_are_read_without_the_features(tmp_path: Path) -> None:
    put(FeatureCache(tmp_path, DIGEST), "ab", 7)
    (shard,) = shards(tmp_path)
    assert load_file(shard).keys() == {"keys", "constant", "cls", "checks"}
    cache = FeatureCache(tmp_path, DIGEST)
    assert not cache._open
    assert first_of(cache, "b") == {"b": 11}
    assert len(cache._open) == 1


def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    rows = Shard.rows

    def count(self: Shard, first: int, last: int) -> list[feature_files.Row]:
        asked.append((first, last))
        return rows(self, first, last)

    monkeypatch.setattr(Shard, "rows", count)
    put(FeatureCache(tmp_path, DIGEST), "abcdefgh")
    found = first_of(FeatureCache(tmp_path, DIGEST), "hgfbae")
    assert found == {name: 4.0 * "abcdefgh".index(name) for name in "hgfbae"}
    assert asked == [(0, 2), (4, 8)]


def test_taps_and_views_are_features_of_their_own(tmp_path: Path) -> None:
    assert len({feature_key(b"x", taps, view) for taps in (0, 2, 3) for view in (0, 1)}) == 6
    assert feature_key(b"x") == feature_key(b"x", 0, 0)
    plain, tapped = feature_key(b"x"), feature_key(b"x", 2)
    cache = FeatureCache(tmp_path, DIGEST)
    taps = torch.arange(6.0).reshape(1, 2, 3)  # wider than the features: no projection
    cache.put([plain], rows_of(some(1)), [False])
    cache.put([tapped], rows_of(some(1)._replace(taps=taps)), [False])
    cache.flush()
    for each in (cache, FeatureCache(tmp_path, DIGEST)):
        found = each.get([tapped, plain])
        assert len(found[plain]) == 1
        assert np.array_equal(found[tapped][1], taps[0].numpy())


def test_hits_and_misses_are_counted_per_image() -> None:
    cache = FeatureCache(None, DIGEST)
    assert cache.get(keys_of("a", "b", "a")) == {}
    put(cache, "ab")
    cache.get(keys_of("b", "a"))
    cache.get(keys_of("a", "c", "b", "c"))
    assert (cache.hits, cache.misses) == (1 + 2 + 3, 2 + 0 + 1)


def test_features_belong_to_one_backbone_and_one_way_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(FeatureCache(tmp_path, DIGEST), "ab")
    put(FeatureCache(tmp_path, DIGEST), "c", 50)
    assert first_of(FeatureCache(tmp_path, DIGEST), "bc") == {"b": 4, "c": 50}
    assert first_of(FeatureCache(tmp_path, "cd" * 32), "a") == {}
    assert first_of(FeatureCache(tmp_path, DIGEST, "cuda-t4"), "a") == {}
    monkeypatch.setenv("EDGECL_MAX_PIXELS", "1000")  # an image may be over it
    assert first_of(FeatureCache(tmp_path, DIGEST), "a") == {}
    monkeypatch.delenv("EDGECL_MAX_PIXELS")
    monkeypatch.setattr("PIL.__version__", "0.1")  # another decoder
    assert first_of(FeatureCache(tmp_path, DIGEST), "a") == {}


def test_memory_only_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(FeatureCache(None, DIGEST), "a")
    FeatureCache(tmp_path, DIGEST).flush()
    assert not list(tmp_path.iterdir())


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def without_keys(path: Path) -> None:
    tensors = load_file(path)
    del tensors["keys"]
    save_file(tensors, path)


def with_fewer_rows(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "cls": tensors["cls"][:1].copy()}, path)


def with_another_bit(path: Path) -> None:
    tensors = load_file(path)
    tensors["cls"].view(np.uint8)[0, 0] ^= 1
    save_file(tensors, path)


@pytest.mark.parametrize(
    "damage", [truncated, emptied, zeroed, without_keys, with_fewer_rows, with_another_bit]
)
@pytest.mark.parametrize("known", [False, True])  # when it happens: the keys were read before
def test_a_damaged_shard_is_removed_and_its_features_asked_again(
    tmp_path: Path, damage, known: bool
) -> None:
    put(FeatureCache(tmp_path, DIGEST), "ab")
    put(FeatureCache(tmp_path, DIGEST), "c")
    [bad] = [path for path in shards(tmp_path) if len(load_file(path)["keys"]) == 2]
    cache = FeatureCache(tmp_path, DIGEST) if known else None
    damage(bad)
    cache = cache or FeatureCache(tmp_path, DIGEST)
    assert first_of(cache, "abc") == {"c": 0}
    assert not bad.exists()
    assert keys_of("a")[0] not in cache
    put(cache, "ab")
    assert first_of(FeatureCache(tmp_path, DIGEST), "abc") == {"a": 0, "b": 4, "c": 0}


def test_a_shard_that_another_process_removed_is_forgotten(tmp_path: Path) -> None:
    put(FeatureCache(tmp_path, DIGEST), "ab")
    cache = FeatureCache(tmp_path, DIGEST)
    shards(tmp_path)[0].unlink()
    assert first_of(cache, "ab") == {}
    assert keys_of("a")[0] not in cache


def test_a_kill_while_writing_leaves_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*_: object) -> None:
        raise KeyboardInterrupt

    cache = FeatureCache(tmp_path, DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", half)
        with pytest.raises(KeyboardInterrupt):
            put(cache, "a")
    assert shards(tmp_path) == []
    assert first_of(FeatureCache(tmp_path, DIGEST), "a") == {}


def test_what_was_not_used_for_the_longest_time_is_removed_first(tmp_path: Path) -> None:
    names: dict[str, Path] = {}
    for place, name in enumerate("abc"):
        put(FeatureCache(tmp_path, name * 32), name)
        (names[name],) = set(shards(tmp_path)) - set(names.values())
        os.utime(names[name], (place, place))
    first_of(FeatureCache(tmp_path, "a" * 32), "a")  # used just now
    left = names["a"].parent / ".tmp-0123"
    left.write_bytes(b"of a process that was killed")
    os.utime(left, (1, 1))
    size = names["a"].stat().st_size
    cache = FeatureCache(tmp_path, "d" * 32, limit=3 * size)
    put(cache, "d")
    assert [names[name].exists() for name in "abc"] == [True, False, True]
    assert not left.exists()
    assert first_of(cache, "d") == {"d": 0}


def test_what_a_run_needs_is_removed_after_all_else(tmp_path: Path) -> None:
    put(FeatureCache(tmp_path, DIGEST), "a")
    (mine,) = shards(tmp_path)
    put(FeatureCache(tmp_path, "b" * 32), "b")
    (other,) = set(shards(tmp_path)) - {mine}
    os.utime(mine, (1, 1))
    cache = FeatureCache(tmp_path, DIGEST, limit=2 * mine.stat().st_size)
    assert keys_of("a")[0] in cache, "so its image is not decoded"
    assert mine.stat().st_mtime > 1
    later = mine.stat().st_mtime + 1000
    os.utime(other, (later, later))  # by another process
    put(cache, "c")
    assert [mine.exists(), other.exists()] == [True, False]
    put(cache, "d")
    assert len(shards(tmp_path)) == 2, "the limit holds for its own, too"
    assert first_of(cache, "acd") == {"c": 0, "d": 0}


def test_the_use_of_an_open_shard_is_noted_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, DIGEST)
    put(cache, "a")
    (path,) = shards(tmp_path)
    for seconds, noted in ((600, False), (0, True)):
        first_of(cache, "a")
        monkeypatch.setattr(feature_cache, "NOTED", seconds)
        os.utime(path, (1, 1))
        first_of(cache, "a")
        assert (path.stat().st_mtime > 1) == noted


def test_a_limit_below_one_shard_still_gives_all_features(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, DIGEST, limit=10)
    put(cache, "ab")
    assert shards(tmp_path) == []
    assert first_of(cache, "ab") == {}
    put(cache, "ab")


def test_features_of_an_earlier_release_are_removed_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "features" / f"{DIGEST}-cpu"
    old.mkdir(parents=True)
    (old / "00.safetensors").write_bytes(b"old")
    other = tmp_path / "features" / "mine"
    other.mkdir()
    for _ in range(2):
        FeatureCache(tmp_path, DIGEST)
    assert [each.getMessage() for each in caplog.records] == [
        f"{old}: features of an earlier release are of no use, removed"
    ]
    assert not old.exists()
    assert other.exists()


def test_what_is_stored_is_listed_and_cleared(tmp_path: Path) -> None:
    assert stored(tmp_path) == []
    assert clear(tmp_path) == (0, 0)
    put(FeatureCache(tmp_path, DIGEST), "abc")
    put(FeatureCache(tmp_path, "cd" * 32, "cuda-t4"), "a")
    found = {each.backbone: each for each in stored(tmp_path)}
    assert {name: each.images for name, each in found.items()} == {DIGEST: 3, "cd" * 32: 1}
    assert found["cd" * 32].processor == "cuda-t4"
    assert found[DIGEST].bytes == sum(
        path.stat().st_size for path in shards(tmp_path) if len(load_file(path)["keys"]) == 3
    )
    truncated(shards(tmp_path)[0])
    assert sum(each.images for each in stored(tmp_path)) in {1, 3}
    assert clear(tmp_path)[1] == 2
    assert stored(tmp_path) == []


def test_contents_tell_pixels_and_shape() -> None:
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    one, two = contents_of(images)
    assert one != two
    assert contents_of(images[::-1]) == [two, one]
    assert contents_of(images[:1].reshape(1, 3, 2, 3)) != [one]
    assert contents_of(images[:0]) == []


def test_a_batch_is_filled_with_black() -> None:
    batch = torch.full((2, 1, 1, 3), 7, dtype=torch.uint8)
    assert padded(batch, 2) is batch
    assert padded(batch, 4)[:, 0, 0, 0].tolist() == [7, 7, 0, 0]


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("EDGECL_CACHE", "")
    assert cache_dir().name == "edgecl"


SHARED = """
import sys, time
import numpy as np
from pathlib import Path
from edgecl.backbones.feature_cache import FeatureCache, feature_key
mine, until, wrong, found = int(sys.argv[2]), time.time() + 3, 0, 0
while time.time() < until:
    cache = FeatureCache(Path(sys.argv[1]), "ab" * 32, limit=60_000)
    for start in range(0, 200, 20):
        names = [(start + each * mine) % 100 for each in range(20)]
        keys = [feature_key(str(name).encode()) for name in names]
        known = cache.get(keys)
        wrong += sum(not (known[k][0] == n).all() for k, n in zip(keys, names) if k in known)
        found += len(known)
        rows = [(np.full(64, name, np.float32),) for name in names]
        cache.put(keys, rows, [False] * 20)
        cache.flush()
print(wrong, found)
"""


@pytest.mark.slow
def test_processes_share_a_folder_while_its_oldest_files_are_removed(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SHARED, str(tmp_path), str(step)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for step in (1, 3)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        wrong, found = map(int, out.split())
        assert wrong == 0
        assert found > 0
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 60_000 + 2 * 8000
    assert not list(tmp_path.rglob(".tmp-*"))
