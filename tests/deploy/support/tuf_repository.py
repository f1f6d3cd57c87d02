"""A channel repository for tests: right by default, able to misbehave in every signed part."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgecl_deploy.format import Channel, channel_target, digest, object_target

PUBLISHER = "lab"
PACKS = f"packs-{PUBLISHER}"
TOP = ("root", "targets", "snapshot", "timestamp")
MORE_KEYS = {"root": (3, 2), "releases": (2, 2)}  # keys, threshold; the other roles have 1 of 1
BACKBONE = digest(b"backbone")


class TufRepository:
    """The roles of a channel with their keys, and the files that a web server would serve.

    `publish` does what a publisher does. For a misbehaving one, change `signed(role)` and call
    `write(role, signers)`: nothing is checked.
    """

    def __init__(self, folder: Path, development: bool = False) -> None:
        self.folder = folder
        (folder / "metadata").mkdir(parents=True)
        until = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=30)
        self.keys: dict[str, list[Signer]] = {
            role: [new_key() for _ in range(MORE_KEYS.get(role, (1, 1))[0])]
            for role in (*TOP, "releases", PACKS)
        }
        root = Root(expires=until, consistent_snapshot=True)
        if development:
            root.unrecognized_fields["x-edgecl-development"] = True
        for role in TOP:
            self._declare(root, role)
        targets = Targets(expires=until)
        delegated = {
            name: DelegatedRole(name, [], MORE_KEYS.get(name, (1, 1))[1], terminating, paths=[path])
            for name, terminating, path in (
                ("releases", False, "channels/*"),
                (PACKS, True, f"packs/{PUBLISHER}/*"),
            )
        }
        targets.delegations = Delegations({}, delegated)
        for role in delegated:
            self._declare(targets, role)
        self.roles: dict[str, Metadata[Any]] = {
            "root": Metadata(root),
            "targets": Metadata(targets),
            "releases": Metadata(Targets(expires=until)),
            PACKS: Metadata(Targets(expires=until)),
            "snapshot": Metadata(Snapshot(expires=until)),
            "timestamp": Metadata(Timestamp(expires=until)),
        }
        for role in ("targets", "releases", PACKS):
            self.signed("snapshot").meta[f"{role}.json"] = MetaFile(1)
        for role in self.roles:
            self.write(role)
        self.root = self.file("root").read_bytes()

    def _declare(self, delegator: Root | Targets, role: str) -> None:
        for key in self.keys[role]:
            delegator.add_key(key.public_key, role)
        if isinstance(delegator, Root):
            delegator.roles[role].threshold = MORE_KEYS.get(role, (1, 1))[1]

    # -- what a publisher does --------------------------------------------------------------------

    def add_object(self, data: bytes, kind: str = "safetensors", role: str = PACKS) -> str:
        """Serve an object and enter it into a role; give its target name."""
        target = object_target(PUBLISHER, digest(data), kind)
        self.enter(role, target, data)
        return target

    def add_channel(self, name: str = "stable", role: str = "releases", **fields: Any) -> Channel:
        """Serve the manifest of a channel and enter it into a role."""
        about = {"number": 1, "release": digest(b"release"), "size": 7, "publisher": PUBLISHER}
        channel = Channel(name, **{**about, "backbone": BACKBONE, "created": 0, **fields})
        self.enter(role, channel_target(name), channel.to_bytes())
        return channel

    def enter(self, role: str, target: str, data: bytes) -> None:
        """Serve a file and enter it into a role under any name."""
        self.signed(role).targets[target] = TargetFile.from_data(target, data, ["sha256"])
        path = self.target_file(target, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def publish(self, *roles: str) -> None:
        """Sign these roles with the next version, then snapshot, then timestamp."""
        for role in roles:
            self.signed(role).version += 1
            self.write(role)
            self.signed("snapshot").meta[f"{role}.json"].version = self.signed(role).version
        for role in ("snapshot", "timestamp"):
            self.signed(role).version += 1
            if role == "timestamp":
                self.signed(role).snapshot_meta.version = self.signed("snapshot").version
            self.write(role)

    def rotate(self, *roles: str) -> None:
        """Give top-level roles new keys, in the next root, which the old and new keys sign."""
        before = self.keys["root"]
        root = self.signed("root")
        for role in roles:
            for key in self.keys[role]:
                root.revoke_key(key.public_key.keyid, role)
            self.keys[role] = [new_key() for _ in self.keys[role]]
            self._declare(root, role)
        root.version += 1
        self.write(
            "root", {key.public_key.keyid: key for key in before + self.keys["root"]}.values()
        )

    # -- what anybody with keys can do ------------------------------------------------------------

    def signed(self, role: str) -> Any:
        return self.roles[role].signed

    def file(self, role: str) -> Path:
        """Say where the present version of a role is served."""
        name = f"{role}.json" if role == "timestamp" else f"{self.signed(role).version}.{role}.json"
        return self.folder / "metadata" / name

    def target_file(self, target: str, data: bytes) -> Path:
        parent, _, name = target.rpartition("/")
        return self.folder / "targets" / parent / f"{digest(data)}.{name}"

    def write(self, role: str, signers: Iterable[Signer] | None = None) -> None:
        """Sign a role as it is and serve it under its version."""
        each = self.roles[role]
        each.signatures.clear()
        for signer in self.keys[role] if signers is None else signers:
            each.sign(signer, append=True)
        self.file(role).write_bytes(each.to_bytes(JSONSerializer(compact=True)))

    def expire(self, role: str, days: int = -1) -> None:
        """Let a role's signatures end `days` from now."""
        now = datetime.now(timezone.utc).replace(microsecond=0)
        self.signed(role).expires = now + timedelta(days=days)

    def served(self) -> dict[Path, bytes]:
        """Keep everything that is served now, for a replay."""
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def replay(self, served: dict[Path, bytes]) -> None:
        """Serve what was kept, and nothing else."""
        for path in self.served():
            path.unlink()
        for path, data in served.items():
            path.write_bytes(data)


def new_key() -> Signer:
    return CryptoSigner.generate_ed25519()


def version(path: Path) -> int:
    """Read the version out of a file of metadata."""
    found: int = json.loads(path.read_bytes())["signed"]["version"]
    return found
