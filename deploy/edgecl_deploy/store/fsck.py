"""Checks every byte of a store against its name: a flash cell may lose its content after years."""

from dataclasses import dataclass

from edgecl_deploy.errors import DeployError
from edgecl_deploy.store.layout import GENERATIONS, OBJECTS
from edgecl_deploy.store.records import generation_number
from edgecl_deploy.store.recover import recover
from edgecl_deploy.store.store import Store


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong."""

    what: str  # a path inside the store
    found: str


def check(store: Store) -> list[Damage]:
    """Read every generation and hash every object that one of them names.

    Returns:
        The damages; empty if there are none.
    """
    found = []
    for path in sorted((store.path / GENERATIONS).glob("*.json")):
        number = generation_number(f"{GENERATIONS}/{path.name}")
        try:
            if number is not None:  # else it is not whole yet
                store.generation(number)
        except DeployError as error:
            found.append(Damage(f"{GENERATIONS}/{path.name}", str(error)))
    needed = {
        name: size for each in store.generations().values() for name, size in each.objects.items()
    }
    for name, size in sorted(needed.items()):
        if not store.intact(name, size):
            there = (store.path / OBJECTS / name).exists()
            found.append(Damage(f"{OBJECTS}/{name}", "other bytes" if there else "missing"))
    number = store.current()
    if number is None or number not in store.generations():
        found.append(Damage("current", "no release" if number is None else "no such generation"))
    return found


def repair(store: Store) -> list[Damage]:
    """Remove what is damaged, and let a whole release serve; needs the lock.

    The next update fetches what was removed again, if a release needs it.

    Returns:
        The damages that were found.
    """
    found = check(store)
    for damage in found:
        if damage.what != "current":
            store.disk.remove(store.path / damage.what)
    if found:
        store.disk.sync(store.path / GENERATIONS)
        store.disk.sync(store.path / OBJECTS)
        store.log.write("fsck", store.now(), damaged=[each.what for each in found])
    recover(store)
    return found
