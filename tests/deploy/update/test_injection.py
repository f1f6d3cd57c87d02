"""Kills and errors at every file operation and in every phase: the old or the new, and a retry."""

import errno
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.support.faults import Faulty, Killed, ended, in_a_child
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    fast_folder,
    make_release,
    make_store,
    objects_of,
    passes,
    refuse,
)
from tests.deploy.support.store_checks import SERVES_DENIED, broken, misleads, release_of, tell

from edgecl_deploy.errors import DeployError
from edgecl_deploy.store import fsck
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import CURRENT, DENIED, OBJECTS, STATE
from edgecl_deploy.store.log import LOG
from edgecl_deploy.store.records import FACTORY, Generation, Limits, Phase, State
from edgecl_deploy.store.recover import recover
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import MOST_WRITES, update
from edgecl_deploy.update.operate import rollback
from edgecl_deploy.update.outcome import Outcome

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE)
STRICT = Limits(trial_seconds=0, untested=True)  # with reports against every release to come
ROUNDS = 200  # random kills


class Device:
    """A store at release 2 (factory: 1) which is offered release 3; copied for every try."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.folder = folder
        self.made = {n: make_release(world, n, tasks=1, canary=False) for n in range(1, 4)}
        self.source = MemorySource()
        store = make_store(world, folder / "seed", self.made[1], disk=Quick())
        self.offer(2)
        assert update(store, self.source, test=passes).outcome is Outcome.UPDATED
        with store.lock():  # garbage for `gc`
            old = store.generation(FACTORY)
            store.write_generation(Generation(2, 1, old.digest, old.objects, 0))
            (store.path / OBJECTS / ("0" * 64)).write_bytes(b"of no release")
        self.offer(3)

    def offer(self, number: int) -> None:
        self.source.publish(self.made[number])

    def copy(self, limits: Limits | None = None) -> Path:
        path = self.folder / "store"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "seed", path, symlinks=True)
        if limits is not None:
            store = Store(path, Quick())
            with store.lock():
                store.configure(type(store.config)(**{**vars(store.config), "limits": limits}))
            refuse(store)
        return path

    def update(self, path: Path, disk: Disk | None = None, **options: Any) -> Outcome:
        options = {"test": passes, **options}
        return update(Store(path, disk or Quick()), self.source, **options).outcome


@pytest.fixture
def device(world):
    with fast_folder() as folder:
        yield Device(world, folder)


def installs(device: Device, path: Path, disk: Disk) -> None:
    device.update(path, disk)


def fails_its_trial(device: Device, path: Path, disk: Disk) -> None:
    device.update(path, disk)


def goes_back(device: Device, path: Path, disk: Disk) -> None:
    rollback(Store(path, disk), "no good")


def collects(device: Device, path: Path, disk: Disk) -> None:
    store = Store(path, disk)
    with store.lock():
        collect(store)


SCENES = {
    "install": (installs, None, {2, 3}, 3),
    "trial fails": (fails_its_trial, STRICT, {2, 3}, 2),
    "operator's rollback": (goes_back, None, {1, 2}, 3),
    "gc": (collects, None, {2}, 3),
}


def points(device: Device, scene: str) -> int:
    run, limits, _, _ = SCENES[scene]
    disk = Faulty(-1, Killed)
    run(device, device.copy(limits), disk)
    return disk.count


def check(device: Device, path: Path, scene: str) -> None:
    """The store is whole, old or new; the retry ends well."""
    _, _, between, end = SCENES[scene]
    assert release_of(Store(path)) in between
    assert broken(path) in {None, SERVES_DENIED}  # until the next start
    for _ in range(3):
        outcome = device.update(path)
    assert outcome in {Outcome.UP_TO_DATE, Outcome.DENIED}
    assert release_of(Store(path)) == end
    assert fsck.check(Store(path)) == []
    assert misleads(Store(path)) is None


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_disk_that_fails(device, scene, lasting):
    run, limits, _, _ = SCENES[scene]
    count = points(device, scene)
    for at in range(count):
        for code in ERRORS:
            path = device.copy(limits)
            try:
                run(device, path, Faulty(at, lambda: OSError(code, os.strerror(code)), lasting))  # noqa: B023
            except OSError:
                assert run is not installs  # `update` returns an outcome, it does not raise
            check(device, path, scene)
    tell(f"{scene}: {count * len(ERRORS)} errors")


@pytest.mark.parametrize("scene", SCENES)
def test_a_process_that_ends_anywhere(device, scene):
    run, limits, _, _ = SCENES[scene]
    for at in range(points(device, scene)):
        path = device.copy(limits)
        with pytest.raises(Killed):
            run(device, path, Faulty(at, Killed, lasting=True))
        check(device, path, scene)


def suicide() -> BaseException:
    os.kill(os.getpid(), signal.SIGKILL)
    return Killed()


@pytest.mark.parametrize("scene", SCENES)
def test_sigkill_at_every_operation(device, scene):
    run, limits, _, _ = SCENES[scene]
    count = points(device, scene)
    for at in range(count):
        path, disk = device.copy(limits), Faulty(at, suicide)
        status = ended(in_a_child(lambda: run(device, path, disk)))  # noqa: B023
        assert status == -signal.SIGKILL
        check(device, path, scene)
    tell(f"{scene}: {count} kills")


def test_there_are_enough_points(device):
    assert sum(points(device, scene) for scene in SCENES) * (len(ERRORS) + 1) >= 200


@pytest.mark.parametrize("code", ERRORS)
def test_a_source_that_fails(device, code):
    before = device.source.operations
    device.update(device.copy())
    for after in range(device.source.operations - before):
        path = device.copy()
        device.source.fail(after, OSError(code, os.strerror(code)))
        device.update(path)
        check(device, path, "install")


class Reads:
    """Lets one opening of a file for reading fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.folder, self.code, self.left, self._open = str(folder), code, 0, os.open
        monkeypatch.setattr(os, "open", self.open)

    def open(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(self.folder):
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code), str(path))
        return self._open(path, flags, *args, **options)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("scene", SCENES)
