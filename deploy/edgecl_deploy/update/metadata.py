"""Checks python-tuf's files in a store: every signature and every byte of them.

A refresh looks only at what it needs; here one flipped bit anywhere is found. Nothing depends on a
file that is removed: the next refresh fetches it again, and `floor.json` keeps the versions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.files import read_file
from edgecl_deploy.store.fsck import Damage
from edgecl_deploy.store.layout import TUF
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.bounds import LARGEST_METADATA


def check_metadata(store: Store) -> list[Damage]:
    """Check every file of metadata.

    Returns:
        The damages; empty if there are none.
    """
    files: dict[str, Metadata[Any]] = {}
    found = []
    for path in sorted((store.path / TUF).rglob("*.json")):
        name = str(path.relative_to(store.path / TUF))
        try:
            files[name] = _whole(path)
        except (DeployError, RepositoryError, ValueError) as error:
            found.append(Damage(f"{TUF}/{name}", _text(error)))
    for name, metadata in files.items():
        found += [Damage(f"{TUF}/{name}", text) for text in _wrong(name, metadata, files)]
    return found


def remove_metadata(store: Store, damages: list[Damage]) -> None:
    """Remove damaged metadata; needs the lock. The next refresh fetches it again."""
    for damage in damages:
        if damage.what.startswith(f"{TUF}/"):
            store.disk.remove(store.path / damage.what)
    for path in (store.path / TUF).rglob("*.json"):
        if path.is_symlink() and not path.exists():  # to a root that was removed
            store.disk.remove(path)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, DeployError) else one_line(error)


def _whole(path: Path) -> Metadata[Any]:
    """Read a file that has one of the two forms in which python-tuf writes.

    Raises:
        ValueError: It has another form, though it can be read.
    """
    data = read_file(path.resolve() if path.is_symlink() else path, LARGEST_METADATA)
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    forms = [metadata.to_bytes(JSONSerializer(compact=compact)) for compact in (True, False)]
    lower = all(each.signature == each.signature.lower() for each in metadata.signatures.values())
    if not lower or data.rstrip(b"\n") not in [form.rstrip(b"\n") for form in forms]:
        raise ValueError("other bytes than were written")
    return metadata


def _wrong(name: str, metadata: Metadata[Any], files: dict[str, Metadata[Any]]) -> Iterator[str]:
    """Yield what is wrong with the signatures of a file."""
    keys: dict[str, Any] = {}
    for other in files.values():
        if other.signed.type == "root":
            keys |= other.signed.keys
        delegations = getattr(other.signed, "delegations", None)
        keys |= {} if delegations is None else delegations.keys
    delegated = metadata.signed.type == "targets" and name != "targets.json"
    namers = {"root.json", "targets.json"} if delegated else {"root.json"}
    for keyid, signature in metadata.signatures.items():
        if keyid not in keys:
            # Who names the key may have been removed, or names others since this file was signed.
            if namers <= files.keys() and not _is_older(name, metadata, files):
                yield f"a signature by the unknown key {keyid[:16]}"
            continue
        try:
            keys[keyid].verify_signature(signature, metadata.signed_bytes)
        except Exception as error:  # securesystemslib has several roots of its errors
            yield f"a signature that does not hold: {one_line(error)}"


def _is_older(name: str, metadata: Metadata[Any], files: dict[str, Metadata[Any]]) -> bool:
    """Return whether a refresh replaces a file before it uses it."""
    if name == "snapshot.json":
        listed = files.get("timestamp.json")
        return listed is not None and listed.signed.snapshot_meta.version > metadata.signed.version
    snapshot = files.get("snapshot.json")
    if snapshot is None or metadata.signed.type != "targets" or name not in snapshot.signed.meta:
        return False
    return bool(snapshot.signed.meta[name].version > metadata.signed.version)
