"""Signed, yet hostile: whatever a publisher's key can sign is refused before it serves.

Every pack here comes with right digests, as one that was signed with a stolen key would. What the
header of a blob or a manifest gives away is refused in milliseconds and in a few megabytes, before
a process is started for it; the rest fails in the self-test's own process. Nothing here touches
what serves.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.deploy.format.test_attacks import make
from tests.deploy.support.sources import MemorySource, make_release, make_store, objects_of, passes
from tests.deploy.support.tuf_repository import PACKS, TufRepository
from tests.deploy.support.world import COLOURS, Made, picture

from edgecl_deploy import Classifier, errors
from edgecl_deploy.files import check_blob
from edgecl_deploy.format import digest, parse_channel, read_tensors, write_tensors
from edgecl_deploy.manifest import limits as format_limits
from edgecl_deploy.store.fsck import check
from edgecl_deploy.store.layout import OBJECTS
from edgecl_deploy.store.records import Limits
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

QUICKLY = 0.05  # seconds: a refusal by the parser, measured in a process that does nothing else
PARSER_MEMORY = 20 * 1024 * 1024  # bytes besides those of a process that has imported the package
SOON = 10.0  # seconds: a whole update with a hostile release, its self-test in a process included
NAMES = list(COLOURS)
MEBIBYTE = 1024 * 1024


class Device:
    """A store that serves release 1, with a classifier that follows it."""

    def __init__(self, world, folder: Path, limits: Limits) -> None:
        self.world = world
        self.first = make_release(world, 1)
        self.store = make_store(world, folder / "store", self.first, limits=limits)
        self.source = MemorySource()
        self.classifier = Classifier.open(self.store.path, threads=1)

    def take(self, made: Made, **options):
        return self.after(self.source, made, **options)

    def after(self, source, made: Made | None = None, test=None, **fields):
        """Update, and see that nothing has changed for the service."""
        if made is not None:
            self.source.publish(made, **fields)
        begin = time.monotonic()
        result = update(self.store, source, **({} if test is None else {"test": test}))
        assert time.monotonic() - begin < SOON
        self.unharmed()
        return result

    def unharmed(self) -> None:
        assert self.store.current() == 0
        assert check(self.store) == []
        answers = self.classifier.predict([picture(name) for name in NAMES[:2]])
        assert [(each.label, each.release) for each in answers] == [("red", 1), ("green", 1)]


@pytest.fixture
def device(world, tmp_path):
    own = Device(world, tmp_path, Limits(trial_seconds=0, pretest_seconds=SOON))
    yield own
    own.classifier.close()


def with_blob(world, data: bytes, number: int = 2, **changes) -> Made:
    """A release whose one pack names `data` as the blob of its prototypes."""
    pack, _ = world.pack(0, ("red",))
    entry = replace(pack.tensors["prototypes"], blob=digest(data), **changes)
    own = replace(pack, tensors={"prototypes": entry}, blobs={digest(data): len(data)})
    return world.made((own, {digest(data): data}), number=number)


# -- blobs that their header gives away -----------------------------------------------------------

ENTRY = make.entry("F16", (1, 3), (0, 6))
SIX = bytes(6)


def duplicate_key() -> bytes:
    """Two tensors of one name: the library takes the last one, others the first."""
    other = {**ENTRY, "dtype": "U8", "shape": (6,)}
    text = f'{{"prototypes":{json.dumps(ENTRY)},"prototypes":{json.dumps(other)}}}'
    return make.blob(text.encode(), SIX)


def many_empty() -> bytes:
    """1.3 million tensors of nothing, an 86 MB header: 1.1 GB in the library."""
    each = b'"%07d":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    return make.blob(b"{" + b",".join(each % i for i in range(1_300_000)) + b"}")


def long_metadata() -> bytes:
    """90 MB of text for people: 0.4 GB in the library."""
    return make.blob(b'{"__metadata__":{"a":"' + b"x" * 90_000_000 + b'"}}')


def some_empty() -> bytes:
    """As many tensors of nothing as a header has room for."""
    each = {f"t{i}": make.entry("F16", (0,), (0, 0)) for i in range(900)}
    return make.blob(json.dumps(each, separators=(",", ":")).encode())


def some_metadata() -> bytes:
    return make.blob(b'{"__metadata__":{"a":"' + b"x" * 65_000 + b'"}}')


def nested(levels: int) -> bytes:
    return make.blob(b'{"prototypes":' + b"[" * levels + b"]" * levels + b"}")


class Harmless:
    """What a pickle would run on a device that loaded it."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/edgecl-was-here",))


