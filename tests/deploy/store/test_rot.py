"""One flipped bit, anywhere in a store: found by `fsck`, never served wrongly, never allowing more.

A sample of the bits here; `tests/drills/test_every_bit.py` flips all of them.
"""

import pytest
from tests.deploy.support.rot import Rot

from edgecl_deploy.store import fsck
from edgecl_deploy.store.layout import CONFIG, CURRENT, DENIED, ROOT, SPARE
from edgecl_deploy.store.records import generation_name
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.metadata import check_metadata


@pytest.fixture
def rot(world, tmp_path):
    return Rot(world, tmp_path / "rot")


def test_the_store_of_these_tests_is_whole(rot):
    """The negative control: what the others find is the flipped bit."""
    assert rot.damages() == []
    assert {f"{SPARE}/{CONFIG}", DENIED, "floor.json", "tuf/timestamp.json"} <= set(rot.documents())


def test_one_flipped_bit_of_any_document_is_found_and_mended(rot):
    flipped = [rot.judge(name, bit) for name in rot.documents() for bit in rot.bits(name, 2)]
    assert len(flipped) > 30


def test_one_flipped_bit_of_any_object_is_found(rot):
    flipped = [rot.judge(name, bit) for name in rot.objects() for bit in rot.bits(name, 1)]
    assert len(flipped) > 10


def test_an_object_that_is_right_survives_a_manifest_that_is_not(rot):
    """One digit of a size, and the remedy removed what all releases need."""
    store = Store.open(rot.fresh())
    held = store.serving()
    old = held.to_bytes().replace(b"edgecl-generation/2", b"edgecl-generation/1")
    begin, end = old.index(b',"sha256"'), old.rindex(b"}")
    old = old[:begin] + old[end:]  # a manifest of version 1, which had no checksum
    name, size = next(iter(held.objects.items()))
    wrong = old.replace(f'"{name}":{size}'.encode(), f'"{name}":{size + 1}'.encode())
    assert wrong != old
    path = store.path / generation_name(held.number)
    for text in (wrong, held.to_bytes()[:-9], held.to_bytes()[40:]):
        path.unlink()
        path.write_bytes(text)
        assert [each.what for each in fsck.check(store)][:1] == [generation_name(held.number)]
        with store.lock():
            fsck.repair(store)
        assert store.read_current()[1].release.number == held.release
        assert (store.path / "objects" / name).exists()
        assert fsck.check(store) == []


def test_a_signature_in_capitals_is_found(rot):
    """It holds all the same, so only the drill of all bits met it."""
    path = rot.fresh() / "tuf" / "timestamp.json"
    data = path.read_bytes()
    begin = data.index(b'"sig":"') + 7
    path.write_bytes(data[:begin] + data[begin : begin + 100].upper() + data[begin + 100 :])
    store = Store.open(path.parents[1])
    assert [each.what for each in check_metadata(store)] == ["tuf/timestamp.json"]


def test_a_version_that_became_smaller_is_found(rot):
    """A file that is older than the snapshot is replaced before it is used, and checked as well."""
    for name in ("packs-lab.json", "releases.json", "snapshot.json", "targets.json"):
        path = rot.fresh() / "tuf" / name
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"version":5', b'"version":4'))
        assert path.read_bytes() != data
        found = check_metadata(Store.open(path.parents[1]))
        assert f"tuf/{name}" in [each.what for each in found]


def test_a_lost_list_of_denied_releases_is_read_from_the_log(rot):
    store = Store.open(rot.fresh())
    before = store.denied
    assert before.releases
    assert before.min_release == 1
    for path in (store.path / DENIED, store.path / SPARE / DENIED):
        path.write_bytes(b"moth")
    assert store.denied == before
    with store.lock():
        fsck.repair(store)
    assert store.denied == before
    for path in (store.path / DENIED, store.path / SPARE / DENIED):
        path.unlink()
    assert store.denied == before


def test_another_root_is_not_trusted(rot):
    store = Store.open(rot.fresh())
    before = store.root
    (store.path / ROOT).write_bytes(before.replace(b"root", b"r00t"))
    assert store.root == before
    with store.lock():
        assert store.mend_documents() == [ROOT]
    assert (store.path / ROOT).read_bytes() == before


def test_current_that_points_to_another_generation_is_found(rot):
    store = Store.open(rot.fresh())
    assert store.current() == 3
    (store.path / CURRENT).unlink()
    (store.path / CURRENT).symlink_to(generation_name(2))
    assert [each.what for each in fsck.check(store)] == [CURRENT]
