"""A power cut at every step, in every way that POSIX allows; and no sync that is not needed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.deploy.support.crash_model import Cut, History, Recorder, Step, Tree, materialise
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    fast_folder,
    make_release,
    make_store,
    objects_of,
    passes,
    refuse,
    release_digest,
)
from tests.deploy.support.store_checks import SERVES_DENIED, broken, release_of, tell
from tests.deploy.support.tuf_repository import TufRepository
from tests.deploy.support.world import World

from edgecl_deploy.errors import DeployError, UntrustedError
from edgecl_deploy.store import fsck
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import GENERATIONS, OBJECTS, RESERVE, SPARE, STATE, TUF, is_store
from edgecl_deploy.store.log import LOG, OLDER
from edgecl_deploy.store.records import FACTORY, Denied
from edgecl_deploy.store.recover import recover
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.floor import FLOOR, parse_floor
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.operate import pin, rollback
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust


class Anything:
    """Equal to everything: any value of a key that nothing is promised of."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Recording(Recorder):
    """A recorder that also notes what `append` and `replace` promise."""

    def replace(self, path: Path, data: bytes) -> None:
        with self.promising(("file", f"{path.parent.name}/{path.name}"), data):
            super().replace(path, data)

    def append(self, path: Path, data: bytes) -> None:
        with self.promising(("line", data), True):
            super().append(path, data)


class Promising(Store):
    """A store that notes what `switch` promises."""

    disk: Recording

    def switch(self, number: int | None) -> None:
        with self.disk.promising("current", number):
            super().switch(number)


def opened(path: Path, disk: Any) -> Store:
    return (Promising if isinstance(disk, Recorder) else Store)(path, disk)


def facts(path: Path) -> dict[Any, Any]:
    """The state of a store after a cut, by the keys of the promises."""
    store = Store(path)
    found = {
        "store": is_store(path),
        "current": store.current(),
        "rotten": rotten(store) if is_store(path) else None,
        "tuf": {
            str(each.relative_to(path)): each.read_bytes()
            for each in (path / TUF).rglob("*")
            if each.is_file() and not each.is_symlink()
        },
    }
    for each in [*path.glob("*.json"), *path.glob(f"{SPARE}/*.json"), path / RESERVE]:
        if each.exists():
            found[("file", f"{each.parent.name}/{each.name}")] = each.read_bytes()
    for name in (OLDER, LOG):
        if (path / name).exists():
            found |= {("line", line): True for line in (path / name).read_bytes().splitlines(True)}
    return found


def rotten(store: Store) -> set[str]:
    """The objects and generations whose bytes are not right."""
    found = {damage.what for damage in fsck.check(store)}
    kinds = (OBJECTS, GENERATIONS)
    return {what for what in found if what.startswith(kinds) and (store.path / what).is_file()}


def floor(path: Path) -> int | None:
    try:
        return parse_floor((path / FLOOR).read_bytes()).timestamp
    except (OSError, DeployError):
        return None


@dataclass
class Scenario:
    """Something that a store does, and what a later try must come to."""

    prepare: Callable[[Path, Any], object]  # what is on the disk already
    run: Callable[[Path, Any], object]
    finish: Callable[[Path], object]  # the retry: asserts that all is well in the end
    damaged: bool = False  # from the start, so that not all is whole
    place: str = "store"


