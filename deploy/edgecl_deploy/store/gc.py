"""Removes generations that nobody will go back to, and objects that no generation names.

Laws: the generation that serves, the good ones before it, the factory's and the one on trial always
stay; so does one that is being read. Good ones that a channel wants erased go once a later release
is committed. Generations go first and durably, objects after them. A manifest of a generation that
is damaged and not mended yet (a full disk) counts as what its release says.
"""

import fcntl
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgecl_deploy.store.layout import GENERATIONS, HEALTH, OBJECTS
from edgecl_deploy.store.records import (
    FACTORY,
    Generation,
    Phase,
    State,
    generation_number,
)
from edgecl_deploy.store.store import Store

_STALE = 24 * 3600.0  # seconds after which a report on a release is not read any more


@dataclass(frozen=True)
class Collected:
    """What was removed."""

    generations: int
    objects: int
    bytes: int


def needed(store: Store, found: Mapping[int, Generation]) -> set[int]:
    """Return the numbers of the generations that stay, of those that are known."""
    state, current = store.state or State(), store.current()
    numbers = {state.last_good, state.previous}
    settled = state.phase in {Phase.IDLE, Phase.COMMITTED}
    serving = None if current is None else found.get(current)
    pinned = store.config.pinned
    numbers |= {number for number, each in found.items() if each.release == pinned}
    below = store.denied.purge_below
    if settled and serving is not None and serving.release >= below:
        numbers -= {number for number, each in found.items() if each.release < below}
    numbers |= {FACTORY, current, None if settled else state.generation}
    return {number for number in numbers if number is not None}


def collect(store: Store, wanted: Collection[str] = ()) -> Collected:
    """Remove what is not needed, or nothing while what serves cannot be read; needs the lock.

    Args:
        wanted: Objects that stay although no generation names them yet.
    """
    found, serving = store.known(), store.current()
    if serving is not None and serving not in found:
        return Collected(0, 0, 0)  # the objects that it needs are not known
    stay, left, gone = needed(store, found), dict(found), 0
    for path in (store.path / GENERATIONS).iterdir():
        number = generation_number(f"{GENERATIONS}/{path.name}")
        if number is None or (number in stay and number in found):
            continue
        if _remove(store, path):  # unless it is being read; an unknown one goes before its objects
            left.pop(number, None)
            gone += 1
    if gone:
        store.disk.sync(store.path / GENERATIONS)
    named = {name for each in left.values() for name in each.objects} | set(wanted)
    count, freed = 0, 0
    for path in (store.path / OBJECTS).iterdir():
        if path.name not in named:
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
        with suppress(OSError):  # its writer removed it, or it is no file: anybody may write there
            if path.lstat().st_mtime < store.now() - _STALE:
                store.disk.remove(path)


def _remove(store: Store, path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.disk.remove(path)
    except BlockingIOError:  # it is being read: the next collection removes it
        return False
    finally:
        os.close(handle)
    return True
