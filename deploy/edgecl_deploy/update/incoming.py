"""Fetches what a release needs and checks it, and says who is at fault if something is wrong.

Laws: `Bad` is about bytes that have the digest of the release, so it is true of the release
everywhere; a manifest of the channel that contradicts them is the channel's fault (untrusted);
bytes that do not have their digest any more are this disk's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from edgecl_deploy.errors import (
    DeployError,
    FormatVersionError,
    LimitError,
    MismatchError,
    MissingFileError,
    NoSpaceError,
    StoreError,
    UntrustedError,
)
from edgecl_deploy.files import blob_sizes, check_blob, read_file
from edgecl_deploy.format import (
    Bundle,
    Channel,
    Kind,
    Pack,
    Release,
    check_release,
    check_transfer,
    digest,
    object_target,
    parse_pack,
    parse_release,
)
from edgecl_deploy.manifest import limits
from edgecl_deploy.store.disk import is_full
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import OBJECTS, STAGING
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.floor import TELL

_NOT_ITS_FAULT = (MismatchError, MissingFileError, FormatVersionError, StoreError)


class Fetches(Protocol):
    """The part of a channel that gives objects."""

    def fetch(self, target: str, sha256: str, size: int | None, to: Path) -> None:
        """Fetch an object into a new file, verified."""


class Bad(Exception):  # noqa: N818  not an error of this process: a verdict
    """The release itself breaks a rule of the formats."""


@dataclass
class Incoming:
    """One release on its way into a store.

    Attributes:
        store: The store, locked.
        source: The channel.
        channel: The channel's manifest.
        check_stop: Raises if the update is asked to stop.
        objects: What the release needs and is there: digest -> bytes.
    """

    store: Store
    source: Fetches
    channel: Channel
    check_stop: Callable[[], None]
    objects: dict[str, int] = field(default_factory=dict)
    release: Release = field(init=False)  # from `fetch` on
    packs: list[Pack] = field(init=False)

    def fetch(self) -> None:
        """Fetch every object that is not stored; on a full disk once more, after a collection.

        Raises:
            Bad: A manifest breaks a rule.
            UntrustedError: The channel's manifest contradicts its release.
            NoSpaceError: The disk has too little room.
            OSError: The disk failed, or is full.
        """  # noqa: DOC502  raised below
        try:
            self._fetch()
        except (NoSpaceError, OSError) as error:
            if isinstance(error, OSError) and not is_full(error):
                raise
            collect(self.store, wanted=self.objects)
            self._fetch()

    def _fetch(self) -> None:
        self.objects, channel = {}, self.channel
        self._ensure(channel.release, channel.size, "json")
        data = self._manifest(channel.release, limits.MAX_MANIFEST)
        with _judging():
            release = parse_release(data)
        if release.number != channel.number:
            self._contradiction(f"release {release.number}", f"its number {channel.number}")
        packs = []
        for name in release.packs:
            self._ensure(name, None, "json")
            with _judging():
                check_transfer(manifests=sum(self.objects.values()))
        for name in release.packs:
            data = self._manifest(name, limits.MAX_PACK_MANIFEST)
            with _judging():
                packs.append(parse_pack(data))
        with _judging():
            blobs = blob_sizes(release, packs)
            check_transfer(blobs=sum(blobs.values()))
        factor = release.enrolment
        if factor is not None and self.store.config.enrol:
            blobs[factor.blob] = factor.bytes
        missing = [size for name, size in blobs.items() if not self.store.has(name, size)]
        self.store.disk.reserve(
            self.store.path, sum(missing) + 2 * max(missing, default=0), len(missing)
        )
        for name, size in blobs.items():
            self._ensure(name, size, "safetensors")
        self.release, self.packs = release, packs

    def verify(self, bundle: Bundle) -> None:
        """Check that a release keeps the rules of the formats and belongs to a bundle.

        Raises:
            Bad: It breaks a rule.
            MismatchError: It belongs to another bundle.
            StoreError: An object changed on this disk since it was fetched.
        """  # noqa: DOC501, DOC502  raised below
        with _judging():
            check_release(bundle, self.release, self.packs)
        for name, size in blob_sizes(self.release, self.packs).items():
            try:
                with _judging():
                    check_blob(self.store.path / OBJECTS / name)
            except Bad:
                if self.store.intact(name, size):
                    raise
                raise _rotten(name) from None

    def _manifest(self, name: str, largest: int) -> bytes:
        """Read a manifest whose bytes have its digest."""  # noqa: DOC501  `_rotten`
        with _judging():
            data = read_file(self.store.path / OBJECTS / name, largest)
        if digest(data) != name:
            raise _rotten(name)
        return data

    def _ensure(self, name: str, size: int | None, kind: Kind) -> None:
        """Fetch an object if it is missing or damaged.

        Raises:
            Bad: A manifest of the release gives it another size than it has.
            UntrustedError: The publisher's role signed an object that is too long.
        """
        path = self.store.path / OBJECTS / name
        if path.exists():
            found = path.stat().st_size
            if self.store.intact(name, found):  # the release that serves may need it as it is
                if size == found or size is None:
                    self.objects[name] = found
                    return
                if name != self.channel.release:
                    raise Bad(f"the object {name} has {found} bytes, not {size}")
                self._contradiction(f"a release.json of {found} bytes", f"its size {size}")
            self.store.drop(name)
        self.check_stop()
        staged = self.store.path / STAGING / name
        self.store.disk.remove(staged)
        target = object_target(self.channel.publisher, name, kind)
        try:
            self.source.fetch(target, name, size, staged)
        except LimitError as error:  # of what the publisher's role signed, not of the object
            raise UntrustedError(error.must, error.found, TELL) from error
        self.objects[name] = staged.stat().st_size
        self.store.add(staged, name)

    def _contradiction(self, is_: str, says: str) -> NoReturn:
        """Refuse the manifest of the channel.

        Raises:
            UntrustedError: Always.
        """
        raise UntrustedError(
            f"the manifest of the channel {self.channel.name} must agree with the release that it "
            f"names, which is {is_}",
            says,
            TELL,
        )


@contextmanager
def _judging() -> Iterator[None]:
    """Turn what breaks a rule of the formats into a verdict.

    Raises:
        DeployError: It is for another device or a later version, or the disk failed.
        Bad: The release breaks it.
    """
    try:
        yield
    except DeployError as error:
        if isinstance(error, _NOT_ITS_FAULT):  # for another device or a later version, or the disk
            raise
        raise Bad(str(error)) from error


def _rotten(name: str) -> StoreError:
    return StoreError(
        f"the object {name} must have the bytes that were stored",
        "others",
        "Run `edgecl-device fsck --repair`, and check the storage; the next update tries again.",
    )
