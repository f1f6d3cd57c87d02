"""What a device believes: the attack table of TUF over loopback HTTP, clocks, and memory."""

import datetime
import errno
import os
import shutil
import time
import types

import numpy as np
import pytest
from tests.deploy.support.fault_server import Fault, serving
from tests.deploy.support.tuf_repository import PACKS, TufRepository, new_key, version
from tuf.ngclient._internal import trusted_metadata_set

from edgecl_deploy import errors
from edgecl_deploy.format import digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.update.fetcher import Fetcher
from edgecl_deploy.update.floor import BUILT, Floor, parse_floor
from edgecl_deploy.update.trust import Trust

BLOB = b"a blob of a pack"
DAY = 86400
OLDER = r"{}\.json must have version {} or a later one"
TRUSTED = ("root", "timestamp", "snapshot", "targets", "releases", PACKS)
UNSIGNED = "signed, whole and not older"


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class World:
    """A publisher, a server and a device that took the first release."""

    def __init__(self, folder, server, development=False):
        self.repo = TufRepository(folder / "site", development)
        self.server = server
        server.folder = self.repo.folder
        self.first = self.repo.add_channel(number=1)
        self.target = self.repo.add_object(BLOB)
        self.repo.publish("targets", "releases", PACKS)
        self.store = folder / "store"
        self.store.mkdir()

    def trust(self, **options):
        return Trust(self.store, self.repo.root, options.pop("url", self.server.url), **options)

    def poll(self, **options):
        """Do what a poll does; give the channel."""
        trust = self.trust(**options)
        trust.refresh()
        channel = trust.channel("stable")
        self.fetch(trust)
        return channel

    def fetch(self, trust, data=BLOB, target=None, size=None):
        path = self.store / "staging" / "new"
        trust.fetch(target or self.target, digest(data), size or len(data), path)
        return path

    def release(self, number=2):
        """Publish another release."""
        self.repo.add_channel(number=number)
        self.repo.publish("releases")

    def versions(self):
        return {role: version(self.store / "tuf" / f"{role}.json") for role in TRUSTED}

    def floor(self):
        return parse_floor((self.store / "floor.json").read_bytes())

    def refuses(self, error, match, moved=(), **options):
        """See that a poll is refused, and that what was trusted stays, but for what `moved`."""
        versions, floor = self.versions(), self.floor()
        (self.store / "staging" / "new").unlink(missing_ok=True)
        with pytest.raises(error, match=match) as caught:
            self.poll(**options)
        assert "\n" not in str(caught.value)
        after = self.versions()
        assert {role for role in TRUSTED if after[role] != versions[role]} == set(moved)
        assert all(after[role] >= versions[role] for role in TRUSTED)
        assert self.floor().timestamp >= floor.timestamp
        assert not (self.store / "staging" / "new").exists()


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("none")) as server:
        yield server


@pytest.fixture
def world(tmp_path, one_server):
    one_server.reset()
    return World(tmp_path, one_server)


@pytest.fixture
def clock(monkeypatch):
    """Return a function that moves python-tuf's clock by so many seconds, and gives ours."""

    def move(seconds):
        moved = datetime.timedelta(seconds=seconds)
        real = datetime.datetime
        fake = types.SimpleNamespace(
            datetime=types.SimpleNamespace(now=lambda zone: real.now(zone) + moved),
            timezone=datetime.timezone,
        )
        monkeypatch.setattr(trusted_metadata_set, "datetime", fake)
        return lambda: time.time() + seconds

    return move


# -- the way it should go -------------------------------------------------------------------------


def test_a_device_takes_what_the_publisher_signed(world):
    trust = world.trust()
    freshness = trust.refresh()
    assert (freshness.clock, freshness.memory, freshness.development) == ("ok", "new", False)
    assert freshness.version == 2
    assert set(freshness.expires) == {"root", "timestamp", "snapshot", "targets"}
    assert all(29 * DAY < each - time.time() <= 30 * DAY for each in freshness.expires.values())
    assert trust.channel("stable") == world.first
    assert world.fetch(trust).read_bytes() == BLOB
    assert trust.received > 0
    staging = world.store / "staging"
    assert [path.name for path in staging.rglob("*") if path.is_file()] == ["new"]