def archive(kind: str) -> bytes:
    data, inner = io.BytesIO(), make.blob({"prototypes": ENTRY}, SIX)
    if kind == "zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("../../prototypes.safetensors", inner)
    else:
        with tarfile.open(fileobj=data, mode="w:gz") as file:
            info = tarfile.TarInfo("../../prototypes.safetensors")
            info.size = len(inner)
            file.addfile(info, io.BytesIO(inner))
    return data.getvalue()


def onnx_model() -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.metadata_props.add(key="pad", value="x" * 100)
    return model.SerializeToString()


GOOD = make.blob({"prototypes": ENTRY}, SIX)
BLOBS = {
    "length-2-64": lambda: struct.pack("<Q", 2**64 - 1) + GOOD[8:],
    "length-100-million": lambda: struct.pack("<Q", 100_000_000) + GOOD[8:],
    "overlap": lambda: make.blob(
        {"prototypes": ENTRY, "b": make.entry("F16", (3,), (4, 10))}, bytes(10)
    ),
    "hole": lambda: make.blob({"prototypes": make.entry("F16", (1, 3), (2, 8))}, bytes(8)),
    "trailing": lambda: GOOD + b"x",
    "truncated": lambda: GOOD[:-1],
    "shape-overflow": lambda: make.blob(
        {"prototypes": make.entry("F16", (2**32, 2**32), (0, 0))}, SIX
    ),
    "nesting-200k": lambda: nested(200_000),
    "nesting-30k": lambda: nested(30_000),
    "duplicate-key": duplicate_key,
    "many-empty": many_empty,
    "long-metadata": long_metadata,
    "strange-dtype": lambda: make.blob({"prototypes": make.entry("BF16", (1, 3), (0, 6))}, SIX),
    "many-axes": lambda: make.blob(
        {"prototypes": make.entry("F16", (1,) * 8 + (3,), (0, 6))}, SIX
    ),
    "no-float": lambda: make.blob(b'{"prototypes":{"dtype":"F16","shape":[NaN,3]}}', SIX),
    "pickle": lambda: pickle.dumps([Harmless()] * 10),
    "onnx": onnx_model,
    "zip": lambda: archive("zip"),
    "tar": lambda: archive("tar"),
}  # fmt: skip
HEADED = {"some-empty": some_empty, "some-metadata": some_metadata}  # sound, as far as a header is


@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_with_a_hostile_header_is_refused_before_its_test(device, name):
    data = BLOBS[name]()
    result = device.take(with_blob(device.world, data), test=never)
    assert result.outcome is Outcome.REFUSED, result.reason
    assert len(result.reason) < 1000
    assert device.after(device.source).outcome is Outcome.DENIED
    assert not os.path.exists("/tmp/edgecl-was-here")  # noqa: S108


def never(store, generation):
    raise AssertionError("a refused release must not be tested")


PEAK = """
import re
from pathlib import Path
def peak():  # bytes since the last call; the kernel's ru_maxrss begins with the parent's
    most = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    Path("/proc/self/clear_refs").write_text("5")
    return most
"""
PARSE = """
import sys, time
from pathlib import Path
from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import check_blob
for name in sys.argv[1:]:
    peak()
    before = peak()
    begin = time.process_time()
    try:
        check_blob(Path(name))
        said = "sound"
    except DeployError as error:
        said = "refused"
    seconds = time.process_time() - begin
    print(Path(name).name, said, seconds, peak() - before)
"""