class Checker:
    """Judges the cuts of one scenario; the same tree is judged once."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.known: dict[Any, tuple[dict[Any, Any], str | None]] = {}

    def trouble(self, cut: Cut) -> str | None:
        found, trouble = self._look(cut.tree)
        if trouble is not None:
            return trouble
        for key, allowed in cut.allowed.items():
            if found.get(key) not in allowed:
                return f"{key} is {found.get(key)!r}"
        return None

    def _look(self, tree: Tree) -> tuple[dict[Any, Any], str | None]:
        key = tuple(sorted(tree.items()))
        if key not in self.known:
            place = self.folder / "cut"
            place.mkdir()
            materialise(tree, place)
            self.known[key] = self._judge(place / self.scenario.place)
            shutil.rmtree(place)
        return self.known[key]

    def _judge(self, path: Path) -> tuple[dict[Any, Any], str | None]:
        found: dict[Any, Any] = {}
        try:
            found = facts(path)
            trouble = broken(path) if found["store"] and not self.scenario.damaged else None
            if trouble in {None, SERVES_DENIED}:
                trouble = None
                self.scenario.finish(path)
        except Exception as error:  # whatever it is, the retry failed
            trouble = f"the retry: {error!r}"
        return found, trouble


def record(scenario: Scenario, folder: Path) -> History:
    """Run a scenario and write down what it does."""
    base = folder / "run"
    base.mkdir()
    before = Recording(base)
    path = base / scenario.place
    scenario.prepare(path, before)
    before.look()
    disk = Recording(base)
    known = facts(path) if is_store(path) else {"store": False}
    scenario.run(path, disk)
    disk.look()
    return History(before.steps, disk.steps, known)


class Makers:
    """What the scenarios are made of: releases 1 to 5 of a world, and a channel."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made = {n: make_release(world, n, tasks=1, canary=False) for n in range(1, 6)}
        self.factory = self.made[1].write(world.fresh())
        self.source = MemorySource()
        for made in self.made.values():
            self.source.objects |= objects_of(made)

    def offer(self, number: int, **fields: Any) -> MemorySource:
        self.source.publish(self.made[number], **fields)
        return self.source

    def start(
        self, path: Path, disk: Any, *later: int, factory: int | None = 1, **config: Any
    ) -> Store:
        """Make a store, and let it take some releases."""
        base = None if factory is None else self.factory
        kind = Promising if isinstance(disk, Recorder) else Store
        store = make_store(self.world, path, base, disk=disk, kind=kind, **config)
        for number in later:
            assert update(store, self.offer(number), test=passes).outcome is Outcome.UPDATED
        return store

    def started(self, *later: int, **config: Any) -> Callable[..., Store]:
        return lambda path, disk: self.start(path, disk, *later, **config)

    def strict(self, *later: int, **config: Any) -> Callable[..., None]:
        """As `started`; from then on every trial fails."""

        def prepare(path: Path, disk: Any) -> None:
            refuse(self.start(path, disk, *later, **config))

        return prepare

    def install(self, number: int, **fields: Any) -> Callable[..., Any]:
        return lambda path, disk: update(
            opened(path, disk), self.offer(number, **fields), test=passes
        )

    def reaches(self, number: int, **fields: Any) -> Callable[[Path], None]:
        """The retry ends with this release, committed."""

        def finish(path: Path) -> None:
            store = Store(path, Quick())
            if not is_store(path):
                self.start(path, Quick())
            update(store, self.offer(number, **fields), test=passes)
            assert store.serving().release == number
            assert store.state.last_good == store.current()
            assert fsck.check(store) == []
            assert store.denied.min_release == fields.get("min_release", 0)

        return finish

    def falls_back(self, to: int | None, bad: int) -> Callable[[Path], None]:
        """The retry ends with the release before, and the bad one denied."""

        def finish(path: Path) -> None:
            store = Store(path, Quick())
            refuse(store)
            for _ in range(2):
                outcome = update(store, self.offer(bad), test=passes).outcome
            assert outcome is Outcome.DENIED
            self.stands(store, to, bad)

        return finish

    def stands(self, store: Store, on: int | None, bad: int) -> None:
        assert release_of(store) == on
        assert list(store.denied.releases) == [release_digest(self.made[bad])]
        assert [each for each in fsck.check(store) if each.found != "no release"] == []


def create(makers: Makers, factory: int | None, place: str = "store") -> Scenario:
    """Nothing of a store counts before all of it is there."""

    def run(path: Path, disk: Any) -> None:
        with disk.promising("store", True):
            makers.start(path, disk, factory=factory)

    return Scenario(lambda path, disk: None, run, makers.reaches(2), place=place)


def by_hand(makers: Makers) -> Scenario:
    """An operator goes back to the release before."""

    def finish(path: Path) -> None:
        store = Store(path, Quick())
        if store.serving().release == 3 or store.state.phase.on_trial:
            rollback(store, "again")
        assert update(store, makers.offer(3), test=passes).outcome is Outcome.DENIED
        makers.stands(store, 2, bad=3)

    return Scenario(
        makers.started(2, 3), lambda path, disk: rollback(opened(path, disk), "no good"), finish
    )


def pinned(makers: Makers) -> Scenario:
    """An operator pins the release before."""

    def finish(path: Path) -> None:
        store = Store(path, Quick())
        pin(store, 2)
        assert update(store, makers.offer(4), test=passes).outcome is Outcome.PINNED
        assert store.serving().release == 2
        assert store.denied == Denied()

    return Scenario(makers.started(2, 3), lambda path, disk: pin(opened(path, disk), 2), finish)


def garbage(makers: Makers) -> Scenario:
    """Two generations and their objects go."""

    def prepare(path: Path, disk: Any) -> None:
        with mock.patch("edgecl_deploy.update.machine.collect"):
            makers.start(path, disk, 2, 3, 4)

    def run(path: Path, disk: Any) -> None:
        store = opened(path, disk)
        with store.lock():
            assert collect(store).generations == 1

    return Scenario(prepare, run, makers.reaches(5))


def repaired(makers: Makers) -> Scenario:
    """What serves lost an object, another generation its manifest."""
    blob = next(iter(makers.made[4].blobs))

    def prepare(path: Path, disk: Any) -> None:
        makers.start(path, disk, 2, 3, 4)
        (path / OBJECTS / blob).chmod(0o644)
        (path / OBJECTS / blob).write_bytes(b"moth")
        (path / GENERATIONS / "000002.json").write_bytes(b"moth")

    def run(path: Path, disk: Any) -> None:
        store = opened(path, disk)
        disk.steps.append(Step("may", "", ("rotten", Anything())))
        with disk.promising("rotten", set()), store.lock():
            fsck.repair(store)

    def finish(path: Path) -> None:
        store = Store(path, Quick())
        with store.lock():
            fsck.repair(store)
        assert store.current() == FACTORY
        makers.reaches(4)(path)

    return Scenario(prepare, run, finish, damaged=True)


