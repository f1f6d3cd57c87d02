"""What a device remembers of a channel, also after power cuts and damage."""

import os
import shutil

import pytest
from tests.deploy.support.trusting import OLDER
from tests.deploy.support.tuf_repository import PACKS

from edgecl_deploy import errors
from edgecl_deploy.format import digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.update.floor import Floor, parse_floor


def test_the_floor_survives_the_loss_of_the_metadata(world):
    old = world.repo.served()
    world.release()
    new = world.repo.served()
    world.poll()
    shutil.rmtree(world.store / "tuf")
    world.repo.replay(old)
    with pytest.raises(errors.UntrustedError, match=OLDER.format("timestamp", 3)):
        world.poll()
    world.repo.replay(new)
    assert world.poll().number == 2


def test_the_floor_remembers_a_rotation_of_keys(world):
    old = world.repo.served()
    world.repo.rotate("timestamp")
    world.repo.write("timestamp")
    world.poll()
    shutil.rmtree(world.store / "tuf")
    world.repo.replay(old)
    with pytest.raises(errors.UntrustedError, match=OLDER.format("root", 2)):
        world.poll()


def test_a_damaged_floor_is_reported_and_mended(world):
    world.poll()
    before = world.floor()
    (world.store / "floor.json").write_bytes(b"\0" * 100)
    assert world.trust()._floor() == (before, "kept")  # of the second copy
    (world.store / "spare" / "floor.json").write_bytes(b"\0" * 100)
    assert world.trust().refresh().memory == "lost"
    assert world.trust().refresh().memory == "kept"


def test_a_floor_is_read_as_it_was_written():
    floor = Floor(digest(b"keys"), 2, 3, 4)
    assert parse_floor(floor.to_bytes()) == floor


class Forgetful(Disk):
    """Loses at `crash` what was not synced: the bytes of files, and the names in folders."""

    def __init__(self, syncs=True):
        self._syncs = syncs
        self._bytes, self._names = {}, {}

    def sync(self, path):
        if not self._syncs:
            return
        if path.is_dir():
            self._names[path] = {each.name: each.lstat().st_ino for each in path.iterdir()}
        else:
            self._bytes[path.stat().st_ino] = path.read_bytes()

    def crash(self, folder):
        """Leave in a folder what is durable: files without synced bytes are empty."""
        for path in sorted(folder.rglob("*"), reverse=True):
            kept = self._names.get(path.parent, {}).get(path.name)
            if kept is None:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            elif path.is_file() and not path.is_symlink():
                path.write_bytes(self._bytes.get(kept, b""))


def replayed_after_a_crash(world, disk, lost=()):
    """Take release 2, cut the power, and serve release 1 again."""
    old = world.repo.served()
    trust = world.trust(disk=disk)
    trust.refresh()
    world.release()
    assert world.trust(disk=disk).channel("stable").number == 2
    disk.crash(world.store)
    for name in lost:
        (world.store / name).unlink()
    world.repo.replay(old)
    return world.trust(disk=disk).channel("stable").number


@pytest.mark.parametrize("lost", [(), ("floor.json",)], ids=["with the floor", "without the floor"])
def test_memory_survives_a_power_cut(world, lost):
    with pytest.raises(errors.UntrustedError, match="New timestamp version 2 must be >= 3"):
        replayed_after_a_crash(world, Forgetful(), lost)


def test_without_sync_the_rollback_would_be_taken(world):
    """The negative control: the test above can fail."""
    assert replayed_after_a_crash(world, Forgetful(syncs=False)) == 1


def test_the_floor_alone_is_enough(world):
    class FloorOnly(Forgetful):
        def sync_tree(self, folder):
            pass

    with pytest.raises(errors.UntrustedError, match=OLDER.format("timestamp", 3)):
        replayed_after_a_crash(world, FloorOnly())


def test_delegated_metadata_is_durable_before_it_is_used(world):
    disk = Forgetful()
    trust = world.trust(disk=disk)
    trust.refresh()
    trust.channel("stable")
    world.fetch(trust)
    disk.crash(world.store)
    assert world.versions() == {"root": 1, "timestamp": 2, "snapshot": 2} | dict.fromkeys(
        ("targets", "releases", PACKS), 2
    )


def test_the_floor_is_written_after_the_metadata_is_durable(world):
    order = []

    class Watched(Disk):
        def sync_tree(self, folder):
            super().sync_tree(folder)
            order.append(folder.name)

        def replace(self, path, data):
            super().replace(path, data)
            order.append(f"{path.parent.name}/{path.name}")

    trust = world.trust(disk=Watched())
    trust.refresh()
    written = ["tuf", "store/floor.json", "spare/floor.json"]
    assert order == written
    trust.find("channels/stable.json")
    assert order == [*written, "tuf"]
    trust.find("channels/stable.json")
    assert order == [*written, "tuf"]


def test_what_a_killed_poll_left_is_swept(world):
    world.poll()
    left = world.store / "tuf" / "tmpabc123"
    left.write_bytes(b"half")
    old = world.store / "staging" / "part" / digest(b"old")
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    world.poll()
    assert not left.exists()
    assert not old.exists()