def test_a_file_that_cannot_be_read_now_is_not_lost(device, scene, code, monkeypatch):
    run, limits, between, _ = SCENES[scene]
    reads, number, failed = Reads(device.folder, monkeypatch, code), 0, True
    while failed:
        number += 1
        path, reads.left = device.copy(limits), 0
        store = Store(path, Quick())
        with store.lock():
            store.deny("0" * 64, "long ago")
            store.raise_floor(1)
        reads.left = number
        with suppress(OSError):
            run(device, path, Quick())
        failed, reads.left = reads.left <= 0, 0
        assert "0" * 64 in store.denied.releases
        assert store.denied.min_release == 1
        assert release_of(store) in between
        assert broken(path) in {None, SERVES_DENIED}
    assert number > 3


@pytest.mark.parametrize("scene", SCENES)
def test_a_file_on_a_bad_sector(device, scene, monkeypatch):
    """It counts as lost; something whole serves, and the retry ends well."""
    run, limits, _, end = SCENES[scene]
    reads, number, failed = Reads(device.folder, monkeypatch, errno.EIO), 0, True
    while failed:
        number += 1
        path, reads.left = device.copy(limits), number
        with suppress(OSError, DeployError):
            run(device, path, Quick())
        failed, reads.left = reads.left <= 0, 0
        for _ in range(3):
            device.update(path)
        assert broken(path) is None
        assert release_of(Store(path)) in {1, end, 3}  # 3: the state was lost in the trial