def lost_state(makers: Makers) -> Scenario:
    """The state is not readable; what serves is kept."""

    def prepare(path: Path, disk: Any) -> None:
        makers.start(path, disk, 2, 3)
        (path / STATE).write_bytes(b"")

    def run(path: Path, disk: Any) -> None:
        store = opened(path, disk)
        with store.lock():
            recover(store)

    return Scenario(prepare, run, makers.reaches(4), damaged=True)


def rotated(makers: Makers) -> Scenario:
    """The log grows over its limit."""

    def run(path: Path, disk: Any) -> None:
        store = opened(path, disk)
        with store.lock(), mock.patch("edgecl_deploy.store.log.LARGEST", 100):
            store.log.write("one", 1.0)
            store.log.write("two", 2.0)

    def prepare(path: Path, disk: Any) -> None:
        makers.start(path, disk)
        (path / LOG).write_bytes((path / LOG).read_bytes() + b'{"event": "earlier"}\n' * 3)

    return Scenario(prepare, run, makers.reaches(2))


def trusting(makers: Makers, seen: bool) -> Scenario:
    """A refresh, with a new root and new timestamp keys if the channel was seen before."""
    repository = TufRepository(makers.world.fresh())
    repository.add_channel()
    repository.publish("releases")
    old = makers.world.fresh()
    shutil.copytree(repository.folder, old)
    if seen:
        repository.rotate("snapshot")
    repository.publish("releases")
    newest = repository.signed("timestamp").version

    def trust(path: Path, disk: Any, site: Path) -> Trust:
        return Trust(path, repository.root, str(site), disk=disk)

    def prepare(path: Path, disk: Any) -> None:
        makers.start(path, disk)
        if seen:
            trust(path, disk, old).refresh()

    def run(path: Path, disk: Any) -> None:
        disk.steps.append(Step("may", "", ("tuf", Anything())))
        each = trust(path, disk, repository.folder)
        each.refresh()
        disk.steps.append(Step("must", "", ("tuf", facts(path)["tuf"])))
        disk.steps.append(Step("may", "", ("tuf", Anything())))
        each.channel("stable")
        disk.look()
        disk.steps.append(Step("must", "", ("tuf", facts(path)["tuf"])))

    def finish(path: Path) -> None:
        if floor(path) == newest:
            with pytest.raises(UntrustedError):
                trust(path, Quick(), old).refresh()
        assert trust(path, Quick(), repository.folder).refresh().version == newest
        assert floor(path) == newest

    return Scenario(prepare, run, finish)


def purged(makers: Makers) -> Scenario:
    """The releases before the one that is installed are erased."""
    fields = {"min_release": 4, "purge": True}

    def finish(path: Path) -> None:
        makers.reaches(4, **fields)(path)
        store = Store(path, Quick())
        assert {each.release for each in store.generations().values()} == {1, 4}
        wanted = objects_of(makers.made[1]) | objects_of(makers.made[4])
        assert {each.name for each in (path / OBJECTS).iterdir()} == wanted.keys()
        assert store.state.previous is None

    return Scenario(makers.started(2), makers.install(4, **fields), finish)


SCENARIOS: dict[str, Callable[[Makers], Scenario]] = {
    "create": lambda m: create(m, factory=1),
    "create without a release": lambda m: create(m, factory=None),
    "create below new folders": lambda m: create(m, factory=None, place="a/b/store"),
    "install": lambda m: Scenario(m.started(2), m.install(3), m.reaches(3)),
    "install the first": lambda m: Scenario(m.started(factory=None), m.install(2), m.reaches(2)),
    "raise the floor": lambda m: Scenario(
        m.started(2), m.install(2, min_release=2), m.reaches(3, min_release=2)
    ),
    "trial fails": lambda m: Scenario(m.strict(2), m.install(3), m.falls_back(2, bad=3)),
    "first trial fails": lambda m: Scenario(
        m.strict(factory=None), m.install(2), m.falls_back(None, bad=2)
    ),
    "operator's rollback": by_hand,
    "pin": pinned,
    "purge": purged,
    "gc": garbage,
    "fsck": repaired,
    "state lost": lost_state,
    "log": rotated,
    "first refresh": lambda m: trusting(m, seen=False),
    "key rotation": lambda m: trusting(m, seen=True),
}


SLOW = {"purge"}  # some hundred states


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in SCENARIOS],
)
def test_every_cut_is_survived_and_every_sync_is_needed(world, name):
    with fast_folder() as folder:
        scenario = SCENARIOS[name](Makers(world))
        history = record(scenario, folder)
        checker = Checker(scenario, folder)
        for cut in history.cuts():
            trouble = checker.trouble(cut)
            assert trouble is None, f"a cut after {history.steps[cut.step]}: {trouble}"
        states, syncs = len(checker.known), history.syncs()
        for number in syncs:
            caught = any(checker.trouble(cut) for cut in history.cuts(without=number))
            assert caught, f"nothing needs {history.steps[number]}"
    tell(f"{name}: {states} states, {len(syncs)} of {len(syncs)} syncs needed")