def test_one_trust_polls_again_and_again(world):
    trust = world.trust()
    for number in (2, 3):
        world.release(number)
        assert trust.refresh().memory == ("new" if number == 2 else "kept")
        assert trust.channel("stable").number == number


def test_a_channel_may_be_asked_for_at_once(world):
    assert world.trust().channel("stable") == world.first


def test_after_a_failed_refresh_the_old_state_is_not_used(world):
    trust = world.trust()
    trust.refresh()
    world.server.faults["timestamp.json"] = Fault(status=500)
    for step in (trust.refresh, lambda: trust.channel("stable"), lambda: world.fetch(trust)):
        with pytest.raises(errors.OfflineError):
            step()


def test_an_idle_poll_is_small(world):
    world.poll()
    world.server.reset()
    world.trust().refresh()
    assert world.server.asked == ["/metadata/2.root.json", "/metadata/timestamp.json"]
    assert world.server.connections == 1
    assert world.server.wire_bytes <= 3000


@pytest.mark.parametrize("form", ["path", "url"])
def test_a_folder_is_a_channel_too(world, form):
    site = world.repo.folder
    trust = world.trust(url=str(site) if form == "path" else site.as_uri())
    assert trust.refresh().version == 2
    assert trust.channel("stable") == world.first
    assert world.fetch(trust).read_bytes() == BLOB
    assert world.server.asked == []


@pytest.mark.parametrize("folder", [True, False])
def test_a_channel_does_not_change_the_fetcher_that_it_is_given(world, folder):
    site = world.repo.folder
    fetcher = Fetcher(world.store / "staging" / "part", folder=site if folder else None)
    before = dict(vars(fetcher))
    trust = world.trust(url=str(site), fetcher=fetcher)
    assert vars(fetcher) == before
    if folder:
        assert trust.refresh().version == world.repo.signed("timestamp").version
    else:  # it may not read what its owner did not allow
        with pytest.raises(errors.UntrustedError, match="is outside of None"):
            trust.refresh()


def test_a_folder_may_not_be_older_than_the_channel_on_the_web(world):
    old = world.repo.served()
    world.release()
    world.poll()
    world.repo.replay(old)
    world.refuses(errors.UntrustedError, "New timestamp version 2", url=str(world.repo.folder))


def test_development_keys_are_reported(tmp_path, one_server):
    one_server.reset()
    assert World(tmp_path, one_server, development=True).trust().refresh().development


def test_a_device_that_slept_follows_all_roots(world):
    world.poll()
    for _ in range(12):
        world.repo.rotate("root", "timestamp")
    world.repo.publish()
    world.poll()
    assert world.versions()["root"] == 13


# -- the attack table -----------------------------------------------------------------------------


def test_rollback_of_timestamp(world):
    old = world.repo.served()
    world.release()
    assert world.poll().number == 2
    world.repo.replay(old)
    world.refuses(errors.UntrustedError, "New timestamp version 2 must be >= 3")


def test_rollback_of_snapshot(world):
    world.release()
    world.poll()
    stolen = world.repo.signed("timestamp")
    stolen.version += 1
    stolen.snapshot_meta.version -= 1
    world.repo.write("timestamp")
    world.refuses(errors.UntrustedError, "New snapshot version must be >= 3, got version 2")


@pytest.mark.parametrize("role", ["targets", "releases", PACKS])
def test_rollback_of_a_role_below(world, role):
    """Of targets, of releases, of a publisher's: with the stolen keys of snapshot and timestamp."""
    world.poll()
    world.repo.signed("snapshot").meta[f"{role}.json"].version -= 1
    world.repo.publish()
    world.refuses(errors.UntrustedError, f"Expected {role}.json version 1", moved=["timestamp"])
    world.repo.signed("snapshot").meta[f"{role}.json"].version += 1
    world.repo.publish()
    assert world.poll() == world.first


def test_freeze(world, clock):
    world.repo.expire("timestamp", 14)
    world.repo.publish()
    world.poll()
    clock(13 * DAY)
    world.poll()
    now = clock(15 * DAY)
    world.refuses(errors.StaleError, r"timestamp\.json is expired.*edgecl channel refresh", now=now)
    assert world.floor().refreshed < time.time() + DAY


def test_mix_and_match_of_roles(world):
    old = world.repo.file("releases").read_bytes()
    world.poll()
    world.release()
    world.repo.file("releases").write_bytes(old)
    moved = ["timestamp", "snapshot"]
    world.refuses(errors.UntrustedError, "Expected releases v3, got v2", moved=moved)


