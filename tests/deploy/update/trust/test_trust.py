"""What a device believes of a channel: the usual case, manifests, clocks, downloads, errors."""

import errno
import os
import shutil
import time

import numpy as np
import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.trusting import BLOB, DAY, World
from tests.deploy.support.tuf_repository import PACKS

from edgecl_deploy import errors
from edgecl_deploy.format import digest
from edgecl_deploy.manifest import limits
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.update.fetcher import Fetcher
from edgecl_deploy.update.floor import BUILT
from edgecl_deploy.update.trust import Trust

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
    small, large = b"{}", bytes(limits.MAX_PACK_MANIFEST + 1)
    names = [world.repo.add_object(data, "json") for data in (small, large)]
    world.repo.publish(PACKS)
    trust, to = world.trust(), world.store / "staging" / "new"
    trust.fetch(names[0], digest(small), None, to)
    assert to.read_bytes() == small
    with pytest.raises(errors.LimitError, match=f"at most {limits.MAX_PACK_MANIFEST} bytes"):
        trust.fetch(names[1], digest(large), None, to)


# -- clocks ---------------------------------------------------------------------------------------


def test_a_clock_at_1970_is_reported_and_remembers(world, clock):
    old = world.repo.served()
    world.release()
    world.poll()
    now = clock(-time.time() + 60)
    assert world.trust(now=now).refresh().clock == "behind"
    assert world.floor().timestamp == 3
    world.repo.replay(old)
    world.refuses(errors.UntrustedError, "New timestamp version 2", now=now)


def test_a_clock_at_1970_is_seen_on_the_first_day_too(world, clock):
    assert world.trust(now=clock(-time.time())).refresh().clock == "behind"
    assert time.time() > BUILT


def test_a_clock_a_day_behind_what_was_signed_is_reported(world, clock):
    world.repo.add_channel(number=2, created=int(time.time()))
    world.repo.publish("releases")
    world.poll()
    assert world.trust().refresh().clock == "ok"
    assert world.trust(now=clock(-DAY)).refresh().clock == "behind"
    assert world.trust(now=clock(0)).refresh().clock == "ok"


def test_a_clock_that_was_ahead_once_is_no_reason_to_call_the_right_one_behind(world, clock):
    world.poll(now=clock(0.5 * DAY))
    assert world.floor().refreshed > time.time() + 0.4 * DAY
    assert world.trust(now=clock(0)).refresh().clock == "ok"
    assert world.floor().refreshed < time.time() + 60


def test_a_signed_time_after_all_signatures_end_is_not_believed_whole(world):
    world.repo.add_channel(number=2, created=int(time.time() + 1000 * DAY))
    world.repo.publish("releases")
    world.poll()
    assert world.floor().signed < time.time() + 100 * DAY


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
