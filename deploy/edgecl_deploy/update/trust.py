"""Verifies a channel: python-tuf, unforked, and the checks that it leaves to its user.

Laws: what a refresh learned is durable before its caller uses it; two roles agree on every object;
every failure is one of the named errors, and what was trusted before stays trusted. Clauses are
those of the TUF specification 1.0.34. The caller holds the lock of the store.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
)
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edgecl_deploy.errors import (
    DeployError,
    LimitError,
    MissingFileError,
    NoSpaceError,
    OfflineError,
    StaleError,
    StoreError,
    UntrustedError,
    one_line,
    shown,
)
from edgecl_deploy.format import Channel, channel_target, parse_channel
from edgecl_deploy.manifest import limits
from edgecl_deploy.store.disk import Disk, is_full
from edgecl_deploy.store.documents import first_whole, write_both
from edgecl_deploy.store.layout import FLOOR, PART, STAGING, TEMP, TUF
from edgecl_deploy.update.bounds import largest
from edgecl_deploy.update.fetcher import Fetcher, local_path
from edgecl_deploy.update.floor import (
    BUILT,
    DEVELOPMENT,
    ROLES,
    SERVES,
    TELL,
    Floor,
    parse_floor,
)

LIMITS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=8,
    root_max_length=largest("root"),
    timestamp_max_length=largest("timestamp"),
    snapshot_max_length=largest("snapshot"),
    targets_max_length=largest("targets"),
)
_REFRESH = 900.0  # seconds for all files of a refresh together: up to 256 roots among them


@dataclass(frozen=True)
class Freshness:
    """The outcome of a refresh."""

    clock: Literal["ok", "behind"]  # behind: before a time that a channel has signed
    memory: Literal["kept", "new", "lost"]  # the floor: lost if floor.json could not be read
    development: bool  # the root's keys are for trying out
    version: int  # of timestamp.json
    expires: Mapping[str, int]  # role -> seconds since 1970


class _Bounded(FetcherInterface):
    """Fetches no more metadata than a role may have: python-tuf takes any length that is signed."""

    def __init__(self, fetcher: Fetcher, metadata: str) -> None:
        self._fetcher, self._metadata = fetcher, metadata

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._fetcher.fetch(url)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Fetch a file.

        Args:
            max_length: Its bytes, or the most that they may be.

        Yields:
            The open file, at its beginning.

        Raises:
            DownloadLengthMismatchError: More is signed than its role may have.
        """
        name = url.removeprefix(self._metadata)
        if name != url:
            role = name.removesuffix(".json").lstrip("0123456789.")
            if max_length > largest(role):
                raise DownloadLengthMismatchError(
                    f"{name} may have {largest(role)} bytes, {max_length} are signed"
                )
        with self._fetcher.download_file(url, max_length) as file:
            yield file


