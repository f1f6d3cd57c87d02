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
from pathlib import Path

from edgecl_deploy.errors import BusyError, DeployError, MismatchError, StoreError, one_line
from edgecl_deploy.files import (
    ReleaseFiles,
    read_bundle,
    read_file,
    read_objects,
    read_release,
    verify_file,
)
from edgecl_deploy.format import FileRef, Release, parse_release
from edgecl_deploy.manifest.limits import MAX_MANIFEST
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.documents import LONGEST_ROOT, write_both
from edgecl_deploy.store.generations import Generations
from edgecl_deploy.store.health import read_reports
from edgecl_deploy.store.layout import (
    BEGUN,
    CONFIG,
    CURRENT,
    DENIED,
    FOLDERS,
    GENERATIONS,
    HEALTH,
    LOCAL,
    LOCK,
    OBJECTS,
    PART,
    QUEUE,
    ROOT,
    STAGING,
    TEMP,
    is_store,
)
from edgecl_deploy.store.locking import LOOK, closed, lock_file, taken
from edgecl_deploy.store.log import Log
from edgecl_deploy.store.records import (
    FACTORY,
    LARGEST,
    Config,
    Denied,
    Generation,
    Limits,
    Phase,
    State,
    generation_name,
    parse_generation,
)

_RETRIES = 20  # of a reader whose generation is removed while it reads


class Store(Generations):
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
        if len(root) > LONGEST_ROOT:
            raise StoreError(
                f"root.json must have at most {LONGEST_ROOT} bytes", str(len(root)),
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
        for name in (HEALTH, LOCAL):
            with suppress(PermissionError):
                # The service runs as another user of the same group, and writes only here.
                os.chmod(store.path / name, 0o2770)  # noqa: S103
        with store.lock():
            store.hold_reserve()
            write_both(store.disk, store.path, ROOT, root)
            write_both(store.disk, store.path, DENIED, Denied().to_bytes())
            if factory is not None:
                files = read_release(factory)
                bundle.check(files)
                check_tested(files.release, config.limits)
                store._add_factory(files)
            write_both(store.disk, store.path, CONFIG, store.pinned_to(config, root).to_bytes())
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

    # -- reading ------------------------------------------------------------------------------

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

    def lacks_factor(self, generation: Generation) -> bool:
        """Return whether a release brings what enrolling needs, and this device wants it."""
        if not self.config.enrol:
            return False
        try:
            data = read_file(self.path / OBJECTS / generation.digest, MAX_MANIFEST)
            factor = parse_release(data).enrolment
        except DeployError:
            return False
        return factor is not None and not (
            factor.blob in generation.objects and self.has(factor.blob, factor.bytes)
        )

    def read(self, number: int) -> ReleaseFiles:
        """Read a generation into memory, verified; it cannot be collected meanwhile.

        A manifest that is damaged is derived from the objects, whose bytes are verified.

        Raises:
            DeployError: It was removed, or is damaged.
        """  # noqa: DOC501  one of its kinds
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
            data = file.read(LARGEST)
            try:
                name = parse_generation(data).digest
            except DeployError:
                derived = self._rebuilt(number, data)
                if derived is None:
                    raise
                name = derived.digest
            return read_objects(self.path / OBJECTS, name)

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
    def lock(self, patience: float = 0.0) -> Iterator[None]:
        """Lock the store for its one writer; the kernel unlocks it if the process dies.

        Args:
            patience: Seconds to wait for another writer, which sees that somebody waits: an
                update that has not switched yet stops for it.

        Raises:
            BusyError: Another process holds it.
        """
        with closed(lock_file(self.path / LOCK, 0o644)) as handle:
            if not taken(handle) and not (patience and self._queue(handle, patience)):
                raise BusyError(
                    "one process at a time may change the store", "another one doing it",
                    "Wait for it to end.",
                )  # fmt: skip
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _queue(self, handle: int, patience: float) -> bool:
        """Wait for the lock; return whether it is ours."""
        end = time.monotonic() + patience
        with closed(lock_file(self.path / QUEUE, 0o644)) as queue:
            fcntl.flock(queue, fcntl.LOCK_SH)  # `wanted` holds it for an instant only
            while time.monotonic() < end:
                time.sleep(LOOK)
                if taken(handle):
                    return True
                state = self.state
                if state is not None and state.phase.on_trial:
                    return False  # a trial is not stopped: it is watched, or undone by a veto
        return False

    def wanted(self) -> bool:
        """Return whether another process waits for the lock."""
        try:
            queue = os.open(self.path / QUEUE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return not taken(queue)
        finally:
            os.close(queue)

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

    def next_generation(self) -> int:
        """Return a number that no generation has had."""
        newest = (self.state or State()).newest
        return max([newest, *self.generations()], default=0) + 1

    def stage(
        self, release: int, name: str, objects: Mapping[str, int], *, anew: bool = False
    ) -> Generation:
        """Return a generation of a release whose objects are all there; an old one is used again.

        One that processes have reported on is not: what they said is about an earlier trial.

        Args:
            name: The digest of its release.json.
            objects: Everything that it needs, digest -> bytes.
            anew: Make a new one in any case, which the reports on an old one do not concern.
        """
        for old in () if anew else self.generations().values():
            same = old.digest == name and dict(old.objects) == dict(objects)
            if same and self.complete(old) and not read_reports(self.path, old.number):
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
            name = generation_name(number)
            self._urgently(lambda: self.disk.point(self.path / CURRENT, name))
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


def check_tested(release: Release, limits: Limits) -> None:
    """Check that a release can be tested on this device, as its settings demand.

    Raises:
        MismatchError: It has no canaries.
    """
    if release.canaries is None and not limits.untested:
        raise MismatchError(
            f"release {release.number} must have canaries, on which this device tests it",
            "none",
            "Make the release with them, or allow such releases with `edgecl-device config STORE "
            "untested=true`, for a new store with `init --untested`.",
        )


def new_device_id() -> str:
    """Return a random id for a device."""
    return uuid.uuid4().hex