def test_mix_and_match_of_snapshots(world):
    old = world.repo.file("snapshot").read_bytes()
    world.poll()
    world.release()
    world.repo.file("snapshot").write_bytes(old)
    world.refuses(errors.UntrustedError, "Expected snapshot version 3, got 2", moved=["timestamp"])


ENDLESS = {
    "one byte more": Fault(content=BLOB + b"x"),
    "infinite": Fault(content=bytes(10_000), endless=True),
    "gzip bomb": Fault(content=bytes(1000), headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("fault", ENDLESS.values(), ids=ENDLESS)
def test_endless_target(world, fault):
    world.poll()
    world.server.faults[".safetensors"] = fault
    world.refuses(errors.UntrustedError, "is longer than 16 bytes|came encoded as 'gzip'")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "releases"])
def test_endless_metadata(world, role):
    world.poll()
    world.repo.rotate("root")
    world.repo.publish("targets", "releases")
    world.server.faults[f"{role}.json"] = Fault(content=bytes(50_000), endless=True)
    order = ["root", "timestamp", "snapshot", "targets"]
    moved = order[: order.index(role)] if role in order else order
    world.refuses(errors.UntrustedError, r"is longer than \d+ bytes", moved=moved)


@pytest.mark.parametrize("part", ["timestamp.json", ".safetensors"])
def test_drip_feed(world, part):
    world.poll()
    parts = world.store / "staging" / "part"
    world.server.faults[part] = Fault(piece=1, pause=0.5)
    begin = time.monotonic()
    slow = Fetcher(parts, deadline=0.7)
    world.refuses(errors.OfflineError, "deadline of the file|timed out", fetcher=slow)
    assert time.monotonic() - begin < 0.7 + 1


@pytest.mark.parametrize("role", TRUSTED)
def test_wrong_key(world, role):
    world.poll()
    wrong = [new_key() for _ in world.repo.keys[role]]
    world.repo.keys[role] = wrong
    if role == "root":
        world.repo.signed("root").version += 1
        world.repo.write("root")
    else:
        world.repo.publish(*({role} - {"timestamp", "snapshot"}))
    order = ["timestamp", "snapshot", "targets"]
    moved = {"root": [], "releases": order[:2], PACKS: order[:2]}.get(role)
    moved = order[: order.index(role)] if moved is None else moved
    world.refuses(errors.UntrustedError, f"{role} was signed by 0/", moved=moved)


@pytest.mark.parametrize("role", ["root", "releases"])
def test_one_signature_too_few_is_refused(world, role):
    world.poll()
    world.repo.keys[role] = world.repo.keys[role][:1]
    if role == "root":
        world.repo.signed("root").version += 1
        world.repo.write("root")
    else:
        world.release()
    moved = [] if role == "root" else ["timestamp", "snapshot"]
    world.refuses(errors.UntrustedError, f"{role} was signed by 1/2 keys", moved=moved)


def test_fast_forward_and_recovery(world):
    world.poll()
    honest = {role: world.repo.signed(role).version for role in ("snapshot", "timestamp")}
    for role in honest:
        world.repo.signed(role).version = 2**31
    world.repo.publish()
    forged = world.repo.file("timestamp").read_bytes()
    world.poll()
    for role, number in honest.items():
        world.repo.signed(role).version = number
    world.release()
    world.refuses(errors.UntrustedError, "New timestamp version 3 must be >= 2147483649")
    world.repo.rotate("snapshot", "timestamp")
    world.repo.write("snapshot")
    world.repo.write("timestamp")
    assert world.poll().number == 2
    assert world.floor().timestamp == 3
    world.repo.file("timestamp").write_bytes(forged)
    world.refuses(errors.UntrustedError, "timestamp was signed by 0/1 keys")


def test_a_publisher_cannot_sign_a_channel(world):
    world.poll()
    world.repo.add_channel("mine", role=PACKS)
    world.repo.add_channel("stable", role=PACKS, number=99)
    world.repo.publish(PACKS)
    trust = world.trust()
    with pytest.raises(errors.UntrustedError, match=r"channels/mine\.json must be signed by"):
        trust.channel("mine")
    assert trust.channel("stable") == world.first


