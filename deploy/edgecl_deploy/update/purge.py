"""Erases the releases that a channel has forgotten, once a later one is committed.

Laws: nothing is erased before a release at or above the floor has passed its trial; what is to be
erased is on disk before the update begins, so a cut at any step only delays it; a generation whose
file is damaged is mended first, if it can be; the factory's release stays, for a device without any
is none, and is named. Classes of this device whose names a release has forgotten go too, where they
were enrolled on an older release.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.files import read_file
from edgecl_deploy.format import Hidden, parse_release
from edgecl_deploy.manifest.limits import MAX_MANIFEST
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import LOCAL, OBJECTS, PART, STAGING, has_local
from edgecl_deploy.store.records import FACTORY, Generation, Phase, State
from edgecl_deploy.store.store import Store


@dataclass(frozen=True)
class Forgetting:
    """What of the releases below the floor is still on a device.

    Attributes:
        below: Releases before this number are erased.
        pending: Generations of them that are still there.
        factory: The number of the factory's release, if it is one of them; it cannot be erased.
        digests: Of the names that the release that serves has forgotten.
        generation: The generation that serves.
        objects: How many objects were erased so far.
    """

    below: int
    pending: tuple[int, ...]
    factory: int | None
    digests: tuple[str, ...]
    generation: int | None
    objects: int

    def to_json(self) -> dict[str, Any]:
        """Return the document that `status --json` prints."""
        return asdict(self)


def forgetting(store: Store) -> Forgetting | None:
    """Return what is to be erased on a device, and what is left of it; None if nothing ever was."""
    below, serving = store.denied.purge_below, store.serving()
    if not below:
        return None
    found, names = store.generations(), None if serving is None else forgotten_of(store, serving)
    factory = found.get(FACTORY)
    return Forgetting(
        below=below,
        pending=tuple(sorted(each.number for each in _old(found, below))),
        factory=factory.release if factory is not None and factory.release < below else None,
        digests=() if names is None else names.digests,
        generation=None if serving is None else serving.number,
        objects=_erased(store),
    )


def _old(found: Mapping[int, Generation], below: int) -> list[Generation]:
    return [each for number, each in found.items() if each.release < below and number != FACTORY]


def _has_garbage(store: Store, generations: Iterable[Generation]) -> bool:
    """Return whether a cut left objects of generations that are gone; nothing is being fetched."""
    named = {name for each in generations for name in each.objects}
    return any(path.name not in named for path in (store.path / OBJECTS).iterdir())


def _erased(store: Store) -> int:
    count = 0
    for event in store.log.read():
        if event["event"] == "purge":
            with suppress(KeyError, TypeError, ValueError):  # a line that we did not write
                count += int(event["objects"])
    return count


def forgotten_of(store: Store, generation: Generation) -> Hidden | None:
    """Return what the release of a generation has forgotten."""
    try:
        data = read_file(store.path / OBJECTS / generation.digest, MAX_MANIFEST)
        return parse_release(data).forgotten
    except DeployError:
        return None


def purge(store: Store) -> bool:
    """Erase what the channel wants erased, if a release at or above its floor is committed.

    It needs the lock. What is being read right now stays until the next update.

    Returns:
        Whether a release of the factory is left that should be erased.
    """
    below, serving, state = store.denied.purge_below, store.serving(), store.state or State()
    settled = state.phase in {Phase.IDLE, Phase.COMMITTED}
    if not below or serving is None or serving.release < below or not settled:
        return False
    store.mend_generations()  # else the objects of one that can be mended would be garbage
    found = store.generations()
    old = {each.number for each in _old(found, below)}
    if state.previous is not None and state.previous not in found.keys() - old:
        store.write_state(state.in_phase(state.phase, previous=None))
    if old or (state.phase is Phase.COMMITTED and _has_garbage(store, found.values())):
        for path in sorted((store.path / STAGING / PART).iterdir()):
            store.disk.remove(path)
        gone = collect(store)
        store.log.write(
            "purge",
            store.now(),
            below=below,
            generations=gone.generations,
            objects=gone.objects,
            bytes=gone.bytes,
        )
    if has_local(store.path / LOCAL):
        _purge_local(store, serving, below)
    _purge_watch(store, below)
    factory = found.get(FACTORY)
    return factory is not None and factory.release < below


def _purge_local(store: Store, serving: Generation, below: int) -> None:
    """Erase the classes of this device that the release has forgotten; what fails is in the log."""
    names = forgotten_of(store, serving)
    if names is None:
        return
    from edgecl_deploy.enrol.deciding import forget
    from edgecl_deploy.enrol.local import Local

    local = Local(store.path / LOCAL, now=store.now)
    try:
        published = {name for pack in store.read(serving.number).packs for name in pack.classes}
        forget(local, below, lambda name: names.hides(name) and name not in published)
    except (DeployError, OSError) as error:  # of the application's user, perhaps
        if _is_new(store, "purge of local classes failed", error):
            store.log.write("purge of local classes failed", store.now(), reason=one_line(error))


def _purge_watch(store: Store, below: int) -> None:
    """Erase what the watch of drift kept of answers: names of classes, and pictures.

    It is of a release below the floor, of local classes that are erased, or of nobody knows what.
    """
    from edgecl_deploy.drift.keeping import acknowledge, read_drift

    folder = store.path / LOCAL
    try:
        state = read_drift(folder)
        mark = None if state is None else state.mark
        if mark is None or mark.release < below or _is_erased(folder, mark.local):
            acknowledge(folder)
    except (DeployError, OSError) as error:  # of the application's user, perhaps
        if _is_new(store, "purge of drift failed", error):
            store.log.write("purge of drift failed", store.now(), reason=one_line(error))


def _is_erased(folder: Path, number: int) -> bool:
    """Return whether a generation of this device's classes is gone; 0 stands for none."""
    from edgecl_deploy.enrol.records import local_name

    return number != 0 and not (folder / local_name(number)).exists()


def _is_new(store: Store, event: str, error: Exception) -> bool:
    """Return whether a failure is another one than that in the log, which is told once."""
    last = store.log.last(event)
    return last is None or last.get("reason") != one_line(error)
