"""Signed, yet hostile: whatever a publisher's key can sign is refused before it serves."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.format.test_attacks import make
from tests.deploy.support.hostile import (
    BLOBS,
    MEBIBYTE,
    NAMES,
    PEAK,
    SOON,
    Device,
    never,
    some_empty,
    some_metadata,
    with_blob,
)
from tests.deploy.support.sources import make_release, objects_of, passes
from tests.deploy.support.tuf_repository import PACKS, TufRepository
from tests.deploy.support.world import COLOURS, Made, picture

from edgecl_deploy import errors
from edgecl_deploy.format import digest, parse_channel, write_tensors
from edgecl_deploy.manifest import limits as format_limits
from edgecl_deploy.store.fsck import check
from edgecl_deploy.store.layout import OBJECTS
from edgecl_deploy.store.records import Limits
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

# -- packs that only their use gives away ---------------------------------------------------------


def half(*rows):
    return np.array(rows, np.float16)


def swapped(world) -> Made:
    """The prototypes of green under the name of red, with the canaries of the right ones."""
    good = make_release(world, 2)
    packs = [
        world.pack(i, (name,), tensors={"prototypes": half(COLOURS[NAMES[1 - i]])})
        for i, name in enumerate(NAMES[:2])
    ]
    bad = world.made(*packs, number=2)
    blobs = {name: good.blobs[name] for name in good.release.blobs}
    release = replace(bad.release, canaries=good.release.canaries, blobs=good.release.blobs)
    return Made(release, bad.manifests, {**bad.blobs, **blobs})


USED = {
    "nan": (lambda w: with_blob(w, write_tensors({"prototypes": half([0, np.nan, 1])})), "finite"),
    "infinity": (
        lambda w: with_blob(w, write_tensors({"prototypes": half([0, np.inf, 1])})), "finite"),
    "other-dtype": (
        lambda w: with_blob(w, write_tensors({"prototypes": np.zeros((1, 3), np.float32)})),
        "must have the dtype float16"),
    "dtype-of-nobody": (
        lambda w: with_blob(
            w, write_tensors({"prototypes": np.zeros((1, 3), np.int32)}), dtype="int32"),
        "must be float32"),
    "other-shape": (
        lambda w: with_blob(w, write_tensors({"prototypes": np.zeros((3, 1), np.float16)})),
        "must have the shape"),
    "shape-of-nobody": (
        lambda w: with_blob(w, write_tensors({"prototypes": np.zeros((1, 4), np.float16)}),
                            shape=(1, 4)),
        "must have 3 on the axis d"),
    "other-rank": (
        lambda w: with_blob(w, write_tensors({"prototypes": np.zeros((1, 3, 1), np.float16)}),
                            shape=(1, 3, 1), axes=("c", "d", "e")),
        "must have the axes c d"),
    "more-tensors": (lambda w: with_blob(w, some_empty()), "must hold only tensors"),
    "no-tensors": (lambda w: with_blob(w, some_metadata()), "must hold prototypes"),
    "swapped-task": (swapped, "must give their scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
def test_a_pack_that_does_not_fit_fails_its_test(device, name):
    make_it, reason = USED[name]
    result = device.take(make_it(device.world))
    assert result.outcome is Outcome.PRETEST_FAILED, result.reason
    assert reason in result.reason
    assert device.after(device.source).outcome is Outcome.DENIED


def crowd(world, rows: int, number: int) -> Made:
    """A release whose prompts are long: each image of a batch gets a copy of all of them."""
    tensors = world.tensors(0, ("red",), "pool")
    tensors["prompts"] = np.zeros((1, rows, 3), np.float32)
    pack = world.pack(0, ("red",), program="pool", tensors=tensors)
    images = np.repeat(picture("red", 1), 32, axis=0)
    scores = np.ones((32, 1), np.float32)
    return world.made(pack, number=number, canary=(images, scores))


def test_a_release_that_takes_too_much_memory_fails_its_test(world, tmp_path):
    limits = Limits(trial_seconds=0, untested=True, pretest_memory=1536 * MEBIBYTE)
    device = Device(world, tmp_path, limits)
    with device.classifier:
        result = device.take(crowd(world, 4 * MEBIBYTE, 2))  # 24 MB on the wire, 1.5 GB in use
        assert result.outcome is Outcome.PRETEST_FAILED, result.reason
        device.source.publish(make_release(world, 3))
        assert update(device.store, device.source).outcome is Outcome.UPDATED


def test_a_release_that_is_slow_fails_its_test(world, tmp_path):
    limits = Limits(trial_seconds=0, untested=True, canary_ms=3.0)
    device = Device(world, tmp_path, limits)
    with device.classifier:
        result = device.take(crowd(world, MEBIBYTE, 2))
        assert result.outcome is Outcome.PRETEST_FAILED, result.reason
        assert "ms; 3 ms are allowed" in result.reason


def test_a_limit_that_no_release_can_keep_denies_none(world, tmp_path):
    device = Device(world, tmp_path, Limits(trial_seconds=0, untested=True, pretest_seconds=0.1))
    with device.classifier:
        result = device.take(make_release(world, 2))  # not even Python starts in this time
        assert result.outcome is Outcome.FAILED
        assert "took more than 0.1 s" in result.reason
        assert device.store.denied.releases == {}


# -- manifests ------------------------------------------------------------------------------------


def test_every_hostile_manifest_is_refused(device):
    """All of tests/attacks, as a signed release or as a pack of one."""
    world, number, others = device.world, 2, 0
    for attack in make.manifest_attacks():
        made = make_release(world, number)
        if attack.reader == "pack":
            name = digest(attack.data)
            made.release = replace(made.release, packs=(name,))
            made.manifests = {name: attack.data}
            device.source.publish(made)
        elif attack.reader == "release":
            device.source.objects[digest(attack.data)] = attack.data
            device.source.publish(made, release=digest(attack.data), size=len(attack.data))
        else:
            continue
        begin = time.perf_counter()
        result = update(device.store, device.source, test=never)
        assert time.perf_counter() - begin < SOON
        later = attack.name.startswith("next-version")  # for a device with a later edgecl-deploy
        others += later
        expected = Outcome.INCOMPATIBLE if later else Outcome.REFUSED
        assert result.outcome is expected, (attack.name, result.reason)
        assert len(result.reason) < 1000
        assert result.reason.isprintable()
        number += 1
    assert number > 50
    device.unharmed()
    assert len(device.store.denied.releases) == number - 2 - others


WORST = r"""
import sys, time
from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import parse_channel, parse_pack, parse_release
from edgecl_deploy.manifest import limits as _limits
parse, size = {
    "pack": (parse_pack, _limits.MAX_PACK_MANIFEST),
    "channel": (parse_channel, _limits.MAX_CHANNEL),
    "release": (parse_release, _limits.MAX_MANIFEST),
}[sys.argv[1]]
size -= 20
cases = [b'{"format":[' + each * (size // len(each)) + b"0]}" for each in
         (b"[],", b"[[[[[]]]]],", b"1,", b'"",', b"{},")]
cases += [b'{"format":"' + each * (size // len(each)) + b'"}' for each in
          (b"x", b"\\u1234", b'\\"', "\N{SNOWMAN}".encode())]
cases += [each * size for each in (b"{", b'{"a":', b'"', b"\\")]
peak()
before = peak()
begin = time.process_time()
for data in cases:
    try:
        parse(data)
    except DeployError:
        continue
    sys.exit("taken")
print(time.process_time() - begin, peak() - before)
"""


@pytest.mark.parametrize(
    ("kind", "seconds", "memory"),
    [
        ("pack", 3.0, 40 * MEBIBYTE),
        ("channel", 1.0, 20 * MEBIBYTE),
        ("release", 2.0, 32 * MEBIBYTE),
    ],
)
def test_the_worst_that_json_can_be_is_bounded(kind, seconds, memory):
    answer = subprocess.run(
        [sys.executable, "-c", PEAK + WORST, kind], check=True, capture_output=True, text=True
    )
    taken, grown = answer.stdout.split()
    assert float(taken) < seconds  # all 13 of them
    assert int(grown) < memory


def test_a_manifest_of_300_kilobytes_is_refused(device):
    made = make_release(device.world, 2)
    data = json.dumps({**make.pack(), "notes": "x" * 300_000}).encode()
    made.release = replace(made.release, packs=(digest(data),))
    made.manifests = {digest(data): data}
    result = device.take(made, test=never)
    assert result.outcome is Outcome.REFUSED
    assert "at most 67142 bytes" in result.reason  # 64 KB and two names
    channel = device.source.channels["stable"]
    with pytest.raises(errors.LimitError, match="at most 262144 bytes"):
        parse_channel(replace(channel, extra={"more": "x" * 300_000}).to_bytes())


def test_more_manifests_than_a_release_may_have_are_not_fetched(device, monkeypatch):
    monkeypatch.setattr(format_limits, "MAX_MANIFESTS", 10_000)
    made = make_release(device.world, 2)
    pad = {json.dumps({**make.pack(), "n": i, "pad": "x" * 3000}).encode() for i in range(50)}
    made.manifests = {digest(data): data for data in pad}
    made.release = replace(made.release, packs=tuple(made.manifests))
    result = device.take(made, test=never)
    assert result.outcome is Outcome.REFUSED
    assert "manifests of a release must have at most 10000 bytes" in result.reason
    assert result.fetched < 20_000


def test_more_blobs_than_a_release_may_have_are_not_fetched(device):
    packs = []
    for task in range(5):  # 1.25 GiB that nobody has
        pack, _ = device.world.pack(task, ("red",))
        huge = {digest(bytes([task])): format_limits.MAX_BLOB}
        packs.append((replace(pack, classes=(f"class {task}",), blobs={**pack.blobs, **huge}), {}))
    result = device.take(device.world.made(*packs, number=2), test=never)
    assert result.outcome is Outcome.REFUSED
    assert "blobs of a release must have at most" in result.reason
    assert result.fetched < 10_000


# -- false claims about what the device has -------------------------------------------------------


def test_a_lie_about_the_size_of_an_object_that_serves_does_not_remove_it(device):
    (name, *_) = device.first.release.packs
    held = objects_of(device.first)
    serving = next(blob for blob in device.first.blobs if blob not in device.first.release.blobs)
    pack, blobs = device.world.pack(2, ("blue",))
    lying = replace(pack, blobs={**pack.blobs, serving: len(held[serving]) + 1})
    result = device.take(device.world.made((lying, blobs), number=2), test=never)
    assert result.outcome is Outcome.REFUSED
    assert device.store.has(serving, len(held[serving]))
    assert device.store.has(name, len(held[name]))


def test_two_manifests_that_disagree_about_a_blob_are_refused(device):
    pack, blobs = device.world.pack(0, ("red",))
    (name,) = pack.blobs
    other, more = device.world.pack(1, ("green",))
    other = replace(other, blobs={**other.blobs, name: pack.blobs[name] + 1})
    made = device.world.made((pack, blobs), (other, {**blobs, **more}), number=2)
    result = device.take(made, test=never)
    assert result.outcome is Outcome.REFUSED
    assert "same size in every manifest" in result.reason


def test_a_blob_that_is_called_a_manifest_is_not_read_whole(device):
    size = 9 * MEBIBYTE
    data = make.blob({"prototypes": make.entry("U8", (size,), (0, size))}, bytes(size))
    device.take(with_blob(device.world, data))
    assert device.store.has(digest(data), len(data))  # the pretest was the first to see its shape
    made = make_release(device.world, 3)
    made.release = replace(made.release, packs=(digest(data),))
    result = device.take(made, test=never)
    assert result.outcome is Outcome.REFUSED
    assert "at most 8388608 bytes" in result.reason


def test_a_manifest_that_is_called_a_blob_is_refused(device):
    pack, _ = device.world.pack(0, ("red",))
    name, data = next(iter(device.first.manifests.items()))
    entry = replace(pack.tensors["prototypes"], blob=name)
    own = replace(pack, tensors={"prototypes": entry}, blobs={name: len(data)})
    made = device.world.made((own, {}), number=2)
    assert device.take(made, test=never).outcome is Outcome.REFUSED


def test_another_release_under_a_number_that_serves_is_refused(device):
    other = device.world.made(device.world.pack(0, ("blue",)), number=1)
    assert device.take(other).outcome is Outcome.UNTRUSTED


def test_a_release_with_another_number_than_the_channels_is_refused(device):
    made = make_release(device.world, 2)
    result = device.after(device.source, made, number=3)
    assert result.outcome is Outcome.UNTRUSTED
    assert "which is release 2; found its number 3" in result.reason
    assert device.store.denied.releases == {}


# -- a USB stick ----------------------------------------------------------------------------------


@pytest.fixture
def stick(world, tmp_path):
    """A folder with a signed release 2, and what a device needs to read it."""
    repository = TufRepository(tmp_path / "stick")
    made = make_release(world, 2)
    for name, data in objects_of(made).items():
        repository.add_object(data, "safetensors" if name in made.blobs else "json")
    data = made.release.to_bytes()
    repository.add_channel(
        number=2, release=digest(data), size=len(data), backbone=made.release.backbone
    )
    repository.publish(PACKS, "releases")
    return repository


@pytest.mark.parametrize("what", ["a file", "a folder", "a device", "a pipe", "itself"])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_links_on_a_usb_stick_are_not_followed(device, stick, tmp_path, what, kind):
    new = set(objects_of(make_release(device.world, 2))) - set(objects_of(device.first))
    target = next(
        path for path in stick.folder.rglob(f"*.{kind}") if path.name.partition(".")[0] in new
    )
    if what == "a folder":
        target = target.parent
    outside = tmp_path / "outside"
    target.rename(outside)
    if what == "a pipe":
        os.mkfifo(target)
    else:
        target.symlink_to({"a device": Path("/dev/zero"), "itself": target}.get(what, outside))
    source = Trust(device.store.path, stick.root, str(stick.folder))
    result = device.after(source, test=never)
    assert result.outcome in {Outcome.UNTRUSTED, Outcome.OFFLINE}, result
    assert device.store.denied.releases == {}  # the stick is at fault, not the release
    target.unlink()
    outside.rename(target)
    assert update(device.store, source, test=passes).outcome is Outcome.UPDATED


def test_nothing_hostile_is_left_after_a_good_update(device):
    """What was refused is garbage: the next commit takes it away."""
    data = BLOBS["hole"]()
    device.take(with_blob(device.world, data), test=never)
    device.source.publish(make_release(device.world, 3))
    assert update(device.store, device.source, test=passes).outcome is Outcome.UPDATED
    assert not (device.store.path / OBJECTS / digest(data)).exists()
    assert check(Store.open(device.store.path)) == []
