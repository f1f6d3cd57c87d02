"""One change of a site: edited in memory, signed, then written so that it appears at once.

Laws: everything is signed before anything is written; objects come before the roles that list
them, roles before the snapshot, and timestamp.json is replaced last. A role is signed again when it
changed, or when the keys of its parent no longer accept it; so a change of keys is only an edit of
the parent. Every file is whole and durable before the next one is begun.
"""

from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, TargetFile, Targets

from edgecl_deploy.progress import Reporter
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.update.bounds import largest
from edgecl_export.channel.keys import Keys
from edgecl_export.channel.metadata import Parent, Site, State, delegated, signed_by
from edgecl_export.channel.roles import LIFE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TOP, life
from edgecl_export.errors import ChannelError

Files = list[tuple[Path, bytes]]
LONG = 32 * 1024 * 1024  # bytes of objects whose progress is worth showing


class Draft:
    """The metadata and objects of a site after the change."""

    def __init__(self, site: Site, state: State, keys: Keys, now: datetime, disk: Disk) -> None:
        self.site, self.keys, self.now = site, keys, now
        self.roots = state.roots
        self.timestamp, self.snapshot, self.roles = state.timestamp, state.snapshot, state.roles
        self.reporter = Reporter()
        self.fresh = False  # sign snapshot and timestamp even if nothing changed
        self.new_root: Metadata[Root] | None = None
        self._disk = disk
        self._edited: set[str] = set()
        self._objects: dict[Path, bytes] = {}

    @property
    def root(self) -> Root:
        return self.edited_root().signed if self.new_root else self.roots[-1].signed

    def edited_root(self) -> Metadata[Root]:
        """Return the next root, to be changed; the draft will have a new one."""
        if self.new_root is None:
            self.new_root = deepcopy(self.roots[-1])
        return self.new_root

    @property
    def targets(self) -> Targets:
        return self.roles[TARGETS].signed

    def edit(self, role: str) -> Targets:
        """Return the content of targets or of a delegated role, to be changed."""
        if role not in self.roles:
            self.roles[role] = unsigned(Targets(expires=self.now))
        self._edited.add(role)
        return self.roles[role].signed

    def parent(self, role: str) -> Parent:
        """Return the role that lists the keys of a role."""
        return self.root if role in TOP else self.targets

    def edit_parent(self, role: str) -> Parent:
        """Return the role that lists the keys of a role, to be changed."""
        return self.edited_root().signed if role in TOP else self.edit(TARGETS)

    def put(self, role: str, target: str, data: bytes) -> bool:
        """Add a target with these bytes to a role; return whether that is new."""
        entry = TargetFile.from_data(target, data, ["sha256"])
        self._objects[self.site.target_file(target, entry.hashes["sha256"])] = data
        if role in self.roles and self.roles[role].signed.targets.get(target) == entry:
            return False
        self.edit(role).targets[target] = entry
        return True

    # -- signing ----------------------------------------------------------------------------

    def is_current(self, role: str, metadata: Metadata[Any]) -> bool:
        """Return whether a role needs no new version: it is unchanged and its signatures hold."""
        return role not in self._edited and signed_by(self.parent(role), role, metadata)

    def _sign(self, role: str, metadata: Metadata[Any], lifetime: timedelta) -> bytes:
        metadata.signed.version += 1
        metadata.signed.expires = self.now + lifetime
        metadata.signatures.clear()
        if self.new_root is not None and role in TOP and self.roots:
            # Signed by old and new keys, it is valid before and after the root appears.
            self.keys.sign(metadata, self.roots[-1].signed, role, required=role == ROOT)
        self.keys.sign(metadata, self.parent(role), role)
        return check_size(role, metadata.to_bytes())

    def sign_freshness(self, lifetimes: Mapping[str, timedelta] = LIFE) -> Files:
        """Sign the next snapshot and timestamp.

        Args:
            lifetimes: By role.
        """
        data = self._sign(SNAPSHOT, self.snapshot, lifetimes[SNAPSHOT])
        version = self.snapshot.signed.version
        self.timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        stamp = self._sign(TIMESTAMP, self.timestamp, lifetimes[TIMESTAMP])
        return [(self.site.role_file(SNAPSHOT, version), data), (self.site.timestamp, stamp)]

    def sign_all(self) -> Files:
        """Sign what has changed, and list the metadata files in the order of writing."""
        files: Files = []
        root = self.new_root
        root_data = b"" if root is None else self._sign(ROOT, root, life(ROOT))
        for role in [*delegated(self.targets), TARGETS]:
            metadata = self.roles.get(role)
            if metadata is None or self.is_current(role, metadata):
                continue
            data = self._sign(role, metadata, life(role))
            version = metadata.signed.version
            self.snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(
                version, data, ["sha256"]
            )
            files.append((self.site.role_file(role, version), data))
        current = self.is_current(SNAPSHOT, self.snapshot) and self.is_current(
            TIMESTAMP, self.timestamp
        )
        if files or self.fresh or not current:
            files += self.sign_freshness()
        if root is not None:
            at = len(files) if self._holds_for_the_old_root() else len(files) - 1
            files.insert(at, (self.site.role_file(ROOT, root.signed.version), root_data))
        return files

    def _holds_for_the_old_root(self) -> bool:
        """Return whether clients that have not seen the new root accept the new timestamp.

        Then the root may come last and every moment is valid. Otherwise a replaced key is lost, no
        order is valid throughout, and the root comes before the timestamp: the chain of roots then
        accepts both states, so that the command can be repeated after an interruption.
        """
        if not self.roots:
            return False
        top: dict[str, Metadata[Any]] = {
            TARGETS: self.roles[TARGETS],
            SNAPSHOT: self.snapshot,
            TIMESTAMP: self.timestamp,
        }
        return all(signed_by(self.roots[-1].signed, role, top[role]) for role in top)

    # -- writing ----------------------------------------------------------------------------

    def commit(self) -> None:
        """Sign and write the change."""
        files = self.sign_all()
        if not files:
            return
        self.keys.save(self._disk)
        self._make_folder(self.site.metadata)
        for path in self._objects:
            self._make_folder(path.parent)
        for folder in {self.site.metadata, *(path.parent for path in self._objects)}:
            self._disk.sweep(folder)
        size = sum(map(len, self._objects.values()))
        reporter = self.reporter if size >= LONG else Reporter()
        with reporter.bar("objects", len(self._objects)) as advance:
            for path, data in self._objects.items():
                if not (path.is_file() and path.read_bytes() == data):
                    self._disk.replace(path, data)
                advance()
        for path, data in files:
            self._disk.replace(path, data)

    def _make_folder(self, path: Path) -> None:
        if not path.is_dir():
            self._make_folder(path.parent)
            self._disk.folder(path)


def check_size(role: str, data: bytes) -> bytes:
    """Return the bytes of a role that devices take.

    Raises:
        ChannelError: if every device would refuse it for its size.
    """
    most = largest(role)
    if len(data) > most:
        raise ChannelError(
            f"The metadata of {role} must have at most {most} bytes, or every device refuses it, "
            f"got {len(data)}. Run `edgecl channel prune`."
        )
    return data


def unsigned(signed: Any) -> Metadata[Any]:
    """Wrap the content of a role that has no version yet; its first one will be 1."""
    signed.version = 0
    return Metadata(signed)
