"""The generations of a store: their manifests, and what `current` points to.

Law: a manifest says what release.json says; one that says something else is damaged, and is written
anew from release.json, whose bytes have their digest.
"""

import os
from contextlib import suppress

from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import read_file
from edgecl_deploy.store.documents import Documents
from edgecl_deploy.store.layout import CURRENT, GENERATIONS, OBJECTS
from edgecl_deploy.store.rebuild import derive, rebuild
from edgecl_deploy.store.records import (
    LARGEST,
    Generation,
    Phase,
    generation_name,
    generation_number,
    parse_generation,
)


class Generations(Documents):
    """The generations of one store; `Store` adds the objects."""

    def current(self) -> int | None:
        """Return the generation that `current` points to; None if there is none."""
        try:
            text = os.readlink(self.path / CURRENT)
        except OSError:
            return None
        return generation_number(text)

    def generations(self) -> dict[int, Generation]:
        """Return all generations that are readable, by number."""
        found = {}
        for path in sorted((self.path / GENERATIONS).glob("*.json")):
            number = generation_number(f"{GENERATIONS}/{path.name}")
            with suppress(DeployError):
                if number is not None:  # else it is not whole yet
                    found[number] = self.generation(number)
        return found

    def generation(self, number: int) -> Generation:
        """Read a generation."""
        return parse_generation(read_file(self.path / generation_name(number), LARGEST))

    def _rebuilt(self, number: int, damaged: bytes) -> Generation | None:
        """Derive the manifest of a generation from what is left of it."""
        state = self.state
        known = None
        if state is not None and state.generation == number and state.phase is not Phase.ROLLBACK:
            known = state.digest
        return rebuild(self.path / OBJECTS, number, damaged, known)

    def derived(self, number: int) -> Generation | None:
        """Return what the manifest of a generation must be, from the objects of its release.

        Returns:
            None if that is not known, or an object of it is missing or damaged.
        """
        try:
            data = read_file(self.path / generation_name(number), LARGEST)
        except DeployError:
            return self._rebuilt(number, b"")
        try:
            held = parse_generation(data)
            return derive(self.path / OBJECTS, number, held.digest, held.created, held.objects)
        except DeployError:
            return self._rebuilt(number, data)

    def known(self) -> dict[int, Generation]:
        """Return all generations as their releases have them, by number.

        So one whose manifest is damaged is there if it is known which release it was. One whose
        objects are damaged is as its manifest has it.
        """
        derived = {number: self.derived(number) for number in self._numbers()}
        told = {number: each for number, each in derived.items() if each is not None}
        return self.generations() | told

    def mend_generations(self) -> list[str]:
        """Write every manifest of a generation anew that is not what its release says.

        Returns:
            The files that were damaged.
        """
        self._check_locked()
        mended, held = [], self.generations()
        for number, each in self.known().items():
            if each != held.get(number):
                self.write_generation(each)
                mended.append(each.name)
        if mended:
            self.log.write("generations mended", self.now(), generations=mended)
        return mended

    def _numbers(self) -> list[int]:
        """Return the numbers of all generations that have a file, and the one of `current`."""
        names = [path.name for path in (self.path / GENERATIONS).glob("*.json")]
        found = {generation_number(f"{GENERATIONS}/{name}") for name in names} | {self.current()}
        return sorted(number for number in found if number is not None)

    def write_generation(self, generation: Generation) -> None:
        """Write a generation whose objects are all there, durably."""
        self._check_locked()
        self.disk.sync(self.path / OBJECTS)
        path = self.path / generation.name
        self.disk.put(path, generation.to_bytes())
        self.disk.sync(path.parent)