def test_a_hostile_header_is_refused_quickly_and_in_little_memory(tmp_path):
    made = {**BLOBS, **HEADED, "good": lambda: GOOD}
    made |= {attack.name: lambda attack=attack: attack.data for attack in make.tensor_attacks()}
    for name, data in made.items():
        (tmp_path / name).write_bytes(data())
    answer = subprocess.run(
        [sys.executable, "-c", PEAK + PARSE, *(str(tmp_path / name) for name in made)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert len(rows) == len(made)
    assert {name for name, said, *_ in rows if said == "sound"} == {*HEADED, "good"}
    slow = {name: float(seconds) for name, _, seconds, _ in rows if float(seconds) > QUICKLY}
    assert slow == {}
    assert max(int(memory) for *_, memory in rows) < PARSER_MEMORY


def test_the_library_is_never_asked_about_a_hostile_header(monkeypatch):
    """Reading bytes in memory has the same judge as the check of a file."""
    for make_data in BLOBS.values():
        with pytest.raises(errors.DeployError, match=r"\. [A-Z]"):
            read_tensors(make_data())


def test_only_the_beginning_of_a_blob_is_read(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(make.blob({"a": make.entry("U8", (2**30,), (0, 2**30))}))
    os.truncate(path, path.stat().st_size + 2**30)  # a hole: it takes no space
    begin = time.perf_counter()
    check_blob(path)
    assert time.perf_counter() - begin < 10 * QUICKLY  # hashing a gigabyte takes longer


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
    limits = Limits(trial_seconds=0, pretest_memory=1536 * MEBIBYTE)
    device = Device(world, tmp_path, limits)
    with device.classifier:
        result = device.take(crowd(world, 4 * MEBIBYTE, 2))  # 24 MB on the wire, 1.5 GB in use
        assert result.outcome is Outcome.PRETEST_FAILED, result.reason
        device.source.publish(make_release(world, 3))
        assert update(device.store, device.source).outcome is Outcome.UPDATED


def test_a_release_that_is_slow_fails_its_test(world, tmp_path):
    limits = Limits(trial_seconds=0, canary_ms=3.0)
    device = Device(world, tmp_path, limits)
    with device.classifier:
        result = device.take(crowd(world, MEBIBYTE, 2))
        assert result.outcome is Outcome.PRETEST_FAILED, result.reason
        assert "ms; 3 ms are allowed" in result.reason


def test_a_release_that_hangs_fails_its_test(world, tmp_path):
    device = Device(world, tmp_path, Limits(trial_seconds=0, pretest_seconds=0.1))
    with device.classifier:
        result = device.take(make_release(world, 2))  # not even Python starts in this time
        assert result.outcome is Outcome.PRETEST_FAILED
        assert "took more than 0.1 s" in result.reason


# -- manifests ------------------------------------------------------------------------------------


def test_every_hostile_manifest_is_refused(device):
    """All of tests/attacks, as a signed release or as a pack of one."""
    world, number = device.world, 2
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
        assert result.outcome is Outcome.REFUSED, (attack.name, result.reason)
        assert len(result.reason) < 1000
        assert result.reason.isprintable()
        number += 1
    assert number > 50
    device.unharmed()
    assert len(device.store.denied.releases) == number - 2


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
    [("pack", 0.3, 8 * MEBIBYTE), ("channel", 1.0, 20 * MEBIBYTE), ("release", 2.0, 32 * MEBIBYTE)],
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
    assert "65536 bytes" in result.reason
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
    data = make.blob({"prototypes": make.entry("U8", (MEBIBYTE,), (0, MEBIBYTE))}, bytes(MEBIBYTE))
    device.take(with_blob(device.world, data))
    assert device.store.has(digest(data), len(data))  # the pretest was the first to see its shape
    made = make_release(device.world, 3)
    made.release = replace(made.release, packs=(digest(data),))
    result = device.take(made, test=never)
    assert result.outcome is Outcome.REFUSED
    assert "at most 65536 bytes" in result.reason


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
    assert result.outcome is Outcome.REFUSED
    assert "calls release 2 release 3" in result.reason


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
