"""The metadata of a site, read and verified from the root that KEYS holds.

Laws: nothing of a site is signed again before it has been verified, so a file that was changed on
the web server is refused; only what timestamp.json refers to counts, whatever else an interrupted
writer has left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import Channel, channel_target, digest, parse_channel
from edgecl_export.channel.roles import DEVELOPMENT, PACKS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TOP
from edgecl_export.errors import ChannelError

Parent = Root | Targets
RESTORE = (
    "Restore the site from a backup; if a key command was interrupted, `edgecl channel refresh` "
    "finishes it."
)


@dataclass(frozen=True)
class Site:
    """Where the files of a repository are."""

    path: Path

    @property
    def metadata(self) -> Path:
        return self.path / "metadata"

    @property
    def timestamp(self) -> Path:
        return self.metadata / "timestamp.json"

    def role_file(self, role: str, version: int) -> Path:
        """Return the file of one version of a role other than timestamp."""
        return self.metadata / f"{version}.{role}.json"

    def target_file(self, target: str, sha256: str) -> Path:
        """Return the file of a target: its name begins with its digest (consistent snapshots)."""
        folder, _, name = target.rpartition("/")
        return self.path / "targets" / folder / f"{sha256}.{name}"

    def read_target(self, target: str, sha256: str) -> bytes:
        """Read a target.

        Raises:
            ChannelError: if it is not there, or holds other bytes.
        """
        path = self.target_file(target, sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ChannelError(
                f"The site must hold {target}, found {error.strerror} at {path}. {RESTORE}"
            ) from error
        if digest(data) != sha256:
            raise ChannelError(
                f"{path} must have the SHA-256 of its name, got {digest(data)}. {RESTORE}"
            )
        return data


@dataclass
class State:
    """The verified metadata of a site."""

    roots: list[Metadata[Root]]  # all versions from the trusted one on
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]  # targets, and the delegated roles that have signed

    @property
    def root(self) -> Root:
        return self.roots[-1].signed

    @property
    def targets(self) -> Targets:
        return self.roles[TARGETS].signed

    @property
    def development(self) -> bool:
        return bool(self.root.unrecognized_fields.get(DEVELOPMENT, False))


def delegated(targets: Targets) -> list[str]:
    """List the roles that targets delegates to."""
    return sorted(targets.delegations.roles or {}) if targets.delegations else []


def publishers(targets: Targets) -> list[str]:
    """List the publishers."""
    return [name[len(PACKS) :] for name in delegated(targets) if name.startswith(PACKS)]


def signed_by(parent: Parent, role: str, metadata: Metadata[Any]) -> bool:
    """Return whether enough of a role's keys have signed its metadata."""
    try:
        return bool(
            parent.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        )
    except ValueError:  # the parent does not know the role
        return False


def read_state(site: Site, trusted: bytes, *, repairing: bool = False) -> State:
    """Read and verify a site; whether signatures have expired does not matter here.

    Args:
        trusted: The bytes of the root that this workstation trusts.
        repairing: Also accept what an earlier root in the chain accepts: an interrupted key
            command leaves such a state when a replaced key is not at hand.
    """
    roots = read_roots(site, trusted)
    parents = [root.signed for root in (roots if repairing else roots[-1:])]
    timestamp: Metadata[Timestamp] = load(site.timestamp, Timestamp)
    check(timestamp, TIMESTAMP, parents)
    listed = timestamp.signed.snapshot_meta
    snapshot: Metadata[Snapshot] = load(site.role_file(SNAPSHOT, listed.version), Snapshot, listed)
    check(snapshot, SNAPSHOT, parents)
    roles: dict[str, Metadata[Targets]] = {}
    for name in sorted(snapshot.signed.meta, key=lambda name: name != f"{TARGETS}.json"):
        role, meta = name.removesuffix(".json"), snapshot.signed.meta[name]
        metadata: Metadata[Targets] = load(site.role_file(role, meta.version), Targets, meta)
        above: Sequence[Parent] = parents if role in TOP else [roles[TARGETS].signed]
        check(metadata, role, above)
        roles[role] = metadata
    return State(roots, timestamp, snapshot, roles)


def read_development(trusted: bytes) -> bool:
    """Return whether a root is marked as one for development."""
    root: Metadata[Root] = parse(trusted, Root, "the root of KEYS")
    return bool(root.signed.unrecognized_fields.get(DEVELOPMENT, False))


def read_roots(site: Site, trusted: bytes) -> list[Metadata[Root]]:
    """Follow the chain of roots; each is signed by its own keys and by those of the one before.

    Raises:
        ChannelError: if a root is not.
    """
    root: Metadata[Root] = parse(trusted, Root, "the root of KEYS")
    check(root, ROOT, [root.signed])
    chain = [root]
    while (path := site.role_file(ROOT, chain[-1].signed.version + 1)).exists():
        following: Metadata[Root] = load(path, Root)
        if following.signed.version != chain[-1].signed.version + 1:
            raise ChannelError(
                f"{path.name} must have that version, got {following.signed.version}. {RESTORE}"
            )
        check(following, ROOT, [chain[-1].signed])
        check(following, ROOT, [following.signed])
        chain.append(following)
    return chain


def load(path: Path, kind: type[Any], listed: Any = None) -> Any:
    """Read a metadata file, and compare it with the entry that lists it.

    Raises:
        ChannelError: if it cannot be read, or differs from the entry.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ChannelError(
            f"The site must hold {path.name}, found {error.strerror} in {path.parent}. "
            "Check --site; a new site is made by `edgecl channel init`."
        ) from error
    metadata = parse(data, kind, path.name)
    if listed is not None:
        try:
            listed.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise ChannelError(
                f"{path.name} must match the role that lists it: {error}. {RESTORE}"
            ) from error
        if metadata.signed.version != listed.version:
            raise ChannelError(
                f"{path.name} must have that version, got {metadata.signed.version}. {RESTORE}"
            )
    return metadata


def parse(data: bytes, kind: type[Any], what: str) -> Any:
    """Parse metadata.

    Raises:
        ChannelError: if it cannot be parsed, or is of another kind of role.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise ChannelError(f"{what} must be TUF metadata: {error}. {RESTORE}") from error
    if not isinstance(metadata.signed, kind):
        raise ChannelError(
            f"{what} must be {kind.__name__.lower()} metadata, got {metadata.signed.type}. "
            f"{RESTORE}"
        )
    return metadata


def check(metadata: Metadata[Any], role: str, parents: Sequence[Parent]) -> None:
    """Check the signatures of a role.

    Raises:
        ChannelError: if too few of the role's keys have signed.
    """
    if not any(signed_by(parent, role, metadata) for parent in parents):
        raise ChannelError(
            f"The site's {role} (version {metadata.signed.version}) must be signed by the keys of "
            f"that role, found too few valid signatures. {RESTORE}"
        )


def read_channel(site: Site, releases: Metadata[Targets] | None, name: str) -> Channel | None:
    """Read the manifest of a channel; None if there is no such channel.

    Raises:
        ChannelError: if its file is damaged.
    """
    entry = releases.signed.targets.get(channel_target(name)) if releases else None
    if entry is None:
        return None
    try:
        return parse_channel(site.read_target(entry.path, entry.hashes["sha256"]))
    except DeployError as error:
        raise ChannelError(
            f"The manifest of {name} must be readable: {error} Publish to it with this version."
        ) from error


def channel_names(releases: Metadata[Targets] | None) -> list[str]:
    """List the channels."""
    listed = releases.signed.targets if releases else {}
    return sorted(target.split("/")[1].removesuffix(".json") for target in listed)
