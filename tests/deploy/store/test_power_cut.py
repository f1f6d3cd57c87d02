"""Real power cuts on real file systems, before every file operation."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.deploy.support.faults import ended, in_a_child
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    fast_folder,
    make_release,
    make_store,
    passes,
)
from tests.deploy.support.store_checks import SERVES_DENIED, broken, release_of, tell
from tests.deploy.support.tuf_repository import TufRepository
from tests.deploy.support.volume import Volume, missing
from tests.deploy.support.world import World

from edgecl_deploy.errors import UntrustedError
from edgecl_deploy.store import fsck
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import OBJECTS
from edgecl_deploy.store.records import FACTORY, Generation, Limits
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.floor import FLOOR, Floor, parse_floor
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.operate import rollback
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

pytestmark = pytest.mark.slow
STRICT = Limits(trial_seconds=0, trial_requests=1, untested=True)  # nobody asks: every trial fails
DONE = {Outcome.UP_TO_DATE, Outcome.DENIED}
ROUNDS = 50  # of the memory of the channel
CUT = 7  # exit status of a child that cut the power
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {"os.rename", "os.symlink", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


@pytest.fixture(autouse=True)
def syncing(fsync: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture(params=["ext4", "xfs"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    kind = request.param
    reason = missing(kind)
    with fast_folder() as folder:
        try:
            made = Volume(folder, kind) if reason is None else None
        except subprocess.CalledProcessError as error:
            made, reason = None, f"cannot mount: {error.stderr.decode(errors='replace').strip()}"
        if made is None:
            plugins = request.config.pluginmanager
            reporter, capture = map(plugins.get_plugin, ("terminalreporter", "capturemanager"))
            if reporter is not None and capture is not None:
                with capture.global_and_fixture_disabled():
                    reporter.write_line(f"\nNO POWER WAS CUT on {kind}: {reason}")
            pytest.skip(f"power cuts on {kind}: {reason}")
        try:
            yield made
        finally:
            made.unmount()


def cut_before(volume: Volume, number: int, work: Callable[[], object]) -> bool:
    """Do some work in a child, and cut the power before its file operation of that number.

    Returns:
        Whether there was such an operation; if not, the power was cut at the end.
    """

    def child() -> None:
        count, inside, fsync = 0, str(volume.path), os.fsync

        def operation() -> None:
            nonlocal count
            if count == number:
                volume.cut()
                os._exit(CUT)
            count += 1

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = args
                changes = isinstance(flags, int) and flags & WRITES
            else:
                path, changes = (args or ("",))[0], event in EVENTS
            if event == "os.symlink":
                path = args[1]
            if changes and isinstance(path, (str, os.PathLike)) and str(path).startswith(inside):
                operation()

        def synced(handle: Any) -> None:
            operation()
            fsync(handle)

        sys.addaudithook(hook)
        os.fsync = synced
        work()

    code = ended(in_a_child(child))
    assert code in {0, CUT}, f"the child ended with {code}"
    if code == 0:
        volume.cut()
    volume.restart()
    return code == CUT


class Bench:
    """A store on the volume, made again for every cut."""

    def __init__(self, world: World, volume: Volume) -> None:
        self.volume, self.world = volume, world
        self.made = {n: make_release(world, n, tasks=1, canary=False) for n in range(1, 5)}
        self.source = MemorySource()
        self.seed = volume.path / "seed"
        store = make_store(world, self.seed, self.made[1], disk=Quick())
        for number in (2, 3):
            self.source.publish(self.made[number])
            assert update(store, self.source, test=passes).outcome is Outcome.UPDATED
        with store.lock():  # garbage
            old = store.generation(FACTORY)
            store.write_generation(Generation(3, 1, old.digest, old.objects, 0))
            (self.seed / OBJECTS / ("0" * 64)).write_bytes(b"of no release")
        self.source.publish(self.made[4])
        self.count = 0

    def copy(self, limits: Limits | None = None) -> Path:
        shutil.rmtree(self.volume.path / f"store-{self.count}", ignore_errors=True)
        self.count += 1
        path = self.volume.path / f"store-{self.count}"
        shutil.copytree(self.seed, path, symlinks=True)
        if limits is not None:
            store = Store(path, Quick())
            with store.lock():
                store.configure(type(store.config)(**{**vars(store.config), "limits": limits}))
        self.volume.sync()
        return path

    def update(self, path: Path) -> Outcome:
        return update(Store(path), self.source, test=passes).outcome


def collects(bench: Bench, path: Path) -> None:
    store = Store(path)
    with store.lock():
        collect(store)


SCENES: dict[str, tuple[Callable[[Bench, Path], object], Limits | None, set[int], int, int]] = {
    # what is done, with which limits; what may serve after a cut, after the end, after a retry
    "install and gc": (lambda bench, path: bench.update(path), None, {3, 4}, 4, 4),
    "trial fails": (lambda bench, path: bench.update(path), STRICT, {3, 4}, 3, 3),
    "operator's rollback": (lambda b, path: rollback(Store(path), "no good"), None, {2, 3}, 2, 4),
    "gc": (collects, None, {3}, 3, 4),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_cut_before_every_operation(world, volume, scene):
    work, limits, between, after, end = SCENES[scene]
    bench, begin, number, cut = Bench(world, volume), time.perf_counter(), 0, True
    while cut:
        path = bench.copy(limits)
        cut = cut_before(volume, number, lambda: work(bench, path))  # noqa: B023
        where = f"cut before operation {number}"
        store = Store(path)
        assert release_of(store) in (between if cut else {after}), where
        assert broken(path) in {None, SERVES_DENIED}, where
        for _ in range(3):
            outcome = bench.update(path)
        assert outcome in ({Outcome.FAILED} if limits is STRICT else DONE), where
        assert release_of(store) == end, where
        assert broken(path) is None, where
        assert fsck.check(store) == [], where
        number += 1
    seconds = time.perf_counter() - begin
    assert number > 3
    tell(f"{volume.path.name}, {scene}: {number} points, {seconds:.1f} s")


class Channel:
    """A channel before and after its keys were rotated, and a device that saw it before."""

    def __init__(self, world: World, volume: Volume) -> None:
        repository = TufRepository(world.fresh())
        repository.add_channel()
        repository.publish("releases")
        self.old = world.fresh()
        shutil.copytree(repository.folder, self.old)
        self.before = repository.signed("timestamp").version
        repository.rotate("snapshot")
        repository.publish("releases")
        self.new, self.root = repository.folder, repository.root
        self.version = repository.signed("timestamp").version
        self.volume, self.count = volume, 0
        self.seed = volume.path / "seed"
        make_store(world, self.seed, disk=Quick())
        self.refresh(self.seed, self.old)

    def copy(self) -> Path:
        self.count += 1
        path = self.volume.path / f"store-{self.count}"
        shutil.copytree(self.seed, path, symlinks=True)
        self.volume.sync()
        return path

    def refresh(self, path: Path, site: Path, disk: Disk | None = None) -> int:
        trust = Trust(path, self.root, str(site), disk=disk)
        version = trust.refresh().version
        trust.channel("stable")
        return version


def test_a_cut_before_every_operation_of_a_key_rotation(world, volume):
    channel, begin, number, cut = Channel(world, volume), time.perf_counter(), 0, True
    while cut:
        path = channel.copy()
        cut = cut_before(volume, number, lambda: channel.refresh(path, channel.new))  # noqa: B023
        floor = parse_floor((path / FLOOR).read_bytes()).timestamp
        assert floor in ({channel.before, channel.version} if cut else {channel.version})
        if floor == channel.version:
            with pytest.raises(UntrustedError):
                channel.refresh(path, channel.old)
        assert channel.refresh(path, channel.new) == channel.version
        number += 1
    tell(f"{volume.path.name}, key rotation: {number} points, {time.perf_counter() - begin:.1f} s")


def replayed(channel: Channel, disk: Disk) -> int:
    """See the new version, install something, lose power, and be served the old version."""
    path = channel.copy()

    def work() -> None:
        channel.refresh(path, channel.new, disk)
        Disk().replace(path / "installed.json", b"the release of the new version")
        channel.volume.cut()

    assert ended(in_a_child(work)) == 0
    channel.volume.restart()
    assert (path / "installed.json").exists()
    return channel.refresh(path, channel.old, disk)


def test_what_was_seen_is_remembered(world, volume):
    channel = Channel(world, volume)
    for _ in range(ROUNDS):
        with pytest.raises(UntrustedError):
            replayed(channel, Disk())


@pytest.mark.parametrize("volume", ["xfs"], indirect=True)
def test_without_the_wrapper_a_replay_is_believed(world, volume):
    """The control of the test above; ext4 syncs by itself what is renamed over another file."""
    channel = Channel(world, volume)
    with mock.patch.object(Floor, "check"):
        assert replayed(channel, Quick()) == channel.before


def test_without_syncs_an_update_is_lost(world, volume):
    """The control of the cuts: they do take what was not synced."""
    bench = Bench(world, volume)
    path = bench.copy()

    def work() -> None:
        assert update(Store(path, Quick()), bench.source, test=passes).outcome is Outcome.UPDATED
        volume.cut()

    assert ended(in_a_child(work)) == 0
    volume.restart()
    assert release_of(Store(path)) == 3
