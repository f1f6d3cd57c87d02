"""The attack table of TUF over loopback HTTP."""

import time

import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.trusting import BLOB, DAY, TRUSTED
from tests.deploy.support.tuf_repository import PACKS, new_key

from edgecl_deploy import errors
from edgecl_deploy.update.fetcher import Fetcher


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