def test_an_object_must_be_what_the_manifest_names(world):
    world.poll()
    world.repo.enter(PACKS, world.target, BLOB[::-1])
    world.repo.publish(PACKS)
    moved = ["timestamp", "snapshot", PACKS]
    world.refuses(errors.UntrustedError, "must have the SHA-256", moved=moved)


def test_an_object_must_have_the_length_in_the_manifest(world):
    trust = world.trust()
    with pytest.raises(errors.UntrustedError, match=r"and 17 bytes; found .* and 16 in the"):
        world.fetch(trust, size=17)


def test_releases_cannot_name_what_the_publisher_did_not_sign(world):
    world.poll()
    forged = b"made by whoever signs releases"
    target = world.repo.add_object(forged, role="releases")
    world.repo.publish("releases")
    trust = world.trust()
    trust.refresh()
    with pytest.raises(errors.UntrustedError, match="no such entry"):
        world.fetch(trust, forged, target)
    assert world.fetch(trust).read_bytes() == BLOB


def test_other_bytes_of_an_object_are_refused(world):
    world.poll()
    world.server.reset()
    world.server.faults[".safetensors"] = Fault(content=BLOB[::-1])
    world.refuses(errors.UntrustedError, "LengthOrHashMismatchError")
    assert sum("safetensors" in path for path in world.server.asked) == 1
    world.server.reset()
    world.poll()


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[" * 100_000, b'{"signed": {"_type": "timestamp"}, "signatures": 3}', b"\xff"],
    ids=["empty", "null", "deep", "shapeless", "bytes"],
)
def test_garbage_for_metadata_is_refused(world, data):
    world.poll()
    world.server.faults["timestamp.json"] = Fault(content=data[:16_000])
    world.refuses(errors.UntrustedError, "DeserializationError")


# -- what a channel may hold -----------------------------------------------------------------------


def test_a_channel_has_its_own_name(world):
    world.repo.enter("releases", "channels/canary.json", world.first.to_bytes())
    world.repo.publish("releases")
    with pytest.raises(errors.UntrustedError, match="must be the channel canary; found 'stable'"):
        world.trust().channel("canary")


def test_a_malformed_channel_leaves_no_file(world):
    world.repo.enter("releases", "channels/canary.json", b"{}")
    world.repo.publish("releases")
    with pytest.raises(errors.ManifestError):
        world.trust().channel("canary")
    assert not list((world.store / "staging" / "tmp").iterdir())


def test_a_huge_channel_is_not_fetched(world):
    world.repo.enter("releases", "channels/canary.json", bytes(256 * 1024 + 1))
    world.repo.publish("releases")
    with pytest.raises(errors.LimitError, match="at most 262144 bytes"):
        world.trust().channel("canary")
    assert not any("canary" in path for path in world.server.asked)


def test_a_pack_manifest_needs_no_size_but_has_a_limit(world):
    small, large = b"{}", bytes(64 * 1024 + 1)
    names = [world.repo.add_object(data, "json") for data in (small, large)]
    world.repo.publish(PACKS)
    trust, to = world.trust(), world.store / "staging" / "new"
    trust.fetch(names[0], digest(small), None, to)
    assert to.read_bytes() == small
    with pytest.raises(errors.LimitError, match="at most 65536 bytes"):
        trust.fetch(names[1], digest(large), None, to)


# -- clocks ---------------------------------------------------------------------------------------


def test_a_clock_at_1970_is_reported_and_remembers(world, clock):
    old = world.repo.served()
    world.release()
    world.poll()
    before = world.floor().refreshed
    now = clock(-time.time() + 60)
    assert world.trust(now=now).refresh().clock == "behind"
    assert world.floor().refreshed == before
    world.repo.replay(old)
    world.refuses(errors.UntrustedError, "New timestamp version 2", now=now)


def test_a_clock_at_1970_is_seen_on_the_first_day_too(world, clock):
    assert world.trust(now=clock(-time.time())).refresh().clock == "behind"
    assert time.time() > BUILT


def test_a_clock_a_day_behind_is_reported(world, clock):
    assert world.trust().refresh().clock == "ok"
    assert world.trust(now=clock(-DAY)).refresh().clock == "behind"
    assert world.trust(now=clock(0)).refresh().clock == "ok"


