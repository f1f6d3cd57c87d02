"""The small documents of a store: read from the first copy that is as it was written.

Laws:
- A document that nothing else can tell (`TWICE`) has a second copy in `spare/`, written after the
  first one; who changes a store makes the two equal first.
- A document that is lost never allows more than before: a lost list of denied releases is read from
  the log, a lost floor is the one in `spare/`.
- What an undo writes has room: on a full disk it takes that of the file `reserve`.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from edgecl_deploy.errors import DeployError, DigestError
from edgecl_deploy.files import BundleFiles, read_bundle, read_file
from edgecl_deploy.format import digest
from edgecl_deploy.store.disk import Disk, is_full
from edgecl_deploy.store.layout import (
    CONFIG,
    DENIED,
    FLOOR,
    FLOOR_FORMAT,
    RESERVE,
    ROOT,
    SPARE,
    STATE,
)
from edgecl_deploy.store.log import Log
from edgecl_deploy.store.records import (
    STORE_FORMAT,
    Config,
    Denied,
    Phase,
    State,
    parse_config,
    parse_denied,
    parse_state,
)
from edgecl_deploy.store.sealed import LARGEST, is_old, unseal

LONGEST_ROOT = 512_000  # bytes of root.json
RESERVED = 64 * 1024  # bytes of `reserve`: several documents, in blocks of 4096 bytes
TWICE = (CONFIG, ROOT, DENIED, FLOOR)
_LONGEST_REASON = 300  # characters
_BEGINNING = {Phase.FETCH, Phase.VERIFY, Phase.PRETEST}  # what a full disk need not begin
T = TypeVar("T")


def first_whole(folder: Path, name: str, parse: Callable[[bytes], T]) -> T:
    """Read a document of a store: its first copy, or the second one if that is damaged.

    One that cannot be read now, or not by this user, is an OSError: it is not lost.

    Raises:
        DeployError: Both are missing or damaged; the error is that of the first.
    """  # noqa: DOC502  it is kept, and raised at the end
    first = None
    for path in (folder / name, folder / SPARE / name):
        try:
            return parse(read_file(path, LONGEST_ROOT if name == ROOT else LARGEST))
        except DeployError as error:
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            first = first or error
    assert first is not None  # noqa: S101  both failed
    raise first


def write_both(disk: Disk, folder: Path, name: str, data: bytes) -> None:
    """Write a document of a store and its second copy, durably."""
    if not (folder / SPARE).is_dir():  # a store of an older version has none
        disk.folder(folder / SPARE)
        disk.sync(folder)
    disk.replace(folder / name, data)
    disk.replace(folder / SPARE / name, data)


class Documents:
    """The documents of one store; `Store` adds the objects and the generations."""

    path: Path
    disk: Disk
    log: Log
    now: Callable[[], float]
    _locked: bool

    def _check_locked(self) -> None:
        assert self._locked, "store.lock() must be held"  # noqa: S101  an error of the caller

    # -- settings -----------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The operator's settings."""
        return first_whole(self.path, CONFIG, parse_config)

    def configure(self, config: Config) -> None:
        """Replace the operator's settings; needs the lock."""
        self._check_locked()
        self._urgently(lambda: write_both(self.disk, self.path, CONFIG, config.to_bytes()))

    @property
    def root(self) -> bytes:
        """The root.json that this device trusts from its first day."""
        return first_whole(self.path, ROOT, self._parse_root)

    def _parse_root(self, data: bytes) -> bytes:
        """Return a root.json if it is the one that this device was set up with.

        Raises:
            DigestError: It is another one.
        """
        wanted = self.config.root_digest
        if wanted is not None and digest(data) != wanted:
            raise DigestError(
                f"{ROOT} must be the one that this device was set up with",
                "other bytes, here and in the spare copy",
                "Take root.json from the firmware again: it is the same for all devices.",
            )
        return data

    def bundle(self) -> BundleFiles:
        """Open the bundle, which must be the one that the settings name by its digest.

        Raises:
            DigestError: It is another one.
        """
        config = self.config
        bundle = read_bundle(config.bundle)
        if config.bundle_digest is not None and bundle.digest != config.bundle_digest:
            raise DigestError(
                f"the bundle in {config.bundle} must be the one that this device was set up with, "
                f"whose bundle.json has the SHA-256 {config.bundle_digest[:16]}...",
                f"{bundle.digest[:16]}...",
                "If the firmware replaced it, run `edgecl-device config STORE bundle=PATH`, which "
                "takes the new one; else install the bundle again.",
            )
        return bundle

    # -- the state ----------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """The state of the update; None if it is lost."""
        try:
            return parse_state(read_file(self.path / STATE, LARGEST))
        except DeployError as error:
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            return None

    def write_state(self, state: State) -> State:
        """Write the state of the update durably, and return it; needs the lock."""
        self._check_locked()

        def write() -> None:
            self.disk.replace(self.path / STATE, state.to_bytes())

        write() if state.phase in _BEGINNING else self._urgently(write)
        return state

    # -- what must not be installed -----------------------------------------------------------

    @property
    def denied(self) -> Denied:
        """The releases that must not be installed.

        If both copies are damaged it is what the log holds; a store without any has denied none.
        """
        try:
            return first_whole(self.path, DENIED, parse_denied)
        except DeployError:
            there = [(folder / DENIED).exists() for folder in (self.path, self.path / SPARE)]
            new = self.config.root_digest is not None  # then there was a list from the first day
            return self._denied_in_log() if any(there) or new else Denied()

    def _denied_in_log(self) -> Denied:
        denied = Denied()
        for event in self.log.read():
            with suppress(KeyError, TypeError, ValueError):
                name = str(event.get("digest"))
                if event["event"] == "denied":
                    denied = denied.having(name, str(event["reason"]) or "no reason given")
                elif event["event"] == "allowed":
                    left = {key: why for key, why in denied.releases.items() if key != name}
                    denied = replace(denied, releases=left)
                elif event["event"] == "floor":
                    least = max(denied.min_release, int(event["min_release"]))
                    below = max(denied.purge_below, int(event.get("purge_below") or 0))
                    denied = replace(denied, min_release=least, purge_below=below)
        return denied

    def deny(self, release: str, reason: str, number: int | None = None) -> None:
        """Never install a release again, durably; needs the lock.

        Args:
            release: The digest of its release.json.
            reason: Why, for people.
            number: That of the release, for the log.
        """
        text = ascii(reason)[1:-1][:_LONGEST_REASON] or "no reason given"
        self._write_denied(self.denied.having(release, text))
        self.log.write("denied", self.now(), release=number, digest=release, reason=text)

    def allow(self, release: str) -> None:
        """Remove a release from the denied ones, as an operator may; needs the lock."""
        denied = self.denied
        left = {name: reason for name, reason in denied.releases.items() if name != release}
        self._write_denied(replace(denied, releases=left))
        self.log.write("allowed", self.now(), digest=release)

    def raise_floor(self, min_release: int, *, purge: bool = False) -> None:
        """Raise the lowest release number that a rollback may go to, durably; needs the lock.

        Args:
            min_release: The number.
            purge: Whether releases before it are erased, see `edgecl_deploy.update.purge`.
        """
        denied = self.denied
        least = max(min_release, denied.min_release)
        below = max(min_release, denied.purge_below) if purge else denied.purge_below
        if (least, below) != (denied.min_release, denied.purge_below):
            self._write_denied(replace(denied, min_release=least, purge_below=below))
            self.log.write("floor", self.now(), min_release=least, purge_below=below)

    def _write_denied(self, denied: Denied) -> None:
        self._check_locked()
        self._urgently(lambda: write_both(self.disk, self.path, DENIED, denied.to_bytes()))

    # -- room for an undo ---------------------------------------------------------------------

    def hold_reserve(self) -> None:
        """Make the file that an undo takes its room from; an OSError if there is no room for it."""
        path = self.path / RESERVE
        if not path.exists() or path.stat().st_size != RESERVED:
            self.disk.replace(path, os.urandom(RESERVED))  # no file system can make it smaller

    def _urgently(self, work: Callable[[], T]) -> T:
        """Do something that writes; on a full disk once more, in the room of the reserve.

        Raises:
            OSError: The disk fails, or that room is not enough.
        """
        try:
            return work()
        except OSError as error:
            if not is_full(error) or not (self.path / RESERVE).exists():
                raise
            self.disk.remove(self.path / RESERVE)
            return work()

    # -- damage -------------------------------------------------------------------------------

    def damaged_documents(self) -> dict[str, str]:
        """Return what is wrong with the documents: name -> what was found.

        A second copy that is older is no damage: a writer was interrupted between the two.
        """
        found = {}
        for name in TWICE:
            for path in (self.path / name, self.path / SPARE / name):
                trouble = self._trouble(path, name)
                if trouble is not None:
                    found[str(path.relative_to(self.path))] = trouble
        if (self.path / STATE).exists() and self.state is None:
            found[STATE] = "other bytes"
        return found

    def _trouble(self, path: Path, name: str) -> str | None:
        if not path.exists() and not path.is_symlink():
            other = self.path / SPARE / name if path.parent == self.path else self.path / name
            return "missing" if other.exists() and path.parent == self.path else None
        try:
            self._parse(name, read_file(path, LONGEST_ROOT if name == ROOT else LARGEST))
        except DeployError as error:
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            return str(error)
        return None

    def _parse(self, name: str, data: bytes) -> object:
        if name == CONFIG:
            return parse_config(data)
        if name == DENIED:
            return parse_denied(data)
        return self._parse_root(data) if name == ROOT else unseal(data, FLOOR, FLOOR_FORMAT)

    def mend_documents(self) -> list[str]:
        """Make the two copies of every document equal, from the one that is whole; needs the lock.

        The first copy counts if both are whole. A list of denied releases of which no copy is whole
        is written again from the log.

        Returns:
            The documents that were damaged.
        """
        self._check_locked()
        mended = []
        for name in TWICE:
            first, second = self.path / name, self.path / SPARE / name
            if not first.exists() and not second.exists() and name != DENIED:
                continue
            broken = self._trouble(first, name) is not None
            if broken or (name == DENIED and not first.exists()):
                mended += [name] * broken
                self._restore(name)
            elif not second.exists() or second.read_bytes() != first.read_bytes():
                if self._trouble(second, name) is not None:
                    mended.append(f"{SPARE}/{name}")
                write_both(self.disk, self.path, name, first.read_bytes())
        self._modernise()
        if mended:
            self.log.write("documents mended", self.now(), documents=mended)
        return mended

    def _restore(self, name: str) -> None:
        if name == DENIED:
            return self._write_denied(self.denied)
        with suppress(DeployError):  # both copies are damaged: nothing is better known
            data = first_whole(self.path, name, lambda data: (self._parse(name, data), data)[1])
            write_both(self.disk, self.path, name, data)
        return None

    def _modernise(self) -> None:
        """Seal the settings of a store that an older version made: they name what is there now."""
        data = read_file(self.path / CONFIG, LARGEST)
        if is_old(data, CONFIG, STORE_FORMAT):
            self.configure(self.pinned_to(parse_config(data), self.root))

    def pinned_to(self, config: Config, root: bytes) -> Config:
        """Return settings that name the bundle and the root of trust by their digests."""
        bundle = config.bundle_digest or read_bundle(config.bundle).digest
        return replace(config, bundle_digest=bundle, root_digest=digest(root))
