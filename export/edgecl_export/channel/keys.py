"""The private keys of a publisher: a folder of PEM files, and URIs of keys that are elsewhere.

Laws: a private key is never in SITE; its file is readable by its owner alone; it is on disk before
the site names its public part; no signing code is here, only securesystemslib's signers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.metadata import Metadata

from edgecl_deploy.store.disk import Disk
from edgecl_export.channel.keyfiles import (
    FILE,
    KEYS_FILE,
    Entry,
    is_weak,
    private_pem,
    read_list,
    read_private,
    replace_private,
    write_list,
    write_private,
)
from edgecl_export.channel.metadata import Parent
from edgecl_export.channel.roles import ONLINE
from edgecl_export.errors import ChannelError

Ask = Callable[[str], str]  # what is asked for -> the secret


class Keys:
    """The private keys that are available."""

    def __init__(self, folder: Path, passphrase: str | Ask | None = None) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.encrypted = passphrase is not None
        self._passphrase = passphrase
        self._extra: list[tuple[str, str]] = []  # beginning of a keyid, URI
        self._signers: dict[str, Signer] = {}
        self._new: dict[str, tuple[Entry, bytes | None]] = {}  # keyid -> not saved yet

    @classmethod
    def open(
        cls, folder: Path, passphrase: str | Ask | None = None, extra: Sequence[str] = ()
    ) -> "Keys":
        """Read KEYS/keys.json; a folder without one holds no keys.

        Args:
            extra: `[KEYID=]URI` of more keys; only `file2:` URIs go without the KEYID.
        """
        keys = cls(folder, passphrase)
        if (folder / KEYS_FILE).is_file():
            keys.encrypted, keys.entries = read_list(folder / KEYS_FILE)
        for given in extra:
            keys._add_extra(given)
        return keys

    def _add_extra(self, given: str) -> None:
        name, equals, uri = given.partition("=")
        if not equals or ":" in name:
            name, uri = "", given
        scheme, _, rest = uri.partition(":")
        if scheme == FILE:
            path = Path(rest).absolute()
            public = CryptoSigner(self._private(path)).public_key
            name, uri = name or public.keyid, f"{FILE}:{path}"
        elif len(name) < 8:
            raise ChannelError(
                f"--key must be file2:PATH or KEYID=URI, got {given!r}. "
                "`edgecl channel status` shows the keyids."
            )
        self._extra.append((name, uri))

    def _secret(self, what: str) -> str:
        secret = self._passphrase
        if secret is None:
            raise ChannelError(
                f"The {what} must be given, found none. Set EDGECL_KEY_PASSPHRASE, or run the "
                "command in a terminal."
            )
        if not isinstance(secret, str):
            self._passphrase = secret = secret(what)
        return secret

    def _private(self, path: Path) -> Any:
        inside = path.parent.resolve() == self.folder.resolve()
        return read_private(path, lambda: self._secret("passphrase of the keys"), strict=inside)

    def find(self, key: Key) -> Signer | None:
        """Return what signs with a key, None if its private part is not available.

        Raises:
            ChannelError: if it is available and cannot be used.
        """
        if key.keyid in self._signers:
            return self._signers[key.keyid]
        uri = self._uri(key.keyid)
        if uri is None:
            return None
        try:
            if uri.startswith(f"{FILE}:"):
                path = self.folder / uri.partition(":")[2]
                if not path.exists():
                    return None
                assert isinstance(key, SSlibKey), "PEM files hold ordinary keys"
                signer: Signer = CryptoSigner(self._private(path), key)
            else:
                signer = Signer.from_priv_key_uri(uri, key, self._secret)
        except ChannelError:
            raise
        except Exception as error:  # each kind of signer has its own errors
            raise ChannelError(
                f"The key {key.keyid[:12]} at {uri} must be usable: {error}. "
                "Check the URI, the device and its driver."
            ) from error
        self._signers[key.keyid] = signer
        return signer

    def _uri(self, keyid: str) -> str | None:
        for name, uri in self._extra:
            if keyid.startswith(name):
                return uri
        return self.entries[keyid].uri if keyid in self.entries else None

    def at_hand(self, keyid: str) -> bool:
        """Return whether a key's private part seems to be available; nothing is opened."""
        uri = self._uri(keyid)
        if uri is None or not uri.startswith(f"{FILE}:"):
            return uri is not None
        return (self.folder / uri.partition(":")[2]).exists()

    def is_weak(self, keyid: str) -> bool:
        """Return whether a key's file is encrypted so that its passphrase can be guessed fast."""
        uri = self._uri(keyid)
        return (
            uri is not None
            and uri.startswith(f"{FILE}:")
            and is_weak(self.folder / uri.partition(":")[2])
        )

    def protect(self, passphrase: str, disk: Disk) -> list[Path]:
        """Encrypt every key file that is at hand anew, each durably; keys may follow one by one.

        Args:
            passphrase: The new one; a file that it opens already has been done before.

        Returns:
            The files.
        """
        uris = [entry.uri for entry in self.entries.values()] + [uri for _, uri in self._extra]
        paths = [self.folder / uri.partition(":")[2] for uri in uris if uri.startswith(f"{FILE}:")]
        done = []
        for path in filter(Path.exists, dict.fromkeys(paths)):
            try:
                private = read_private(path, lambda: passphrase, strict=False)
            except ChannelError:
                private = self._private(path)
            replace_private(path, private_pem(private, passphrase), disk)
            done.append(path)
        write_list(self.folder / KEYS_FILE, True, self.entries, disk)
        return done

    def sign(
        self, metadata: Metadata[Any], parent: Parent, role: str, *, required: bool = True
    ) -> bool:
        """Add signatures until the role has its threshold; return whether it has.

        Args:
            required: Whether it is an error if it has not.

        Raises:
            ChannelError: if too few keys of the role are available.
        """
        needed = parent.get_delegated_role(role)
        have = sum(keyid in metadata.signatures for keyid in needed.keyids)
        for keyid in needed.keyids:
            if have >= needed.threshold:
                break
            signer = None if keyid in metadata.signatures else self.find(parent.get_key(keyid))
            if signer is not None:
                metadata.sign(signer, append=True)
                have += 1
        if required and have < needed.threshold:
            missing = [keyid for keyid in needed.keyids if keyid not in metadata.signatures]
            raise ChannelError(
                f"{role} must be signed by {needed.threshold} of its {len(needed.keyids)} keys, "
                f"found {have} at hand; missing: {', '.join(map(self.describe, missing))}. "
                f"Bring one back to {self.folder}, or give it with --key URI."
            )
        return have >= needed.threshold

    def describe(self, keyid: str) -> str:
        """Name a key for people."""
        uri = self._uri(keyid)
        return keyid[:12] if uri is None else f"{keyid[:12]} ({uri.removeprefix(f'{FILE}:')})"

    # -- new keys ---------------------------------------------------------------------------

    def forget_new(self) -> None:
        """Begin a command: forget the unsaved keys and the opened signers of an earlier one."""
        self._signers.clear()
        self._new.clear()

    def make(self, roles: Sequence[str]) -> Key:
        """Make a key for roles; `save` writes it."""
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        secret = self._secret("passphrase of the keys") if self.encrypted else None
        pem = private_pem(private, secret)
        label = "online" if set(roles) == set(ONLINE) else roles[0]
        keyid = signer.public_key.keyid
        self._new[keyid] = (Entry(tuple(roles), f"{FILE}:{self._free_name(label)}"), pem)
        self._signers[keyid] = signer
        return signer.public_key

    def adopt(self, public: bytes, uri: str | None, role: str) -> Key:
        """Add a key that is elsewhere: on a token, in a cloud, on another person's machine.

        Args:
            public: Its public part, PEM.
            uri: Where the private part is, None if this workstation does not sign with it.

        Raises:
            ChannelError: if it is not a public key that TUF supports.
        """
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(public))
        except ValueError as error:
            raise ChannelError(
                f"--public must be a PEM file of a public key: {error}. "
                "Give an Ed25519, ECDSA or RSA key."
            ) from error
        if uri is not None:
            self._new[key.keyid] = (Entry((role,), uri), None)
        return key

    def _free_name(self, label: str) -> str:
        entries = [*self.entries.values(), *(entry for entry, _ in self._new.values())]
        taken = {entry.uri.removeprefix(f"{FILE}:") for entry in entries}
        number = 1
        while (name := f"{label}-{number}.pem") in taken or (self.folder / name).exists():
            number += 1
        return name

    def save(self, disk: Disk) -> None:
        """Write the new keys, and then keys.json, if there are new keys."""
        if not self._new:
            return
        for entry, pem in self._new.values():
            if pem is not None:
                write_private(self.folder / entry.uri.partition(":")[2], pem, disk)
        self.entries.update({keyid: entry for keyid, (entry, _) in self._new.items()})
        write_list(self.folder / KEYS_FILE, self.encrypted, self.entries, disk)
        self._new.clear()
