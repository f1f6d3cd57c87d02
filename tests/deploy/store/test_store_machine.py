"""Whatever happens to a device, in any order: hypothesis looks for the order that breaks it."""

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.deploy.support.faults import Faulty, Killed
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    fast_folder,
    make_release,
    make_store,
)
from tests.deploy.support.store_checks import release_of
from tests.deploy.support.world import Made, World

from edgecl_deploy.errors import BusyError, DeployError, StoreError
from edgecl_deploy.format import Rollout
from edgecl_deploy.store import fsck
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.layout import OBJECTS
from edgecl_deploy.store.records import FACTORY, Generation, State
from edgecl_deploy.store.recover import fallback
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.operate import pin, rollback
from edgecl_deploy.update.outcome import Outcome, Result

MOST = 60  # releases that one run may publish
START = 1_800_000_000.0  # seconds since 1970
GOOD, BAD_TEST, BAD_TRIAL = "good", "bad test", "bad trial"
KINDS = st.sampled_from([GOOD, GOOD, BAD_TEST, BAD_TRIAL])
NOT_NOW = {Outcome.PINNED, Outcome.HALTED, Outcome.WAITING}


class Seed:
    """What all runs begin with: a store at release 1, and releases to come."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder = folder
        self.made: list[Made] = [
            make_release(world, number, tasks=1 + number % 2, canary=False)
            for number in range(1, MOST + 1)
        ]
        make_store(world, folder / "seed", self.made[0], disk=Quick())


class Device(RuleBasedStateMachine):
    """One device over its life."""

    def __init__(self, seed: Seed) -> None:
        super().__init__()
        self.seed = seed
        self.path = seed.folder / "store"
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(seed.folder / "seed", self.path, symlinks=True)
        self.clock = START
        self.source = MemorySource()
        self.number = 1  # of the newest release that was published
        self.kinds = {1: GOOD}
        self.tampered: set[str] = set()
        self.seen: dict[int, Generation] = {}
        self.floor = 0
        self.serving: Generation | None = self.store().serving()
        self.good: int | None = FACTORY  # what was committed last
        self.barred: set[str] = set()  # denied before the step, and not allowed in it
        self.offer()

    def store(self, disk: Disk | None = None) -> Store:
        """As after a start: nothing is remembered but what is on the disk."""
        return Store(self.path, disk or Quick(), lambda: self.clock)

    def offer(self, **fields: Any) -> None:
        self.source.publish(self.seed.made[self.number - 1], **fields)

    def test(self, store: Store, generation: Generation) -> str | None:
        """The self-test; a release that will fail its trial is reported to do so at once."""
        kind = self.kinds[generation.release]
        if kind == BAD_TRIAL:
            Reporter(self.path).write(Report(generation.number, error="it does not work"))
        return "it does not work" if kind == BAD_TEST else None

    def poll(self, disk: Disk | None = None, retry: bool = False) -> Result:
        self.barred = set(self.store().denied.releases)
        if retry:
            self.barred.discard(self.source.channels["stable"].release)
        result = update(self.store(disk), self.source, test=self.test, retry=retry)
        serving = self.store().serving()
        if result.outcome is Outcome.ROLLED_BACK and serving and serving.number != FACTORY:
            assert serving.release >= self.store().denied.min_release
        return result

    # -- what may happen --------------------------------------------------------------------------

    @precondition(lambda self: self.number < MOST - 1)
    @rule(
        kind=KINDS,
        below=st.sampled_from([None, None, 0, 1, 2]),
        how=st.sampled_from(["at once", "at once", "halted", "half", "slowly"]),
    )
    def publish(self, kind: str, below: int | None, how: str) -> None:
        self.number += 1
        self.kinds[self.number] = kind
        rollout = None
        if how in {"half", "slowly"}:
            percent = 50 if how == "half" else 100
            rollout = Rollout(f"roll-out {self.number}", int(self.clock), 3600, percent)
        least = 0 if below is None else self.number - below
        self.offer(min_release=least, halted=how == "halted", rollout=rollout)

    @rule()
    def poll_twice(self) -> None:
        """A release that is offered serves in the end, unless there is a reason."""
        self.poll()
        result = self.poll()
        if result.outcome is Outcome.UP_TO_DATE:
            assert result.release >= self.source.channels["stable"].number
        elif result.outcome is Outcome.DENIED:
            assert self.store().denied.releases
        elif result.outcome not in NOT_NOW:
            assert self.tampered or result.outcome in {
                Outcome.UPDATED,  # the first poll ended something that was cut
                Outcome.PRETEST_FAILED,
                Outcome.ROLLED_BACK,
            }

    @rule()
    def retry(self) -> None:
        self.poll(retry=True)

    @rule(at=st.integers(0, 110), kind=st.none() | KINDS)
    def cut(self, at: int, kind: str | None) -> None:
        """The power goes, at the next release for some kinds."""
        if kind is not None and self.number < MOST - 1:
            self.publish(kind, None, "at once")
        with suppress(Killed):
            self.poll(Faulty(at, Killed, lasting=True))

    @rule(at=st.integers(0, 110), lasting=st.booleans())
    def disk_full(self, at: int, lasting: bool) -> None:
        self.poll(Faulty(at, lambda: OSError(errno.ENOSPC, "full"), lasting))

    @rule(which=st.integers(0, 100), gone=st.booleans())
    def tamper(self, which: int, gone: bool) -> None:
        objects = sorted(each for each in (self.path / OBJECTS).iterdir() if each.is_file())
        if not objects:
            return
        path = objects[which % len(objects)]
        self.tampered.add(path.name)
        if gone:
            path.unlink()
        else:
            path.chmod(0o644)
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))

    @rule(seconds=st.sampled_from([-2e9, -86400.0, 60.0, 1800.0, 86400.0, 6e8]))
    def clock_jumps(self, seconds: float) -> None:
        self.clock = max(0.0, self.clock + seconds)

    @rule(deny=st.booleans(), at=st.none() | st.integers(0, 30))
    def go_back(self, deny: bool, at: int | None) -> None:
        self.barred = set(self.store().denied.releases)
        self._cut_at(at, lambda store: rollback(store, "by hand", deny=deny))

    @rule(at=st.none() | st.integers(0, 12))
    def gc(self, at: int | None) -> None:
        def work(store: Store) -> None:
            with store.lock():
                collect(store)

        before = self.serving
        self._cut_at(at, work)
        assert self.store().serving() == before

    @rule(back=st.sampled_from([None, None, None, 0, 1, 2]), at=st.none() | st.integers(0, 30))
    def pin(self, back: int | None, at: int | None) -> None:
        self.barred = set(self.store().denied.releases)
        number = None if back is None else max(1, self.number - back)
        self._cut_at(at, lambda store: pin(store, number))

    @rule()
    def repair(self) -> None:
        self.barred = set(self.store().denied.releases)
        store = self.store()
        with store.lock():
            fsck.repair(store)
        serving = store.serving()
        if serving is not None and not store.state.phase.on_trial:  # or nothing better is known
            assert self._whole(serving) or fallback(store, None) is None

    @rule()
    def read(self) -> None:
        store = self.store()
        try:
            number, files = store.read_current()
        except DeployError:
            assert self.serving is None or not self._whole(self.serving)
        else:
            assert (number, files.digest) == (self.serving.number, self.serving.digest)

    def _cut_at(self, at: int | None, work: Callable[[Store], object]) -> None:
        disk = Quick() if at is None else Faulty(at, Killed, lasting=True)
        with suppress(Killed, StoreError, BusyError):
            work(self.store(disk))

    # -- what must be true ------------------------------------------------------------------------

    def _whole(self, generation: Generation) -> bool:
        store = self.store()
        return all(store.intact(name, size) for name, size in generation.objects.items())

    @invariant()
    def all_is_well(self) -> None:
        store = self.store()
        before, self.serving = self.serving, store.serving()
        assert (store.current() is None) == (self.serving is None)
        assert self.serving is not None or self.good is None or self.tampered
        self.good = store.state.last_good
        self.tampered = {name for name in self.tampered if not self._intact(name)}
        state = store.state or State()
        needed = {FACTORY, store.current(), state.last_good, state.previous} - {None}
        assert needed <= store.generations().keys()
        for number in needed:
            for name, size in store.generation(number).objects.items():
                assert name in self.tampered or store.has(name, size)
        if before != self.serving and self.serving is not None:
            self._moved(before, self.serving)
        assert store.denied.min_release >= self.floor
        self.floor = store.denied.min_release
        for number, generation in store.generations().items():
            if number <= state.newest:
                assert self.seen.setdefault(number, generation) == generation

    def _intact(self, name: str) -> bool:
        path = self.path / OBJECTS / name
        return path.exists() and self.store().intact(name, path.stat().st_size)

    def _moved(self, before: Generation | None, now: Generation) -> None:
        if now.number == FACTORY:
            return
        assert now.digest not in self.barred
        if before is not None and now.release < before.release:
            assert now.release >= self.store().denied.min_release

    def teardown(self) -> None:
        """Nothing can end a device's updates: a good release comes through."""
        store = self.store()
        with store.lock():
            store.configure(type(store.config)(**{**vars(store.config), "pinned": None}))
        self.number += 1
        self.kinds[self.number] = GOOD
        self.offer()
        for _ in range(3):
            self.poll()
        assert release_of(self.store()) == self.number
        assert self._whole(self.store().serving())


def test_a_life_of_a_device(world):
    with fast_folder() as folder:
        seed = Seed(world, folder)
        run_state_machine_as_test(
            lambda: Device(seed),
            settings=settings(
                max_examples=200,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.reuse, Phase.generate),  # shrinking would take many minutes
            ),
        )
