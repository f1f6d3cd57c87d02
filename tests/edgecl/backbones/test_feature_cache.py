"""The cache of frozen features: memory, disk, damage."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgecl.backbones import Features
from edgecl.backbones.feature_cache import FeatureCache, image_keys, padded
from edgecl.cache import cache_dir

DIGEST = "ab" * 32


def keys_of(*names: str) -> list[bytes]:
    return [hashlib.sha256(name.encode()).digest() for name in names]


def some(count: int, start: float = 0) -> Features:
    rows = start + torch.arange(4.0 * count).reshape(count, 4)
    return Features(rows, torch.zeros_like(rows))


def shards(root: Path, digest: str = DIGEST) -> list[Path]:
    return sorted((root / "features" / f"{digest}-cpu").iterdir())


def test_what_was_put_comes_back_in_the_order_asked() -> None:
    cache = FeatureCache(None, DIGEST)
    cache.put(keys_of("a", "b"), some(2))
    cache.put(keys_of("c"), some(1, 100))
    found = cache.get(keys_of("c", "a", "a"))
    assert found.cls[:, 0].tolist() == [100, 0, 0]
    assert torch.equal(found.prompt, torch.zeros(3, 4))


def test_the_zeros_of_no_prompt_are_not_stored(tmp_path: Path) -> None:
    """A shard of before has them; it is read as well."""
    FeatureCache(tmp_path, DIGEST).put(keys_of("a"), some(1, 7))
    (shard,) = shards(tmp_path)
    held = load_file(shard)
    assert held.keys() == {"keys", "cls"}
    save_file(held | {"prompt": torch.zeros(1, 4)}, shard)
    found = FeatureCache(tmp_path, DIGEST).get(keys_of("a"))
    assert found.cls.tolist() == [[7, 8, 9, 10]]
    assert found.prompt.shape == (1, 4)


def test_taps_are_features_of_their_own(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 1, 3), np.uint8)
    images[1] = 1
    plain, tapped, deeper = (image_keys(images, taps) for taps in (0, 2, 3))
    assert len({*plain, *tapped, *deeper}) == 6
    assert plain == image_keys(images)
    cache = FeatureCache(tmp_path, DIGEST)
    cache.put(plain, some(2))
    assert cache.missing(tapped) == [0, 1]
    taps = torch.arange(2.0 * 2 * 6).reshape(2, 2, 6)  # wider than the features: no projection
    cache.put(tapped, some(2)._replace(taps=taps))
    for each in (cache, FeatureCache(tmp_path, DIGEST)):
        found = each.get(tapped[::-1]).taps
        assert found is not None
        assert torch.equal(found, taps.flip(0))
        assert each.get(plain).taps is None


def test_hits_and_misses_are_counted_per_image() -> None:
    cache = FeatureCache(None, DIGEST)
    assert cache.missing(keys_of("a", "b", "a")) == [0, 1]
    cache.put(keys_of("a", "b"), some(2))
    assert cache.missing(keys_of("b", "a")) == []
    assert cache.missing(keys_of("a", "c", "b", "c")) == [1]
    assert (cache.hits, cache.misses) == (1 + 2 + 3, 2 + 0 + 1)


def test_features_survive_on_disk_and_belong_to_one_backbone(tmp_path: Path) -> None:
    FeatureCache(tmp_path, DIGEST).put(keys_of("a", "b"), some(2))
    FeatureCache(tmp_path, DIGEST).put(keys_of("c"), some(1, 50))
    again = FeatureCache(tmp_path, DIGEST).get(keys_of("b", "c"))
    assert again.cls.tolist() == [[4, 5, 6, 7], [50, 51, 52, 53]]
    assert FeatureCache(tmp_path, "cd" * 32).missing(keys_of("a")) == [0]
    assert FeatureCache(tmp_path, DIGEST, "cuda").missing(keys_of("a")) == [0]
    assert [path.suffix for path in shards(tmp_path)] == [".safetensors"] * 2


def test_memory_only_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FeatureCache(None, DIGEST).put(keys_of("a"), some(1))
    FeatureCache(tmp_path, DIGEST).put([], some(0))
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
    save_file({**tensors, "cls": tensors["cls"][:1].clone()}, path)


@pytest.mark.parametrize("damage", [truncated, emptied, zeroed, without_keys, with_fewer_rows])
def test_a_damaged_shard_is_removed_and_its_features_asked_again(tmp_path: Path, damage) -> None:
    FeatureCache(tmp_path, DIGEST).put(keys_of("a", "b"), some(2))
    FeatureCache(tmp_path, DIGEST).put(keys_of("c"), some(1))
    [bad] = [path for path in shards(tmp_path) if len(load_file(path)["keys"]) == 2]
    damage(bad)
    cache = FeatureCache(tmp_path, DIGEST)
    assert not bad.exists()
    assert cache.missing(keys_of("a", "b", "c")) == [0, 1]
    cache.put(keys_of("a", "b"), some(2))
    assert FeatureCache(tmp_path, DIGEST).missing(keys_of("a", "b", "c")) == []


def test_a_kill_while_writing_leaves_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*_: object) -> None:
        raise KeyboardInterrupt

    cache = FeatureCache(tmp_path, DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", half)
        with pytest.raises(KeyboardInterrupt):
            cache.put(keys_of("a"), some(1))
    assert shards(tmp_path) == []
    assert FeatureCache(tmp_path, DIGEST).missing(keys_of("a")) == [0]


def test_keys_tell_content_and_shape() -> None:
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    one, two = image_keys(images)
    assert one != two
    assert image_keys(images[::-1]) == [two, one]
    assert image_keys(images[:1].reshape(1, 3, 2, 3)) != [one]
    assert image_keys(images[:0]) == []


def test_a_batch_is_filled_with_black() -> None:
    batch = torch.full((2, 1, 1, 3), 7, dtype=torch.uint8)
    assert padded(batch, 2) is batch
    assert padded(batch, 4)[:, 0, 0, 0].tolist() == [7, 7, 0, 0]


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("EDGECL_CACHE", "")
    assert cache_dir().name == "edgecl"