def test_a_clock_twenty_years_ahead_stops_updates_only(world, clock):
    world.poll()
    before = world.floor()
    now = clock(20 * 365 * DAY)
    world.refuses(errors.StaleError, "Check this device's clock", now=now)
    assert world.floor() == before
    assert world.trust(now=clock(0)).refresh().clock == "ok"


def test_a_clock_that_jumps_during_a_poll_changes_nothing(world, clock):
    trust = world.trust()
    trust.refresh()
    clock(20 * 365 * DAY)
    assert trust.channel("stable") == world.first
    assert world.fetch(trust).read_bytes() == BLOB


# -- resume ---------------------------------------------------------------------------------------


@pytest.fixture
def large(world):
    data = np.random.default_rng(3).bytes(1_000_000)
    target = world.repo.add_object(data)
    world.repo.publish(PACKS)
    trust = world.trust()
    world.server.faults[".safetensors"] = Fault(cut=600_000, times=1)
    with pytest.raises(errors.OfflineError, match="the next poll goes on where this one ended"):
        world.fetch(trust, data, target)
    world.server.reset()
    return lambda: world.fetch(world.trust(), data, target).read_bytes() == data


def test_the_next_poll_goes_on(world, large):
    assert large()
    assert sum("Range" in head for head in world.server.heads) == 1
    assert world.server.body_bytes < 1.05 * 400_000


def test_a_damaged_partial_is_fetched_again(world, large):
    (partial,) = (world.store / "staging" / "part").iterdir()
    partial.write_bytes(bytes(partial.stat().st_size))
    assert large()
    assert world.server.body_bytes > 1_000_000


def test_changed_content_under_the_same_url_is_refused(world, large):
    world.server.faults[".safetensors"] = Fault(content=bytes(1_000_000))
    with pytest.raises(errors.UntrustedError, match="LengthOrHashMismatchError"):
        large()
    assert not list((world.store / "staging" / "part").iterdir())
    world.server.reset()
    assert large()


# -- memory ---------------------------------------------------------------------------------------


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
    (world.store / "floor.json").write_bytes(b"\0" * 100)
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
            order.append(path.name)

    trust = world.trust(disk=Watched())
    trust.refresh()
    assert order == ["tuf", "floor.json"]
    trust.find("channels/stable.json")
    assert order == ["tuf", "floor.json", "tuf"]
    trust.find("channels/stable.json")
    assert order == ["tuf", "floor.json", "tuf"]


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


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_site_without_a_timestamp_is_offline(world, status):
    world.poll()
    world.server.faults["timestamp.json"] = Fault(status=status)
    world.refuses(errors.OfflineError, f"DownloadHTTPError: .* answered {status}")


def test_no_server_is_offline(world):
    with pytest.raises(errors.OfflineError, match="Check the URL and the network"):
        world.trust(url="http://127.0.0.1:9").refresh()


def test_a_cut_connection_is_offline(world):
    world.poll()
    world.server.faults["timestamp.json"] = Fault(cut=100)
    world.refuses(errors.OfflineError, "IncompleteRead")


def test_a_wrong_root_is_untrusted(world):
    with pytest.raises(errors.UntrustedError, match="Tell the publisher"):
        Trust(world.store, b"{}", world.server.url).refresh()


@pytest.mark.parametrize(
    ("number", "error", "action"),
    [
        (errno.ENOSPC, errors.NoSpaceError, "edgecl-device gc"),
        (errno.EDQUOT, errors.NoSpaceError, "edgecl-device gc"),
        (errno.EIO, errors.StoreError, "edgecl-device fsck"),
    ],
)
def test_errors_of_the_disk_have_names(world, number, error, action):
    class Broken(Disk):
        def sync_tree(self, folder):
            raise OSError(number, os.strerror(number))

    with pytest.raises(error, match=action):
        world.trust(disk=Broken()).refresh()


def test_a_full_disk_leaves_no_half_object(world, monkeypatch):
    trust = world.trust()
    trust.refresh()

    def full(source, target):
        target.write(source.read(4))
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(errors.NoSpaceError):
        world.fetch(trust)
    assert not (world.store / "staging" / "new").exists()
    monkeypatch.undo()
    world.server.reset()
    assert world.fetch(trust).read_bytes() == BLOB
    assert not any("safetensors" in path for path in world.server.asked)  # the partial was whole
