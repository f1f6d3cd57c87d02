"""Files of private keys, and the list of where each key is."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl_deploy.store.disk import Disk
from edgecl_export.errors import ChannelError

KEYS_FILE = "keys.json"
KEYS_FORMAT = "edgecl-keys/1"
FILE = "file2"  # the scheme of PEM files


@dataclass(frozen=True)
class Entry:
    """Where a private key is."""

    roles: tuple[str, ...]  # for which it was made
    uri: str  # a signer URI; file2: paths are relative to KEYS


def read_list(path: Path) -> tuple[bool, dict[str, Entry]]:
    """Read KEYS/keys.json.

    Returns:
        Whether new keys are encrypted, and the entries by keyid.

    Raises:
        ChannelError: if the file is not such a list.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        found = read["format"]
        entries = {
            keyid: Entry(tuple(entry["roles"]), str(entry["uri"]))
            for keyid, entry in read["keys"].items()
        }
        encrypted = bool(read["encrypted"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChannelError(
            f"{path} must be a {KEYS_FORMAT} document, found {error!r}. Restore it from a backup."
        ) from error
    if found != KEYS_FORMAT:
        raise ChannelError(
            f"{path} must be a {KEYS_FORMAT} document, found {found!r}. Use a newer edgecl."
        )
    return encrypted, entries


def write_list(path: Path, encrypted: bool, entries: dict[str, Entry], disk: Disk) -> None:
    """Replace KEYS/keys.json."""
    document: dict[str, Any] = {
        "format": KEYS_FORMAT,
        "encrypted": encrypted,
        "keys": {
            keyid: {"roles": list(entry.roles), "uri": entry.uri}
            for keyid, entry in entries.items()
        },
    }
    temporary = path.with_name(f".{path.name}.new")
    disk.remove(temporary)
    write_private(temporary, json.dumps(document, indent=1).encode(), disk)
    disk.rename(temporary, path)
    disk.sync(path.parent)


def write_private(path: Path, data: bytes, disk: Disk) -> None:
    """Write a new file, durable and readable by its owner alone."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    disk.sync(path)
