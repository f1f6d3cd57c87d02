"""The local folder of a device: the classes that were enrolled on it, beside its releases.

Laws, as those of the store (ADR 0012):
- `current` is the only truth about what counts; it points to a whole generation.
- What is written is durable before something that relies on it is written.
- One writer at a time holds `lock`, which is not that of the store; readers take no lock.
- Nothing of an update writes here, and nothing here is in the way of an update.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgecl_deploy.enrol.records import (
    LARGEST,
    MAX_CLASSES,
    MAX_FOLDER,
    MAX_IMAGES,
    Entry,
    LocalGeneration,
    Record,
    local_name,
    local_number,
    parse_local,
    parse_record,
)
from edgecl_deploy.enrol.records import Held as HeldTensor
from edgecl_deploy.errors import (
    BusyError,
    DeployError,
    LimitError,
    NonFiniteError,
    StoreError,
    TensorShapeError,
    one_line,
)
from edgecl_deploy.files import read_file
from edgecl_deploy.format import digest, read_tensors, verify
from edgecl_deploy.manifest import names
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.layout import CURRENT, GENERATIONS, LOCK, OBJECTS
from edgecl_deploy.store.locking import LOOK, closed, lock_file, taken
from edgecl_deploy.store.log import Log
from edgecl_deploy.store.sealed import LARGEST as LARGEST_DOCUMENT

KEPT = 2  # generations that stay: the one that counts and the one before it
PATIENCE = 10.0  # seconds to wait for another writer
_RETRIES = 20  # of a reader whose generation is removed while it reads
_GROUP_FILE, _GROUP_FOLDER, _GROUP_FINAL = 0o660, 0o2770, 0o440


class LocalDisk(Disk):
    """Writes for the application's user and its group, and for nobody else to read."""

    def file_mode(self) -> int:
        return _GROUP_FILE

    def folder(self, path: Path) -> None:
        if not path.is_dir():
            os.mkdir(path)
            with suppress(PermissionError):  # RestrictSUIDSGID=yes: the parent and the umask decide
                os.chmod(path, _GROUP_FOLDER)  # the group is that of the store

    def publish(self, source: Path, target: Path) -> None:
        os.chmod(source, _GROUP_FINAL)
        self.sync(source)
        self.rename(source, target)


@dataclass(frozen=True, eq=False)
class Kept:
    """An enrolment that counts, with what it names.

    Attributes:
        record: Its manifest; None if it is damaged.
        feature: float32 [n, f], read-only; None if it is damaged.
        wrong: What is damaged.
    """

    entry: Entry
    record: Record | None = None
    feature: np.ndarray | None = None
    wrong: str = ""


