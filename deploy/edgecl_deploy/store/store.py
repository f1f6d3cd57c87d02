"""The store of a device: objects by digest, generations that never change, one `current`.

Laws:
- `current` is the only truth about what serves; it always points to a whole generation.
- What is written is durable before something that relies on it is written (docs/adr/0012).
- One writer at a time holds `lock`; readers resolve `current` once and take no lock.
- A generation is removed before its objects: an interruption leaves garbage, never a hole.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from edgecl_deploy.errors import BusyError, DeployError, StoreError, one_line
from edgecl_deploy.files import (
    ReleaseFiles,
    read_bundle,
    read_file,
    read_objects,
    read_release,
    verify_file,
)
from edgecl_deploy.format import FileRef
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.layout import (
    BEGUN,
    CONFIG,
    CURRENT,
    DENIED,
    FOLDERS,
    GENERATIONS,
    HEALTH,
    LOCK,
    OBJECTS,
    PART,
    ROOT,
    STAGING,
    STATE,
    TEMP,
)
from edgecl_deploy.store.log import Log
from edgecl_deploy.store.records import (
    FACTORY,
    LARGEST,
    Config,
    Denied,
    Generation,
    Phase,
    State,
    generation_name,
    generation_number,
    parse_config,
    parse_denied,
    parse_generation,
    parse_state,
)

_LONGEST_ROOT = 512_000  # bytes of root.json
_LONGEST_REASON = 300  # characters
T = TypeVar("T")
_RETRIES = 20  # of a reader whose generation is removed while it reads


class Store:
    """One store on disk. `Store.open` reads; writing needs `with store.lock():`.

    Args:
        disk: How it writes.
        now: The clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, disk: Disk | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.disk = disk or Disk()
        self.now = now
        self.log = Log(path, self.disk)
        self._locked = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
    ) -> "Store":
        """Open a store.

        Args:
            disk: How it writes.
            now: The clock: seconds since 1970.

        Raises:
            StoreError: The folder is no store.
        """
        store = cls(Path(path), disk, now)
        if not is_store(path):
            raise StoreError(
                f"{path} must be a store", "no config.json in it", "Run `edgecl-device init` first."
            )
        return store

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: Config,
        root: bytes,
        factory: str | os.PathLike[str] | None = None,
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
    ) -> "Store":
        """Make a store. After an interruption, call this again.

        Args:
            path: A folder that is not there, is empty, or was begun by this function.
            config: The operator's settings. The bundle is read and checked.
            root: The bytes of the root.json that this device trusts.
            factory: A release directory; this release serves from the start and is always kept.
            disk: How it writes.
            now: The clock: seconds since 1970.

        Raises:
            StoreError: The folder holds something else, or is a store already.
        """
        store = cls(Path(path), disk, now)
        held = set(os.listdir(path)) if store.path.exists() else set()
        if not held <= BEGUN:
            raise StoreError(
                f"{path} must be a new or an empty folder",
                "a store" if is_store(path) else "other files",
                "Name another folder, or remove this one first.",
            )
        bundle = read_bundle(config.bundle)
        if len(root) > _LONGEST_ROOT:
            raise StoreError(
                f"root.json must have at most {_LONGEST_ROOT} bytes", str(len(root)),
                "Take the root.json that `edgecl channel init` wrote.",
            )  # fmt: skip
        for parent in reversed(store.path.parents):
            if not parent.exists():
                store.disk.folder(parent)
                store.disk.sync(parent.parent)
        store.disk.folder(store.path)
        store.disk.sync(store.path.parent)
        for name in (*FOLDERS, f"{STAGING}/{PART}", f"{STAGING}/{TEMP}"):
            store.disk.folder(store.path / name)
        store.disk.sync(store.path / STAGING)  # the store's own folder is synced with root.json
        with suppress(PermissionError):
            # The service runs as another user of the same group, and writes only here.
            os.chmod(store.path / HEALTH, 0o2770)  # noqa: S103
        with store.lock():
            store.disk.replace(store.path / ROOT, root)
            if factory is not None:
                files = read_release(factory)
                bundle.check(files)
                store._add_factory(files)
            store.disk.replace(store.path / CONFIG, config.to_bytes())
            store.log.write("init", now(), device=config.device, url=config.url)
        return store

    def _add_factory(self, files: ReleaseFiles) -> None:
        held = {files.digest: files.release.to_bytes(), **files.manifests, **files.blobs}
        for name, data in held.items():
            if not self.has(name, len(data)):
                temporary = self.path / STAGING / name
                self.disk.remove(temporary)
                self.disk.write(temporary, data)
                self.add(temporary, name)
        sizes = {name: len(data) for name, data in held.items()}
        generation = Generation(FACTORY, files.release.number, files.digest, sizes, int(self.now()))
        self.write_generation(generation)
        self.switch(FACTORY)
        self.write_state(State(Phase.COMMITTED, FACTORY, files.release.number, files.digest,
                               last_good=FACTORY))  # fmt: skip

    # -- documents ----------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The operator's settings."""
        return parse_config(read_file(self.path / CONFIG, LARGEST))

    def configure(self, config: Config) -> None:
        """Replace the operator's settings; needs the lock."""
        self._check_locked()
        self.disk.replace(self.path / CONFIG, config.to_bytes())

    @property
    def root(self) -> bytes:
        """The root.json that this device trusts from its first day."""
        return read_file(self.path / ROOT, _LONGEST_ROOT)

    @property
    def state(self) -> State | None:
        """The state of the update; None if it is lost."""
        return self._document(STATE, parse_state)

    def _document(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        """Read a document; None if it is missing or damaged.

        One that cannot be read now, or not by this user, is an OSError: it is not lost.
        """
        try:
            return parse(read_file(self.path / name, LARGEST))
        except DeployError as error:
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            return None

    def write_state(self, state: State) -> State:
        """Write the state of the update durably, and return it; needs the lock."""
        self._check_locked()
        self.disk.replace(self.path / STATE, state.to_bytes())
        return state

    @property
    def denied(self) -> Denied:
        """The releases that must not be installed."""
        return self._document(DENIED, parse_denied) or Denied()

    def deny(self, release: str, reason: str) -> None:
        """Never install a release again, durably; needs the lock.

        Args:
            release: The digest of its release.json.
            reason: Why, for people.
        """
        self._check_locked()
        denied = self.denied
        text = ascii(reason)[1:-1][:_LONGEST_REASON] or "no reason given"
        self._write_denied(replace(denied, releases={**denied.releases, release: text}))

    def allow(self, release: str) -> None:
        """Remove a release from the denied ones, as an operator may; needs the lock."""
        denied = self.denied
        left = {name: reason for name, reason in denied.releases.items() if name != release}
        self._write_denied(replace(denied, releases=left))

    def raise_floor(self, min_release: int) -> None:
        """Raise the lowest release number that a rollback may go to, durably; needs the lock."""
        denied = self.denied
        if min_release > denied.min_release:
            self._write_denied(replace(denied, min_release=min_release))

    def _write_denied(self, denied: Denied) -> None:
        self._check_locked()
        self.disk.replace(self.path / DENIED, denied.to_bytes())

    # -- reading ------------------------------------------------------------------------------

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

    def serving(self) -> Generation | None:
        """Return the generation that `current` points to; None if it is missing or damaged."""
        number = self.current()
        try:
            return None if number is None else self.generation(number)
        except DeployError:
            return None

    def has(self, name: str, size: int) -> bool:
        """Return whether the object of a digest is there in its size; its bytes are not read."""
        try:
            return (self.path / OBJECTS / name).stat().st_size == size
        except OSError:
            return False

    def intact(self, name: str, size: int) -> bool:
        """Return whether the object of a digest is there with the right bytes; they are hashed."""
        try:
            verify_file(self.path / OBJECTS, FileRef(name, name, size))
        except DeployError:
            return False
        return True

    def complete(self, generation: Generation) -> bool:
        """Return whether all objects of a generation are there in their sizes."""
        return all(self.has(name, size) for name, size in generation.objects.items())

    def read(self, number: int) -> ReleaseFiles:
        """Read a generation into memory, verified; it cannot be collected meanwhile.

        Raises:
            StoreError: It was removed.
        """
        path = self.path / generation_name(number)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"generation {number} must be there", one_line(error), "Read `current` again."
            ) from error
        with os.fdopen(handle, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink == 0:  # collected between open and lock
                raise StoreError(
                    f"generation {number} must be there", "removed", "Read `current` again."
                )
            return read_objects(self.path / OBJECTS, parse_generation(file.read(LARGEST)).digest)

    def read_current(self) -> tuple[int, ReleaseFiles]:
        """Resolve `current` once and read what it names.

        Returns:
            The generation's number and the release.

        Raises:
            StoreError: There is no release yet.
            DeployError: It is damaged.
        """
        for _ in range(_RETRIES):
            number = self.current()
            if number is None:
                raise StoreError(
                    f"{self.path} must hold a release", "none", "Run `edgecl-device update` first."
                )
            try:
                return number, self.read(number)
            except DeployError:
                if self.current() == number:  # not a switch: it is damaged
                    raise
        raise StoreError(
            "`current` must not change while it is read", f"{_RETRIES} switches", "See `history`."
        )

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the store for its one writer; the kernel unlocks it if the process dies.

        Raises:
            BusyError: Another process holds it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self.path / LOCK, flags, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "one process at a time may change the store", "another one doing it",
                    "Wait for it to end.",
                ) from None  # fmt: skip
            self._locked = True
            yield
        finally:
            self._locked = False
            os.close(handle)

    def _check_locked(self) -> None:
        assert self._locked, "store.lock() must be held"  # noqa: S101  an error of the caller

    def add(self, staged: Path, name: str) -> None:
        """Store a verified file as an object; durable once a generation is written.

        Args:
            staged: The file, under `staging`.
        """
        self._check_locked()
        self.disk.publish(staged, self.path / OBJECTS / name)

    def drop(self, name: str) -> None:
        """Remove the damaged object of a digest."""
        self._check_locked()
        self.disk.remove(self.path / OBJECTS / name)

    def write_generation(self, generation: Generation) -> None:
        """Write a generation whose objects are all there, durably."""
        self._check_locked()
        self.disk.sync(self.path / OBJECTS)
        path = self.path / generation.name
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        self.disk.remove(temporary)
        self.disk.write(temporary, generation.to_bytes())
        self.disk.publish(temporary, path)
        self.disk.sync(path.parent)

    def next_generation(self) -> int:
        """Return a number that no generation has had."""
        newest = (self.state or State()).newest
        return max([newest, *self.generations()], default=0) + 1

    def stage(
        self, release: int, name: str, objects: Mapping[str, int], *, anew: bool = False
    ) -> Generation:
        """Return a generation of a release whose objects are all there; an old one is used again.

        Args:
            name: The digest of its release.json.
            objects: Everything that it needs, digest -> bytes.
            anew: Make a new one in any case, which the reports on an old one do not concern.
        """
        for old in () if anew else self.generations().values():
            if old.digest == name and dict(old.objects) == dict(objects) and self.complete(old):
                return old
        new = Generation(self.next_generation(), release, name, objects, int(self.now()))
        self.write_generation(new)
        return new

    def switch(self, number: int | None) -> None:
        """Point `current` to a generation, in one step and durably.

        Args:
            number: The generation; None leaves the device without a release.
        """
        self._check_locked()
        if number is not None:
            self.disk.point(self.path / CURRENT, generation_name(number))
            return
        self.disk.remove(self.path / CURRENT)
        self.disk.sync(self.path)

    def sweep(self) -> None:
        """Remove the temporary files of an interrupted writer. Partial downloads stay."""
        self._check_locked()
        for name in ("", OBJECTS, GENERATIONS):
            self.disk.sweep(self.path / name)
        for path in (self.path / STAGING).iterdir():
            if path.is_file():
                self.disk.remove(path)
        for path in (self.path / STAGING / TEMP).iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else self.disk.remove(path)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a store."""
    return (Path(path) / CONFIG).is_file()


def new_device_id() -> str:
    """Return a random id for a device."""
    return uuid.uuid4().hex
