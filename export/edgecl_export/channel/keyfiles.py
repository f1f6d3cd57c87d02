"""Files of private keys, and the list of where each key is.

Laws: an encrypted key has the format of OpenSSH, whose key derivation (bcrypt) is the strongest
that the library writes; a key that others may read is not used.
"""

import json
import os
import stat
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from edgecl_deploy.store.disk import Disk
from edgecl_export.errors import ChannelError

KEYS_FILE = "keys.json"
KEYS_FORMAT = "edgecl-keys/1"
FILE = "file2"  # the scheme of PEM files
SHORTEST = 12  # characters of a new passphrase
_DIFFERENT = 5  # characters of it that differ
_ROUNDS = 32  # of bcrypt: about half a second for each guess; ssh-keygen takes 24
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PKCS8 = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_SCRYPT = bytes.fromhex("06092b06010401da47040b")  # RFC 7914, as `openssl pkcs8 -scrypt` writes


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
    replace_private(path, json.dumps(document, indent=1).encode(), disk)


def replace_private(path: Path, data: bytes, disk: Disk) -> None:
    """Replace a file by one that is readable by its owner alone, in one step and durably."""
    temporary = path.with_name(f".{path.name}.new")
    disk.remove(temporary)
    write_private(temporary, data, disk)
    disk.rename(temporary, path)
    disk.sync(path.parent)


def write_private(path: Path, data: bytes, disk: Disk) -> None:
    """Write a new file, durable and readable by its owner alone."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    disk.sync(path)


def check_passphrase(passphrase: str) -> str:
    """Return a new passphrase that is not too easy to guess.

    Raises:
        ChannelError: if it is.
    """
    if len(passphrase) < SHORTEST or len(set(passphrase)) < _DIFFERENT:
        raise ChannelError(
            f"The passphrase of the keys must have {SHORTEST} characters or more, {_DIFFERENT} of "
            f"them different, got {len(passphrase)}. Take several words."
        )
    return passphrase


def private_pem(private: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    """Return the file of a private key.

    Args:
        passphrase: Encrypts it; None leaves it as it is.
    """
    if passphrase is None:
        return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    how = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(_ROUNDS)
    return private.private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, how.build(passphrase.encode())
    )


def read_private(path: Path, secret: Callable[[], str], *, strict: bool) -> Any:
    """Read a private key.

    Args:
        secret: Returns the passphrase, if one is needed.
        strict: Whether others must not be able to read the file even if it is encrypted: in KEYS.
            Elsewhere it may be on a medium that keeps no permissions.

    Raises:
        ChannelError: if it cannot be read, is open to others, or the passphrase is wrong.
    """
    try:
        with path.open("rb") as file:
            mode, data = stat.S_IMODE(os.fstat(file.fileno()).st_mode), file.read()
    except OSError as error:
        raise ChannelError(
            f"The private key {path} must be readable: {error.strerror}. "
            "Bring back the medium that holds it."
        ) from error
    load = load_ssh_private_key if data.startswith(_OPENSSH) else load_pem_private_key
    try:
        try:
            private, encrypted = load(data, None), False
        except TypeError:
            encrypted = True
        if mode & 0o077 and (strict or not encrypted):
            raise ChannelError(
                f"The private key {path} must be readable by its owner alone, found the mode "
                f"{mode:04o}. Run `chmod 600` on it; if others had access, rotate it."
            )
        return load(data, secret().encode()) if encrypted else private
    except ValueError as error:
        raise ChannelError(
            f"{path.name} must open with the passphrase: it is the wrong one, or the file is "
            "damaged. Try again, or restore the file."
        ) from error


def is_weak(path: Path) -> bool:
    """Return whether a key is encrypted so that its passphrase can be guessed fast."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if not data.startswith(_PKCS8):
        return False
    try:
        return _SCRYPT not in b64decode(b"".join(data.split(b"-----")[2:3]))
    except Base64Error:
        return False