@dataclass(frozen=True, eq=False)
class Content:
    """What a local folder holds.

    Attributes:
        number: Of the generation; 0 if there is none.
        wrong: Why it is not the one that `current` names; empty if it is.
    """

    number: int = 0
    kept: tuple[Kept, ...] = ()
    hidden: tuple[str, ...] = ()
    wrong: str = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of the generation."""
        return tuple(each.entry for each in self.kept)


class Local:
    """One local folder.

    Args:
        path: The folder; the first write makes it.
        disk: How it writes.
        now: The clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, disk: Disk | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.disk = disk or LocalDisk()
        self.now = now
        self.journal = Log(path, self.disk)
        self._locked = False

    # -- reading ------------------------------------------------------------------------------

    def current(self) -> int:
        """Return the generation that `current` points to; 0 if it points to none.

        Raises:
            OSError: The folder cannot be read.
        """
        try:
            text = os.readlink(self.path / CURRENT)
        except FileNotFoundError:
            return 0
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is no link
                raise
            return 0
        return local_number(text) or 0

    def read(self) -> Content:
        """Read what counts, verified.

        A generation that is damaged is replaced by the newest whole one before it, one that
        `current` does not name by the newest whole one, and an enrolment that is damaged does not
        count; all say so.

        Raises:
            StoreError: No generation is whole, although there is one; or it is no folder.
        """
        self._check_folders()
        for _ in range(_RETRIES):
            number = self.current()
            wrong = "`current` names no generation"
            if number:
                try:
                    return self._content(number)
                except DeployError as error:
                    wrong = f"generation {number} is damaged: {one_line(error)}"
            others = sorted(self._numbers() - {number}, reverse=True)
            if self.current() != number:
                continue  # it may have been removed meanwhile
            if not number and not others:
                return Content()
            for other in others:
                with suppress(DeployError):
                    return replace(
                        self._content(other), wrong=f"{wrong}; generation {other} counts"
                    )
            raise StoreError(
                f"{self.path} must hold a whole generation",
                wrong,
                "Remove the folder, then enrol its classes again.",
            )
        raise StoreError(
            f"`current` of {self.path} must not change while it is read",
            f"{_RETRIES} writes",
            "Try again.",
        )

    def _content(self, number: int) -> Content:
        """Read a generation and what it names; what no writer wrote is refused before its blobs.

        Raises:
            LimitError: It is over the limits of a device.
        """
        found = self._generation(number)
        records = [(entry, *self._known(entry)) for entry in found.entries]
        whole = [record for _, record, _ in records if record is not None]
        for what, most, total in (
            ("classes", MAX_CLASSES, len({entry.name for entry in found.entries})),
            ("images", MAX_IMAGES, sum(record.images for record in whole)),
            ("bytes", MAX_FOLDER, sum(each.blobs[each.feature.blob] for each in whole)),
        ):
            if total > most:
                raise LimitError(
                    f"the classes of a device must have at most {most} {what}",
                    str(total),
                    "Remove the folder, then enrol its classes again.",
                )
        return Content(number, tuple(self._kept(*each) for each in records), found.hidden)

    def _generation(self, number: int) -> LocalGeneration:
        return parse_local(read_file(self.path / local_name(number), LARGEST_DOCUMENT))

    def _numbers(self) -> set[int]:
        files = (self.path / GENERATIONS).glob("*.json")
        found = {local_number(f"{GENERATIONS}/{file.name}") for file in files}
        return {number for number in found if number is not None}

    def all_entries(self) -> list[Entry]:
        """Return the entries of every generation that is on the disk; one that is damaged has none.

        The newest come first.
        """
        found: list[Entry] = []
        for number in sorted(self._numbers(), reverse=True):
            with suppress(DeployError):
                found += self._generation(number).entries
        return found

    def entries_before(self, release: int) -> set[Entry]:
        """Return the entries of all generations that are of a release before a number.

        One whose manifest cannot be read is among them.
        """
        found = [(entry, self._known(entry)[0]) for entry in self.all_entries()]
        return {entry for entry, record in found if record is None or record.release < release}

    def _known(self, entry: Entry) -> tuple[Record | None, str]:
        """Return the manifest of an enrolment, or what is wrong with it."""
        try:
            return self._record(entry), ""
        except DeployError as error:
            return None, one_line(error)

    def _kept(self, entry: Entry, record: Record | None, wrong: str) -> Kept:
        if record is None:
            return Kept(entry, wrong=wrong)
        try:
            feature = self._tensor(record, record.feature, record.tensor)
        except DeployError as error:
            return Kept(entry, wrong=one_line(error))
        return Kept(entry, record, feature)

    def _record(self, entry: Entry) -> Record:
        return parse_record(self._object(entry.manifest, entry.size, LARGEST))

    def pixels(self, record: Record) -> np.ndarray:
        """Read the images that an enrolment kept: uint8 [n, s, s, 3]."""
        assert record.pixels is not None  # noqa: S101  the caller looked
        return self._tensor(record, record.pixels, "images")

    def _tensor(self, record: Record, held: HeldTensor, key: str) -> np.ndarray:
        array = read_tensors(self._object(held.blob, record.blobs[held.blob], MAX_FOLDER)).get(key)
        if array is None or array.shape != held.shape or array.dtype != np.dtype(held.dtype):
            raise TensorShapeError(
                f"{key} of an enrolment must be {held.dtype} {list(held.shape)}",
                "none" if array is None else f"{array.dtype} {list(array.shape)}",
                "Remove the class and enrol it again.",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NonFiniteError(
                "the features of an enrolment must be finite", "NaN or infinity",
                "Remove the class and enrol it again.",
            )  # fmt: skip
        return array

    def _object(self, name: str, size: int, largest: int) -> bytes:
        data = read_file(self.path / OBJECTS / name, min(size, largest))
        verify(data, name, size, f"{OBJECTS}/{name}")
        return data

    def damages(self) -> dict[str, str]:
        """Return what is wrong with the folder: what -> what was found."""
        try:
            content = self.read()
        except DeployError as error:
            return {CURRENT: str(error)}
        found = {CURRENT: content.wrong} if content.wrong else {}
        for each in content.kept:
            wrong = each.wrong or self._wrong_pixels(each)
            if wrong:
                found[each.entry.name] = wrong
        return found

    def _wrong_pixels(self, kept: Kept) -> str:
        if kept.record is None or kept.record.pixels is None:
            return ""
        try:
            self.pixels(kept.record)
        except DeployError as error:
            return one_line(error)
        return ""

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def lock(self, patience: float = PATIENCE) -> Iterator[None]:
        """Lock the folder for its one writer, and make it if it is not there.

        Args:
            patience: Seconds to wait for another writer.

        Raises:
            BusyError: Another one holds it for longer.
            StoreError: This user may not write there, or it is no folder.
        """
        self._check_folders()
        try:
            if not self.path.is_dir():
                self.disk.folder(self.path)
                self.disk.sync(self.path.parent)
            handle = lock_file(self.path / LOCK, _GROUP_FILE)
        except PermissionError as error:
            raise StoreError(
                f"this user must be allowed to write in {self.path}",
                one_line(error),
                f"Let an administrator run `install -d -m 2770 {self.path}` as the store's owner, "
                "or join the group of the store.",
            ) from error
        with closed(handle):
            with suppress(PermissionError):  # it belongs to another user of the group
                os.fchmod(handle, _GROUP_FILE)
            end = time.monotonic() + patience
            while not taken(handle):
                if time.monotonic() >= end:
                    raise BusyError(
                        "one at a time may change the classes of this device",
                        "another one doing it",
                        "Wait for it to end.",
                    )
                time.sleep(LOOK)
            self._check_folders()
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _check_folders(self) -> None:
        """Check that no link leads out of the folder: its user is not the one of the store.

        Raises:
            StoreError: One does, or might.
        """
        for path in (self.path, self.path / OBJECTS, self.path / GENERATIONS):
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR(path.lstat().st_mode):
                    raise StoreError(
                        f"{path} must be a folder",
                        "a link or a file",
                        "Move it away, or name the folder that the link points to.",
                    )

    def next_number(self) -> int:
        """Return the number of the next generation."""
        return max(self.current(), *self._numbers(), 0) + 1

    def write(
        self,
        entries: Sequence[Entry],
        hidden: Sequence[str],
        objects: Mapping[str, bytes],
        event: str,
        *,
        kept: int = KEPT,
        **details: object,
    ) -> int:
        """Let other enrolments count from now on, durably; needs the lock.

        Args:
            entries: Those that count.
            hidden: Classes of the release that are not answered.
            objects: What they need and is new, by digest.
            event: What happened, for the log.
            kept: How many generations stay; the others go with what only they need.
            details: For the log.

        Returns:
            The number of the new generation.

        Raises:
            LimitError: The folder would be too large.
        """
        assert self._locked, "lock() must be held"  # noqa: S101  an error of the caller
        held = sum(path.lstat().st_size for path in self._objects())
        if held + sum(map(len, objects.values())) > MAX_FOLDER:
            raise LimitError(
                f"the local folder must have at most {MAX_FOLDER} bytes",
                f"{held} and more to come",
                "Remove classes with `edgecl-device enrolled remove --purge`, or keep no images.",
            )
        for name in (OBJECTS, GENERATIONS):
            self.disk.folder(self.path / name)
        self.disk.sync(self.path)
        for folder in (self.path, self.path / OBJECTS, self.path / GENERATIONS):
            self.disk.sweep(folder)
        for name, data in objects.items():
            self.disk.put(self.path / OBJECTS / name, data)
        if objects:
            self.disk.sync(self.path / OBJECTS)
        number, time = self.next_number(), self.now()
        generation = LocalGeneration(number, int(time), tuple(entries), tuple(hidden))
        path = self.path / local_name(number)
        self.disk.put(path, generation.to_bytes())
        self.disk.sync(path.parent)
        self.disk.point(self.path / CURRENT, local_name(number))
        self.journal.write(event, time, generation=number, **details)
        self._collect(kept)
        return number

    def collect(self, kept: int = KEPT) -> None:
        """Remove old generations, and the objects that no other one names; needs the lock.

        Nothing is removed while the newest generation is not the one that counts.

        Args:
            kept: How many generations stay.
        """
        assert self._locked, "lock() must be held"  # noqa: S101  an error of the caller
        if self.next_number() == self.current() + 1:
            self.disk.sync(self.path)  # the last writer may have been killed before it did
            self._collect(kept)

    def _objects(self) -> list[Path]:
        folder = self.path / OBJECTS
        return list(folder.iterdir()) if folder.is_dir() else []

    def _collect(self, kept: int) -> None:
        """Remove old generations, then the objects that no other one names.

        Raises:
            StoreError: What a purge must remove cannot be told from what stays.
        """
        stay, unread, old = set[str](), set[str](), []
        for rank, number in enumerate(sorted(self._numbers(), reverse=True)):
            try:
                entries = self._generation(number).entries if rank < kept else None
            except DeployError:
                entries = None
            if entries is None:
                old.append(number)
                continue
            for entry in entries:
                stay.add(entry.manifest)
                try:
                    stay |= set(self._record(entry).blobs)
                except DeployError:
                    unread.add(entry.name)
        if unread and kept < KEPT:
            name = names.quoted(min(unread))
            raise StoreError(
                "a purge must know the features of every class that stays",
                f"{name}, which is damaged; the class is removed, its features are not",
                f"Run `edgecl-device enrolled remove --purge` for {name}, then for it again.",
            )
        for number in old:
            self.disk.remove(self.path / local_name(number))
        gone = [path for path in self._objects() if path.name not in stay]
        if unread or not gone:
            return
        self.disk.sync(self.path / GENERATIONS)
        for path in gone:
            self.disk.remove(path)


def objects_of(record: Record, blobs: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """Return the digest of a manifest, and all that its enrolment adds to a folder."""
    data = record.to_bytes()
    return digest(data), {**blobs, digest(data): data}
