"""Checks every byte of a store against its name: a flash cell may lose its content after years.

Law: nothing is removed that is as it should be, and nothing that could still be needed: an object
whose bytes match its name stays, whatever a manifest says; `current` stays if no other whole
release is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edgecl_deploy.errors import DeployError
from edgecl_deploy.store.layout import CURRENT, GENERATIONS, OBJECTS
from edgecl_deploy.store.records import Generation, Phase, State, generation_number
from edgecl_deploy.store.recover import recover
from edgecl_deploy.store.store import Store


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong."""

    what: str  # a path inside the store, or `bundle`
    found: str


def check(store: Store) -> list[Damage]:
    """Read every document and generation, and hash every object that one of them names.

    Returns:
        The damages; empty if there are none.
    """
    found = [Damage(name, text) for name, text in store.damaged_documents().items()]
    releases: dict[int, Generation | None] = {}
    for path in sorted((store.path / GENERATIONS).glob("*.json")):
        number = generation_number(f"{GENERATIONS}/{path.name}")
        if number is None:
            continue  # it is not whole yet
        try:
            held = store.generation(number)
        except DeployError as error:
            found.append(Damage(f"{GENERATIONS}/{path.name}", str(error)))
            continue
        derived = releases[number] = store.derived(number)
        if held.number != number or (derived is not None and derived != held):
            found.append(Damage(f"{GENERATIONS}/{path.name}", "not what its release.json says"))
    found += [
        Damage(f"{OBJECTS}/{name}", "other bytes" if there else "missing")
        for name, there in sorted(_damaged_objects(store, releases).items())
    ]
    found += _about_current(store)
    return found


def _about_current(store: Store) -> list[Damage]:
    number, state = store.current(), store.state or State()
    if number is None or number not in store.generations():
        return [Damage(CURRENT, "no release" if number is None else "no such generation")]
    resting = state.phase in {Phase.IDLE, Phase.COMMITTED}
    if resting and state.last_good is not None and state.last_good != number:
        return [Damage(CURRENT, f"generation {number}; state.json has {state.last_good}")]
    return []


def _damaged_objects(
    store: Store, releases: Mapping[int, Generation | None] | None = None
) -> dict[str, bool]:
    """Return the objects that are needed and are not as they should be, and whether they exist.

    Args:
        store: The store.
        releases: What its generations must be, where that was derived before.
    """
    needed: set[str] = set()
    releases = releases or {}
    for number, held in store.generations().items():
        derived = releases[number] if number in releases else store.derived(number)
        needed |= (derived or held).objects.keys()
    damaged = {}
    for name in needed:
        path = store.path / OBJECTS / name
        there = path.is_file() and not path.is_symlink()
        if not there or not store.intact(name, path.stat().st_size):
            damaged[name] = there
    return damaged


def check_bundle(store: Store) -> list[Damage]:
    """Hash every file of the bundle.

    Returns:
        The damages; empty if there are none.
    """
    try:
        store.bundle().verify_files()
    except DeployError as error:
        return [Damage("bundle", str(error))]
    return []


def repair(store: Store) -> list[Damage]:
    """Mend what can be derived, remove what is damaged, let a whole release serve; needs the lock.

    The next update fetches what was removed again, if a release needs it.

    Returns:
        The damages that were found.
    """
    found = check(store)
    damaged = _damaged_objects(store)
    for name in damaged:
        store.disk.remove(store.path / OBJECTS / name)
    store.mend_documents()
    store.mend_generations()
    recover(store)
    for path in sorted((store.path / GENERATIONS).glob("*.json")):
        number = generation_number(f"{GENERATIONS}/{path.name}")
        if number is not None and number != store.current() and number not in store.generations():
            store.disk.remove(path)
    if found:
        store.disk.sync(store.path / GENERATIONS)
        store.disk.sync(store.path / OBJECTS)
        store.log.write("fsck", store.now(), damaged=[each.what for each in found])
    return found