@pytest.mark.parametrize("name", [STATE, DENIED])
def test_a_document_of_another_user_is_not_lost(device, name, monkeypatch):
    path = device.copy()
    store = Store(path, Quick())
    with store.lock():
        store.deny("0" * 64, "long ago")
    before = (path / STATE).read_bytes(), (path / DENIED).read_bytes()
    reads, failures = os.open, []

    def refuses(where: Any, *args: Any, **options: Any) -> int:
        if where == path / name:
            failures.append(where)
            raise PermissionError(errno.EACCES, "not yours", str(where))
        return reads(where, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        assert device.update(path) is Outcome.FAILED
    assert failures
    assert (path / DENIED).read_bytes() == before[1]
    assert release_of(store) == 2
    if name == STATE:
        assert (path / STATE).read_bytes() == before[0]


@pytest.mark.slow
def test_random_kills(world):
    """One store over 200 releases, each of which is killed once at a random moment."""
    rng = random.Random(3)  # noqa: S311  not a secret
    with fast_folder() as folder:
        source, path = MemorySource(), folder / "store"
        make_store(world, path, make_release(world, 1, tasks=1, canary=False))
        taken, seen = 0.05, set()
        for number in range(2, ROUNDS + 2):
            made = make_release(world, number, tasks=1, canary=False)
            source.publish(made)
            child = in_a_child(lambda: update(Store(path), source, test=passes))
            time.sleep(rng.uniform(0, 1.1 * taken))
            os.kill(child, signal.SIGKILL)
            assert ended(child) in {0, -signal.SIGKILL}
            state = Store(path).state
            seen.add(None if state is None else state.phase)
            assert release_of(Store(path)) in {number - 1, number}
            assert broken(path) is None
            begin = time.perf_counter()
            for _ in range(2):
                outcome = update(Store(path), source, test=passes).outcome
            assert outcome is Outcome.UP_TO_DATE
            assert release_of(Store(path)) == number
            assert set(objects_of(made)) <= set(os.listdir(path / OBJECTS))
            taken = 0.9 * taken + 0.1 * (time.perf_counter() - begin)
        assert len(Store(path).generations()) <= 4  # what was killed left no garbage for ever
    tell(f"{ROUNDS} kills, in {sorted(phase.value for phase in seen if phase)}")


# -- phase by phase, as Mender's own tests do ------------------------------------------------------


class Interrupted(Store):
    """A store at which something happens right after a phase was written."""

    def __init__(self, path: Path, phase: Phase, fault: BaseException) -> None:
        super().__init__(path, Quick())
        self.phase, self.fault = phase, fault

    def write_state(self, state: State) -> State:
        super().write_state(state)
        if state.phase is self.phase:
            raise self.fault
        return state


UP = [phase for phase in Phase if phase not in {Phase.IDLE, Phase.ROLLBACK}]
DOWN = [Phase.FETCH, Phase.ACTIVATE, Phase.TRIAL, Phase.ROLLBACK, Phase.COMMITTED]
CASES = [("install", phase) for phase in UP] + [("trial fails", phase) for phase in DOWN]


@pytest.mark.parametrize("fault", [Killed(), OSError(errno.EIO, "broken")], ids=["killed", "error"])
@pytest.mark.parametrize(("scene", "phase"), CASES)
def test_an_update_that_ends_in_any_phase_is_continued(device, scene, phase, fault):
    path = device.copy(SCENES[scene][1])
    store = Interrupted(path, phase, fault)
    rolls_back = phase is Phase.ROLLBACK  # the switch is made though the state cannot be written
    try:
        expected = Outcome.ROLLED_BACK if rolls_back else Outcome.FAILED
        assert update(store, device.source, test=passes).outcome is expected
    except Killed:
        assert isinstance(fault, Killed)
    assert store.state.phase in {phase, Phase.IDLE} or rolls_back
    check(device, path, scene)


@pytest.mark.parametrize("phase", UP)
@pytest.mark.parametrize(
    "text", [None, b"", b"{}", b"\x00" * 100], ids=["gone", "empty", "other", "zeros"]
)
def test_a_state_that_cannot_be_read(device, phase, text):
    path = device.copy()
    with pytest.raises(Killed):
        update(Interrupted(path, phase, Killed()), device.source, test=passes)
    (path / STATE).unlink()
    if text is not None:
        (path / STATE).write_bytes(text)
    before = release_of(Store(path))
    with (store := Store(path, Quick())).lock():
        assert recover(store).last_good == store.current()
    assert release_of(Store(path)) == before  # `current` is the truth
    check(device, path, "install")


class Stubborn(Quick):
    """A disk on which one file cannot be written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, path: Path, data: bytes) -> None:
        if path.name.endswith(self.name):
            raise OSError(errno.EROFS, "read-only")
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        if path.name == self.name:
            raise OSError(errno.EROFS, "read-only")
        super().append(path, data)


def test_a_state_that_cannot_be_written(device):
    path = device.copy()
    assert device.update(path, Stubborn(STATE)) is Outcome.FAILED
    assert release_of(Store(path)) == 2
    check(device, path, "install")


def test_a_log_that_cannot_be_written_changes_nothing(device):
    path = device.copy()
    before = (path / LOG).read_bytes()
    assert device.update(path, Stubborn(LOG)) is Outcome.UPDATED
    assert (path / LOG).read_bytes() == before


def test_a_denial_that_cannot_be_written_is_written_by_the_next_start(device):
    """What serves is the release before at once."""
    path = device.copy(STRICT)
    assert device.update(path, Stubborn(DENIED)) is Outcome.FAILED
    assert (Store(path).state.phase, release_of(Store(path))) == (Phase.ROLLBACK, 2)
    check(device, path, "trial fails")


def damage(store: Store, *generations: Generation) -> None:
    for name in {name for each in generations for name in each.objects}:
        path = store.path / OBJECTS / name
        path.chmod(0o644)
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def test_the_previous_generation_is_damaged(device):
    path = device.copy(STRICT)
    store = Store(path, Quick())
    damage(store, store.serving())
    assert device.update(path) is Outcome.ROLLED_BACK
    assert release_of(store) == 1


def test_all_but_the_factory_is_damaged(device):
    path = device.copy()
    store = Store(path, Quick())
    assert device.update(path) is Outcome.UPDATED
    damage(store, *(each for each in store.generations().values() if each.release > 1))
    with store.lock():
        fsck.repair(store)
    assert store.current() == FACTORY
    assert device.update(path) is Outcome.UPDATED  # what was damaged is fetched again
    assert release_of(store) == 3
    assert store.read_current()[1].release == device.made[3].release


def test_everything_is_damaged(device):
    path = device.copy()
    store = Store(path, Quick())
    damage(store, *store.generations().values())
    with store.lock():
        fsck.repair(store)
    assert store.current() == 1  # nothing better is known, and the next update may mend it
    assert device.update(path) is Outcome.UPDATED
    assert store.read_current()[1].release == device.made[3].release


@pytest.mark.parametrize("phase", [Phase.ACTIVATE, Phase.TRIAL])
def test_a_release_that_kills_its_device_is_given_up(device, phase):
    path = device.copy()
    for _ in range(Store(path).config.limits.attempts):
        with pytest.raises(Killed):
            update(Interrupted(path, phase, Killed()), device.source, test=passes)
    assert device.update(path) is Outcome.ROLLED_BACK
    assert release_of(Store(path)) == 2
    assert device.update(path) is Outcome.DENIED


def test_a_self_test_that_never_ends_is_given_up(device):
    path, starts = device.copy(), []

    def kills(store: Store, generation: Generation) -> None:
        starts.append(generation.number)
        raise Killed

    for _ in range(Store(path).config.limits.attempts):
        with pytest.raises(Killed):
            device.update(path, test=kills)
    assert device.update(path, test=kills) is Outcome.DENIED
    assert len(starts) == Store(path).config.limits.attempts
    assert release_of(Store(path)) == 2


class Counting(Store):
    """Counts how often the state is written."""

    writes = 0

    def write_state(self, state: State) -> State:
        self.writes += 1
        return super().write_state(state)


@pytest.mark.parametrize("scene", ["install", "trial fails"])
def test_a_release_needs_few_writes_of_the_state(device, scene):
    store = Counting(device.copy(SCENES[scene][1]), Quick())
    update(store, device.source, test=passes)
    assert store.writes <= 12
    assert store.state.writes <= MOST_WRITES == 28


@pytest.mark.parametrize("phase", [Phase.FETCH, Phase.VERIFY, Phase.STAGED])
def test_too_many_writes_of_the_state_end_an_update(device, phase):
    """A release that is killed again and again before its self-test is denied in the end."""
    path = device.copy()
    for _ in range(MOST_WRITES + 1):
        try:
            outcome = update(Interrupted(path, phase, Killed()), device.source, test=passes).outcome
        except Killed:
            assert Store(path).state.writes <= MOST_WRITES
        else:
            break
    assert outcome is Outcome.FAILED
    assert device.update(path) is Outcome.DENIED
    assert release_of(Store(path)) == 2
    assert os.readlink(path / CURRENT) == "generations/000001.json"
