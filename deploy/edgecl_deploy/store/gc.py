"""Garbage: generations that nobody will go back to, and objects that no generation names.

Laws: what serves, what was good before, the factory's and what is on trial always stay; so does
what a reader is reading. Generations go first and durably, objects after them.
"""

import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgecl_deploy.store.layout import GENERATIONS, HEALTH, OBJECTS
from edgecl_deploy.store.records import FACTORY, Phase, State, generation_number
from edgecl_deploy.store.store import Store

_STALE = 24 * 3600.0  # seconds after which nobody reads a report on the health of a release


@dataclass(frozen=True)
class Collected:
    """What went."""

    generations: int
    objects: int
    bytes: int


def kept(store: Store) -> set[int]:
    """Say which generations stay."""
    state = store.state or State()
    keep = {FACTORY, store.current(), state.last_good, state.previous}
    if state.phase not in {Phase.IDLE, Phase.COMMITTED}:
        keep.add(state.generation)
    pinned = store.config.pinned
    keep |= {n for n, each in store.generations().items() if each.release == pinned}
    return {number for number in keep if number is not None}


def collect(store: Store, wanted: Collection[str] = ()) -> Collected:
    """Remove what nobody needs, or nothing while what serves cannot be read; needs the lock.

    Args:
        wanted: Objects that stay although no generation names them yet.
    """
    found, serving = store.generations(), store.current()
    if serving is not None and serving not in found:
        return Collected(0, 0, 0)  # its objects are not known now
    keep, left, gone = kept(store), dict(found), 0
    for path in (store.path / GENERATIONS).iterdir():
        number = generation_number(f"{GENERATIONS}/{path.name}")
        if number is None or (number in keep and number in found):
            continue
        if _remove(store, path):  # or is read now; one that is damaged goes before its objects
            left.pop(number, None)
            gone += 1
    if gone:
        store.disk.sync(store.path / GENERATIONS)
    needed = {name for each in left.values() for name in each.objects} | set(wanted)
    count, freed = 0, 0
    for path in (store.path / OBJECTS).iterdir():
        if path.name not in needed:
            freed += path.lstat().st_size
            store.disk.remove(path)
            count += 1
    _sweep_reports(store)
    if gone or count:
        store.log.write("gc", store.now(), generations=gone, objects=count, bytes=freed)
    return Collected(gone, count, freed)


def _sweep_reports(store: Store) -> None:
    state = store.state
    if state is not None and state.phase.on_trial:
        return
    for path in (store.path / HEALTH).iterdir():
        with suppress(OSError):  # its writer took it away, or it is none: anything may lie there
            if path.lstat().st_mtime < store.now() - _STALE:
                store.disk.remove(path)


def _remove(store: Store, path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.disk.remove(path)
    except BlockingIOError:  # somebody is reading it; next time
        return False
    finally:
        os.close(handle)
    return True