class Trust:
    """A channel whose content is verified; call `refresh`, then `channel`, then `fetch`.

    Args:
        store: The store; in it this class writes `tuf/`, `floor.json` and, for what comes,
            `staging/`.
        root: The `root.json` that this device came with.
        url: Of the channel: `http(s)://`, `file://` or a folder, which holds `metadata/` and
            `targets/`.
        disk: How the store writes.
        fetcher: Reads the network; one for a folder was made with that folder. None makes one.
        now: The clock: seconds since 1970.
    """

    def __init__(
        self,
        store: Path,
        root: bytes,
        url: str,
        *,
        disk: Disk | None = None,
        fetcher: Fetcher | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        folder = local_path(url)
        self.fetcher = fetcher or Fetcher(store / STAGING / PART, folder=folder)
        self._site = (url if folder is None else folder.absolute().as_uri()).rstrip("/")
        self._store = store
        self._root = root
        self._disk = disk or Disk()
        self._now = now
        self._updater: Updater | None = None
        self._synced: object = None

    @property
    def received(self) -> int:
        """Bytes that came so far."""
        return self.fetcher.received

    def refresh(self) -> Freshness:
        """Bring root, timestamp, snapshot and targets up to date, and remember them durably.

        Raises:
            OfflineError: The channel does not answer, or too slowly.
            StaleError: Its signatures have expired, by this device's clock.
            UntrustedError: Its metadata is not signed, is older than what was seen, or is
                longer than it may be.
            NoSpaceError: The disk is full.
            StoreError: The disk fails.
        """  # noqa: DOC502  raised by `_guarded` and `Floor.check`
        self._updater = None
        with self._guarded(), self.fetcher.within(_REFRESH):
            self._prepare()
            metadata = f"{self._site}/metadata/"
            updater = Updater(
                str(self._store / TUF),
                metadata,
                target_base_url=f"{self._site}/targets/",
                fetcher=_Bounded(self.fetcher, metadata),
                config=LIMITS,
                bootstrap=self._root,
            )
            updater.refresh()
            freshness = self._check_floor()
        self._updater = updater
        return freshness

    def channel(self, name: str) -> Channel:
        """Fetch the manifest of a channel.

        Raises:
            UntrustedError: No trusted role signed it, or it is another channel's.
            LimitError: It is too long.
        """
        info = self.find(channel_target(name))
        if info.length > limits.MAX_CHANNEL:
            raise LimitError(
                f"a channel manifest must have at most {limits.MAX_CHANNEL} bytes",
                str(info.length),
                TELL,
            )
        path = self._store / STAGING / TEMP / "channel.json"
        try:
            self.download(info, path)
            channel = parse_channel(path.read_bytes())
        finally:
            self._disk.remove(path)
        if channel.name != name:
            raise UntrustedError(
                f"{info.path} must be the channel {name}", shown(channel.name), TELL
            )
        self._note_time(channel.created)
        return channel

    def _note_time(self, created: int) -> None:
        """Remember a signed time: a clock before it is behind, whatever it has shown itself."""
        floor = self._floor()[0]
        if floor is not None and created > floor.signed:
            with self._guarded():
                expires = _read(self._store / TUF / "timestamp.json").signed.expires.timestamp()
                later = replace(floor, signed=min(created, int(expires)))
                if later != floor:
                    write_both(self._disk, self._store, FLOOR, later.to_bytes())

    def fetch(self, target: str, sha256: str, size: int | None, to: Path) -> None:
        """Fetch an object that a document names, if the publisher's role signed the very same.

        Args:
            target: Its name among the targets.
            sha256: The digest in the document.
            size: The bytes in the document; None for a pack's manifest, which has a limit.
            to: The file to make, in the store's `staging`; not durable yet.

        Raises:
            UntrustedError: The role did not sign it, or signed something else.
            LimitError: It has no size, and is too long for a pack's manifest.
        """
        info = self.find(target)
        if info.hashes.get("sha256") != sha256 or size not in {None, info.length}:
            raise UntrustedError(
                f"{target} must have the SHA-256 {sha256}"
                + ("" if size is None else f" and {size} bytes"),
                f"{shown(info.hashes.get('sha256'))} and {info.length} in the publisher's role",
                TELL,
            )
        if size is None and info.length > limits.MAX_PACK_MANIFEST:
            raise LimitError(
                f"{target} must have at most {limits.MAX_PACK_MANIFEST} bytes",
                str(info.length),
                TELL,
            )
        self.download(info, to)

    def find(self, target: str) -> TargetFile:
        """Return the entry of a target in the role that may sign it.

        Raises:
            UntrustedError: That role did not sign it.
        """
        with self._guarded():
            info = self._refreshed().get_targetinfo(target)
            self._remember()
        if info is None:
            raise UntrustedError(
                f"{target} must be signed by the role that its folder belongs to",
                "no such entry",
                f"{SERVES} Check the channel's name in config.json, and that it was published.",
            )
        return info

    def download(self, info: TargetFile, to: Path) -> None:
        """Fetch a target and verify its length and digests.

        Args:
            info: The entry that `find` returned.
            to: The file to make, in the store's `staging`; not durable yet.

        Raises:
            UntrustedError: It holds other bytes.
        """
        try:
            self._download(info, to)
        except UntrustedError:
            # After a power cut the bytes of an earlier attempt may be what is wrong.
            if not self.fetcher.resumed:
                raise
            self._download(info, to)

    def _download(self, info: TargetFile, to: Path) -> None:
        self._disk.remove(to)
        try:
            with self._guarded():
                self._refreshed().download_target(info, str(to))
        except DeployError:
            self._disk.remove(to)
            raise

    def _refreshed(self) -> Updater:
        if self._updater is None:
            self.refresh()
        assert self._updater is not None  # noqa: S101  or `refresh` had raised
        return self._updater

    # -- memory -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        staging = self._store / STAGING
        for folder in (self._store / TUF, staging, staging / TEMP, staging / PART):
            self._disk.folder(folder)
        for path in (self._store / TUF).glob("tmp*"):
            if path.suffix != ".json":
                self._disk.remove(path)  # of an Updater that was killed
        self.fetcher.sweep(self._now())

    def _check_floor(self) -> Freshness:
        """Compare the metadata that is trusted now with the floor; make both durable in turn."""
        roles = {role: _read(self._store / TUF / f"{role}.json") for role in ROLES}
        root = roles["root"].signed
        ids = "\n".join(sorted(root.roles["timestamp"].keyids))
        now = int(self._now())
        found = Floor(
            hashlib.sha256(ids.encode()).hexdigest(),
            root.version,
            roles["timestamp"].signed.version,
            max(now, 0),
        )
        floor, memory = self._floor()
        latest = BUILT
        if floor is not None:
            floor.check(found)
            latest = max(latest, floor.signed)
            found = replace(found, signed=floor.signed)
        self._remember()
        write_both(self._disk, self._store, FLOOR, found.to_bytes())
        return Freshness(
            "behind" if now < latest else "ok",
            memory,
            bool(root.unrecognized_fields.get(DEVELOPMENT)),
            found.timestamp,
            {role: int(each.signed.expires.timestamp()) for role, each in roles.items()},
        )

    def _floor(self) -> tuple[Floor | None, Literal["kept", "new", "lost"]]:
        try:
            return first_whole(self._store, FLOOR, parse_floor), "kept"
        except MissingFileError:
            return None, "new"
        except DeployError:
            return None, "lost"  # a damaged floor must not end all updates: `tuf/` is checked too

    def _remember(self) -> None:
        """Make the metadata durable if it changed since the last time."""
        state = {
            path: (path.lstat().st_ino, path.lstat().st_mtime_ns)
            for path in (self._store / TUF).rglob("*")
        }
        if state != self._synced:
            self._disk.sync_tree(self._store / TUF)
            self._synced = state

    # -- errors -----------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn every error of python-tuf, the network and the disk into one of ours.

        Raises:
            DeployError: The named one.
        """
        try:
            yield
        except DeployError:
            raise
        except Exception as error:  # hostile metadata may provoke any error of the library
            raise self._named(error) from error

    def _named(self, error: Exception) -> DeployError:
        if isinstance(error, ExpiredMetadataError):
            return StaleError(
                "the signatures of the channel must be in force",
                one_line(error),
                "Check this device's clock; if it is right, the publisher must run "
                f"`edgecl channel refresh`. {SERVES}",
            )
        if isinstance(error, DownloadError) and not isinstance(error, DownloadLengthMismatchError):
            return OfflineError(
                f"the channel at {self._site} must answer in time",
                one_line(error),
                "Check the URL and the network; the next poll goes on where this one ended.",
            )
        if isinstance(error, OSError):
            return _disk_error(error)
        return UntrustedError(
            f"what {self._site} serves must be signed, whole and not older than before",
            one_line(error),
            TELL,
        )


def _disk_error(error: OSError) -> DeployError:
    if is_full(error):
        return NoSpaceError(
            "the disk must have room for the update",
            one_line(error),
            "Remove files, or run `edgecl-device gc`; the next poll tries again.",
        )
    return StoreError(
        "the disk of the store must work",
        one_line(error),
        f"Run `edgecl-device fsck`, and check the disk and its permissions. {SERVES}",
    )


def _read(path: Path) -> Metadata[Any]:
    return Metadata.from_bytes(path.read_bytes())
