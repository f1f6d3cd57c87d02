"""A channel that wants older releases erased: what a device has left of them."""

import errno
import fcntl
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.enrolling import cosine_world, release
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    make_release,
    make_store,
    objects_of,
    passes,
)

from edgecl_deploy import Classifier
from edgecl_deploy.drift.state import Mark, State
from edgecl_deploy.errors import FormatVersionError, ManifestError
from edgecl_deploy.format import (
    CHANNEL_FORMAT,
    Hidden,
    channel_target,
    hidden,
    parse_channel,
    parse_release,
)
from edgecl_deploy.store.layout import PART, STAGING
from edgecl_deploy.store.records import FACTORY, generation_name, parse_denied
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import FACTORY_KEPT, Outcome
from edgecl_deploy.update.purge import forgetting
from edgecl_deploy.update.status import status

PROBE = 64
SALT = "0f" * 16


def probes(made, *kept):
    """Return the pieces of 64 bytes that only a release has, of blobs and canaries alike."""
    others = [data for each in kept for data in objects_of(each).values()]
    found = {
        data[at : at + PROBE]
        for data in objects_of(made).values()
        for at in range(len(data) - PROBE + 1)
    }
    return {piece for piece in found if not any(piece in data for data in others)}


def traces(path, pieces):
    """Return the files of a store that hold one of some pieces."""
    files = [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    return [str(each) for each in files if any(piece in each.read_bytes() for piece in pieces)]


@pytest.fixture
def made(world):
    return {n: make_release(world, n, tasks=3 if n < 3 else 2) for n in range(1, 5)}


def taken(store, source, made, number, **fields):
    source.publish(made[number], **fields)
    return update(store, source, test=passes)


@pytest.mark.parametrize("factory", [None, 1])
def test_no_byte_of_what_was_forgotten_is_left(world, made, factory):
    store = make_store(world, world.root / "store", made[1] if factory else None, disk=Quick())
    source = MemorySource()
    for number in (1, 2):
        taken(store, source, made, number)
    (store.path / STAGING / PART / ("a" * 64)).write_bytes(next(iter(made[2].blobs.values())))
    pieces = probes(made[2], made[3], *([made[1]] if factory else []))
    assert len(pieces) > 100
    assert traces(store.path, pieces)
    result = taken(store, source, made, 3, min_release=3, purge=True)
    assert (result.outcome, store.serving().release) == (Outcome.UPDATED, 3)
    assert traces(store.path, pieces) == []
    assert (store.state.previous, store.state.last_good) == (None, store.current())
    left = forgetting(store)
    assert (left.below, left.pending, left.factory) == (3, (), factory)
    assert left.objects > 0
    if factory:
        assert (result.status, result.factory_kept) == (FACTORY_KEPT, 1)
        assert traces(store.path, probes(made[1], made[3]))
        assert any("of the factory should be erased" in each for each in status(store).attention)
    else:
        assert (result.status, status(store).attention) == (0, [])
        assert traces(store.path, probes(made[1], made[3])) == []
    assert json.loads(json.dumps(status(store).to_json()))["forgotten"]["below"] == 3
    later = taken(store, source, made, 4, min_release=3, purge=True)
    assert later.outcome is Outcome.UPDATED
    assert store.state.previous is not None, "what is not below the floor stays to go back to"


def test_what_fails_its_trial_erases_nothing_and_a_reader_only_delays_it(world, made):
    store, source = make_store(world, world.root / "store", disk=Quick()), MemorySource()
    for number in (1, 2):
        taken(store, source, made, number)
    source.publish(made[3], min_release=3, purge=True)
    assert update(store, source, test=lambda *_: "no").outcome is Outcome.PRETEST_FAILED
    assert store.serving().release == 2
    assert forgetting(store).pending == (1, 2)
    assert any("are to be erased" in each for each in status(store).attention)
    handle = os.open(store.path / generation_name(2), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    assert update(store, source, test=passes, retry=True).outcome is Outcome.UPDATED
    assert forgetting(store).pending == (2,)
    os.close(handle)
    assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
    assert forgetting(store).pending == ()


class FullDisk(Quick):
    """A disk on which no document can be written anew."""

    def put(self, path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_what_rotted_is_mended_and_its_objects_are_no_garbage(world, made):
    store, source = make_store(world, world.root / "store", made[1], disk=Quick()), MemorySource()
    taken(store, source, made, 2, min_release=2, purge=True)
    objects = {path.name for path in (store.path / "objects").iterdir()}
    path = store.path / generation_name(FACTORY)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole.replace(b'"release":1', b'"release":3'))
    for disk in (FullDisk(), Quick()):
        store = Store(store.path, disk)
        assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
        assert {path.name for path in (store.path / "objects").iterdir()} == objects
    assert path.read_bytes() == whole


def test_a_store_whose_settings_are_lost_ends_the_update_and_not_the_process(world, made):
    store, source = make_store(world, world.root / "store", disk=Quick()), MemorySource()
    taken(store, source, made, 1)
    source.publish(made[2], min_release=2, purge=True)
    with (store.path / generation_name(1)).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
    for folder in (store.path, store.path / "spare"):
        (folder / "config.json").write_bytes(b"moth")
    assert update(store, source, test=passes).outcome is Outcome.FAILED


def test_classes_of_the_device_that_were_forgotten_go_and_newer_ones_stay(world):
    toy = cosine_world(world)
    store = make_store(toy, toy.root / "store", release(toy, 1), disk=Quick())
    source = MemorySource()
    rng = np.random.default_rng(0)
    shots = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.enrol("Pink", shots, force=True)
        classifier.enrol("lemon", shots[::-1], force=True)
    forgotten = Hidden(SALT, (hidden("pink", SALT), hidden("red", SALT)))
    second = release(toy, 2)
    second = replace(second, release=replace(second.release, forgotten=forgotten))
    source.publish(second, min_release=2, purge=True)
    counts = store.path / "local" / "drift.json"  # it has names of classes that were answered
    counts.write_text("{}")
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert not counts.exists()
    assert list(status(store).local) == ["lemon"]
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.enrol("pink", shots, force=True)
    assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
    assert sorted(status(store).local) == ["lemon", "pink"]


def watched(mark):
    return State(mark, 0.0, images=1, classes={"pink": 1}).to_bytes()


def test_what_drift_kept_is_erased_by_the_next_update_if_this_one_could_not(world, made):
    store, source = make_store(world, world.root / "store", disk=Quick()), MemorySource()
    local = store.path / "local"
    local.mkdir(exist_ok=True)
    counts = local / "drift.json"
    counts.mkdir()  # nobody can remove it
    taken(store, source, made, 1)
    taken(store, source, made, 2, min_release=2, purge=True)
    assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
    failed = [each for each in store.log.read() if each["event"] == "purge of drift failed"]
    assert len(failed) == 1, "it is told once"
    counts.rmdir()
    digest = store.serving().digest
    for mark, stays in (
        (Mark("1" * 64, 1), False),
        (Mark(digest, 2), True),
        (Mark(digest, 2, local=3), False),  # of local classes that were erased
    ):
        counts.write_bytes(watched(mark))
        assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
        assert counts.exists() == stays


def test_a_purging_channel_is_one_that_an_older_device_does_not_read():
    digest = "0" * 64
    channel = parse_channel(
        b'{"format":"edgecl-channel/2","name":"stable","number":3,"release":"%s","size":1,'
        b'"publisher":"lab","backbone":"%s","created":0,"min_release":3,"rollout":null,'
        b'"halted":false,"notes":null,"purge":true}' % ((digest.encode(),) * 2)
    )
    assert channel.purge
    assert parse_channel(channel.to_bytes()) == channel
    plain = parse_channel(channel.to_bytes().replace(b"channel/2", b"channel/1"))
    assert (plain.purge, plain.extra) == (False, {"purge": True})
    assert CHANNEL_FORMAT.encode() in plain.to_bytes()
    with pytest.raises(FormatVersionError):
        parse_channel(channel.to_bytes().replace(b"channel/2", b"channel/3"))
    with pytest.raises(ManifestError):
        parse_channel(channel.to_bytes().replace(b'"purge":true', b'"purge":7'))
    assert channel_target("stable") == "channels/stable.json"


def test_a_release_tells_digests_of_names_and_no_name(world, made):
    names = Hidden(SALT, (hidden("Hex Key", SALT),))
    assert names.hides("hex key")
    assert names.without(["HEX KEY"]) is None
    assert names.without(["other"]) == names
    data = made[1].release.to_bytes()
    assert b"forgotten" not in data
    with_names = replace(parse_release(data), forgotten=names)
    assert parse_release(with_names.to_bytes()).forgotten == names
    with pytest.raises(ManifestError, match="salt"):
        parse_release(with_names.to_bytes().replace(SALT.encode(), b"salty"))


def test_the_floor_of_a_purge_is_read_again_from_the_log(world, made):
    store, source = make_store(world, world.root / "store", made[1], disk=Quick()), MemorySource()
    taken(store, source, made, 2, min_release=2, purge=True)
    for path in (store.path, store.path / "spare"):
        (path / "denied.json").write_bytes(b"moth")
    update(store, source, test=passes)
    assert parse_denied((store.path / "denied.json").read_bytes()).purge_below == 2
