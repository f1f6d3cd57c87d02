"""Keys: every role's can be added, replaced and revoked; devices follow, thieves do not."""

import copy
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Signer
from tuf.api.exceptions import BadVersionNumberError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, TargetFile

from edgecl_export.channel import Repository
from edgecl_export.errors import ChannelError

Tree = Callable[[Path], dict[str, bytes]]
ROLES = ("root", "targets", "releases", "packs-lab", "snapshot", "timestamp")


@pytest.fixture
def published(repository: Repository, releases: dict[int, Path], shop: Any) -> Repository:
    repository.publish(releases[1], shop.bundle, channel="stable")
    return repository


def keyids(repository: Repository, role: str) -> list[str]:
    state = repository.state()
    parent = state.targets if role.startswith(("packs-", "releases")) else state.root
    return list(parent.get_delegated_role(role).keyids)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_rotated(
    published: Repository, releases: dict[int, Path], shop: Any, device: Any, role: str
) -> None:
    """All old private keys of the role are thrown away; old and new devices converge."""
    phone = device()
    phone.take()
    before = keyids(published, role)
    replaced = published.rotate(role)
    assert list(replaced) == before
    assert keyids(published, role) == list(replaced.values())
    for old in before:
        (published.keys.folder / published.keys.entries[old].uri[len("file2:") :]).unlink()
    published.publish(releases[2], shop.bundle, channel="stable")
    assert (phone.take(), device().take()) == (2, 2)
    assert published.status().code == 0


def test_one_key_of_several_is_rotated(published: Repository, device: Any) -> None:
    first, second, third = keyids(published, "root")
    published.rotate("root", second[:8])
    now = keyids(published, "root")
    assert {first, third} < set(now)
    assert second not in now
    assert len(now) == 3
    assert device().take() == 1


def test_a_device_that_is_twelve_roots_behind(
    published: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    phone = device()
    phone.take()
    for _ in range(6):
        published.rotate("root")
        published.rotate("timestamp")
    assert published.state().root.version == 13
    published.publish(releases[2], shop.bundle, channel="stable")
    assert (phone.take(), device().take()) == (2, 2)


def test_two_of_three_root_keys_suffice(published: Repository, device: Any, tree: Tree) -> None:
    lost = keyids(published, "root")[0]
    (published.keys.folder / "root-1.pem").unlink()
    published.rotate("root", lost)
    assert device().take() == 1
    for name in ("root-2.pem", "root-3.pem"):
        (published.keys.folder / name).unlink()
    before, keys = tree(published.site.path), tree(published.keys.folder)
    with pytest.raises(ChannelError, match=r"found 1 at hand; missing: .*--key URI"):
        published.rotate("root")
    assert tree(published.site.path) == before
    assert tree(published.keys.folder) == keys


def test_offline_keys_come_for_one_command(
    published: Repository, tmp_path: Path, device: Any
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    for path in published.keys.folder.glob("root-*.pem"):
        path.rename(stick / path.name)
    site, keys = published.site.path, published.keys.folder
    with pytest.raises(ChannelError, match="--key URI"):
        Repository.open(site, keys).rotate("timestamp")
    extra = [f"file2:{stick}/root-1.pem", f"file2:{stick}/root-3.pem"]
    Repository.open(site, keys, extra_keys=extra).rotate("timestamp")
    assert device().take() == 1
    with pytest.raises(ChannelError, match="Bring back the medium"):
        Repository.open(site, keys, extra_keys=["file2:/nowhere/root-1.pem"])
    with pytest.raises(ChannelError, match="edgecl channel status"):
        Repository.open(site, keys, extra_keys=["hsm:2?label=x"])
    root = keyids(published, "root")[0]
    strange = Repository.open(site, keys, extra_keys=[f"{root}=gopher:x", extra[1]])
    with pytest.raises(ChannelError, match="Check the URI"):
        strange.rotate("timestamp")


def test_a_key_that_lives_elsewhere(
    published: Repository, releases: dict[int, Path], shop: Any, device: Any, tmp_path: Path
) -> None:
    """An ECDSA key, as a token or a cloud would hold it: only its public part is given."""
    private = generate_private_key(SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "token.pem").write_bytes(pem)
    (tmp_path / "token.pem").chmod(0o600)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    keyid = published.add_key("packs-plant", public=public, uri=f"file2:{tmp_path}/token.pem")
    assert published.keys.entries[keyid].uri.endswith("token.pem")
    published.publish(releases[2], shop.bundle, channel="stable", publisher="plant")
    phone = device()
    assert phone.take() == 2
    with pytest.raises(ChannelError, match="Give another one"):
        published.add_key("packs-plant", public=public)
    with pytest.raises(ChannelError, match="Give an Ed25519"):
        published.add_key("packs-plant", public=b"nonsense")


class Token(Signer):
    """A key in a device that asks for its PIN; python finds it by the scheme of its URI."""

    held: ClassVar[dict[str, CryptoSigner]] = {}

    def __init__(self, inner: CryptoSigner) -> None:
        self.inner = inner

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None
    ) -> "Token":
        if secrets_handler("PIN") != "1234":
            raise ValueError("wrong PIN")
        return cls(cls.held[priv_key_uri])

    @property
    def public_key(self) -> Any:
        return self.inner.public_key

    def sign(self, payload: bytes) -> Any:
        return self.inner.sign(payload)


def test_any_signer_uri_works(
    published: Repository, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token becomes the only key of `releases`; its URI is in keys.json or given by --key."""
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "token", Token)
    pin = "1234"
    private = Ed25519PrivateKey.generate()
    Token.held["token:7"] = CryptoSigner(private)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    site, keys = published.site.path, published.keys.folder
    keyid = published.add_key("releases", public=public)
    for old in keyids(published, "releases")[:2]:
        given = Repository.open(site, keys, extra_keys=[f"{keyid[:12]}=token:7"], passphrase=pin)
        given.revoke("releases", old)
    with pytest.raises(ChannelError, match=r"missing: [0-9a-f]{12}\. Bring"):
        Repository.open(site, keys).halt("stable")
    with pytest.raises(ChannelError, match="wrong PIN"):
        Repository.open(
            site, keys, extra_keys=[f"{keyid}=token:7"], passphrase=lambda what: f"no {what}"
        ).halt("stable")
    (roles,) = [role for role in given.status().roles if role.role == "releases"]
    assert roles.keys == {keyid: True}
    assert given.halt("stable").halted
    assert device().poll().halted


def test_a_stolen_publisher_key_is_revoked(
    published: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    """What it has signed is signed again by the new key; what it signs later is refused."""
    (stolen,) = keyids(published, "packs-lab")
    thief = signer(published, stolen)
    phone = device()
    phone.take()
    with pytest.raises(ChannelError, match="edgecl channel key rotate packs-lab"):
        published.revoke("packs-lab", stolen)
    published.add_key("packs-lab")
    assert published.revoke("packs-lab", stolen) == ["packs-lab"]
    packs = published.state().roles["packs-lab"]
    assert stolen not in packs.signatures
    assert (phone.take(), device().take()) == (1, 1)
    forge(published, "packs-lab", lambda signed: None, thief)
    with pytest.raises(UnsignedMetadataError):
        device().take()


def test_a_publisher_key_cannot_sign_a_channel(
    published: Repository, device: Any, shop: Any, releases: dict[int, Path]
) -> None:
    """Even a thief who also has the online key cannot point a channel with a publisher's key."""
    phone = device()
    before = phone.poll()
    thief = signer(published, keyids(published, "packs-lab")[0])
    data = published.site.read_target(
        "channels/stable.json",
        published.state().roles["releases"].signed.targets["channels/stable.json"].hashes["sha256"],
    )
    forged = data.replace(b'"number":1', b'"number":9')
    entry = TargetFile.from_data("channels/stable.json", forged, ["sha256"])
    published.site.target_file(entry.path, entry.hashes["sha256"]).write_bytes(forged)
    forge(published, "packs-lab", lambda signed: signed.targets.update({entry.path: entry}), thief)
    assert phone.poll() == before, "the role of the publisher is not asked for channels"
    forge(published, "releases", lambda signed: signed.targets.update({entry.path: entry}), thief)
    with pytest.raises(UnsignedMetadataError):
        phone.poll()


def signer(repository: Repository, keyid: str) -> Any:
    """Return what signs with a key, kept beyond its revocation."""
    state = repository.state()
    keys = {**state.root.keys, **state.targets.delegations.keys}
    found = repository.keys.find(keys[keyid])
    assert isinstance(found, CryptoSigner)
    return found


def forge(repository: Repository, role: str, change: Any, thief: Any) -> None:
    """Let a thief sign a role; snapshot and timestamp are signed as they should be."""
    with repository.change() as draft:
        metadata = draft.roles[role]
        change(metadata.signed)
        metadata.signed.version += 1
        metadata.sign(thief)
        data = metadata.to_bytes()
        version = metadata.signed.version
        repository.site.role_file(role, version).write_bytes(data)
        meta = draft.snapshot.signed.meta[f"{role}.json"]
        meta.version, meta.length, meta.hashes = version, None, None
        (online,) = draft.root.roles["timestamp"].keyids
        sign = repository.keys.find(draft.root.keys[online])
        assert sign is not None
        snapshot, timestamp = draft.snapshot, draft.timestamp
        snapshot.signed.version += 1
        snapshot.sign(sign)
        draft.site.role_file("snapshot", snapshot.signed.version).write_bytes(snapshot.to_bytes())
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = type(meta)(snapshot.signed.version)
        timestamp.sign(sign)
        draft.site.timestamp.write_bytes(timestamp.to_bytes())
        draft.commit = lambda: None  # type: ignore[method-assign]


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_fast_forward_attack_ends_with_a_rotation(
    published: Repository, releases: dict[int, Path], shop: Any, device: Any, role: str
) -> None:
    phone = device()
    phone.take()
    state = copy.deepcopy(published.state())
    (online,) = state.root.roles["timestamp"].keyids
    thief = published.keys.find(state.root.keys[online])
    assert thief is not None
    good = published.site.timestamp.read_bytes()
    state.snapshot.signed.version = 1_000_000
    state.snapshot.sign(thief)
    state.timestamp.signed.version = 1_000_000
    state.timestamp.signed.snapshot_meta = type(state.timestamp.signed.snapshot_meta)(1_000_000)
    state.timestamp.sign(thief)
    forged = published.site.role_file("snapshot", 1_000_000)
    forged.write_bytes(state.snapshot.to_bytes())
    published.site.timestamp.write_bytes(state.timestamp.to_bytes())
    assert phone.take() == 1
    forged.unlink()
    published.site.timestamp.write_bytes(good)
    with pytest.raises(BadVersionNumberError):
        phone.take()
    published.rotate(role)
    assert phone.take() == 1
    published.publish(releases[2], shop.bundle, channel="stable")
    assert (phone.take(), device().take()) == (2, 2)


def test_thresholds_are_kept(published: Repository, tree: Tree) -> None:
    root = keyids(published, "root")
    published.revoke("root", root[0])
    before, keys = tree(published.site.path), tree(published.keys.folder)
    refused = [
        (lambda: published.revoke("root", root[1]), "first `edgecl channel key add root`"),
        (lambda: published.revoke("timestamp", keyids(published, "timestamp")[0]), "key rotate"),
        (lambda: published.revoke("root", root[0]), "edgecl channel refresh"),
        (lambda: published.rotate("root", root[1][:4]), "6 digits"),
        (lambda: published.rotate("nobody"), "key add packs-NAME"),
        (lambda: published.add_key("nobody"), "key add packs-NAME"),
        (lambda: published.add_key("packs-A b"), "Choose another name"),
    ]
    for refuse, words in refused:
        with pytest.raises(ChannelError, match=words):
            refuse()
        assert tree(published.site.path) == before
        assert tree(published.keys.folder) == keys


def test_a_key_of_two_roles_is_revoked_in_both(published: Repository, device: Any) -> None:
    (shared,) = keyids(published, "timestamp")
    published.add_key("timestamp")
    with pytest.raises(ChannelError, match="key add snapshot"):
        published.revoke("timestamp", shared)
    published.add_key("snapshot")
    assert published.revoke("timestamp", shared) == ["snapshot", "timestamp"]
    assert device().take() == 1


def test_a_rotated_root_needs_the_old_keys(published: Repository, tmp_path: Path) -> None:
    """A root that only new keys have signed is refused by the device and by the workstation."""
    state = published.state()
    forged = copy.deepcopy(state.roots[-1])
    forged.signed.version = 2
    forged.signatures.clear()
    thieves = [CryptoSigner.generate_ed25519() for _ in range(3)]
    forged.signed.roles["root"].keyids[:] = []
    for thief in thieves:
        forged.signed.add_key(thief.public_key, "root")
        forged.sign(thief, append=True)
    path = published.site.role_file("root", 2)
    path.write_bytes(forged.to_bytes())
    with pytest.raises(ChannelError, match="Restore the site from a backup"):
        published.halt("stable")
    forged.signed.version = 3
    path.write_bytes(forged.to_bytes())
    with pytest.raises(ChannelError, match="must have that version"):
        published.halt("stable")
    path.write_bytes(published.site.timestamp.read_bytes())
    with pytest.raises(ChannelError, match="must be root metadata"):
        published.halt("stable")
    path.write_bytes(b"{}")
    with pytest.raises(ChannelError, match="must be TUF metadata"):
        published.halt("stable")
    path.unlink()
    published.halt("stable")


def test_passphrases(tmp_path: Path, device: Any) -> None:
    site, keys = tmp_path / "locked", tmp_path / "locked-keys"
    Repository.create(site, keys, passphrase="open sesame, please")  # noqa: S106
    for path in keys.glob("*.pem"):
        assert b"OPENSSH" in path.read_bytes(), path
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return "open sesame, please"

    repository = Repository.open(site, keys, passphrase=ask)
    repository.status()
    assert asked == [], "reading needs no key"
    repository.rotate("timestamp")
    assert len(asked) == 1, "asked once"
    assert b"OPENSSH" in (keys / "online-2.pem").read_bytes(), "new keys are encrypted too"
    assert stat.S_IMODE((keys / "online-2.pem").stat().st_mode) == 0o600
    before = site.joinpath("metadata", "timestamp.json").read_bytes()
    with pytest.raises(ChannelError, match="Try again, or restore the file"):
        Repository.open(site, keys, passphrase="wrong").refresh()  # noqa: S106
    with pytest.raises(ChannelError, match="EDGECL_KEY_PASSPHRASE"):
        Repository.open(site, keys).refresh()
    assert site.joinpath("metadata", "timestamp.json").read_bytes() == before
    with pytest.raises(RepositoryError):
        device(site).poll()  # another site's root


def test_metadata_is_small(published: Repository) -> None:
    """What an idle device polls: 404 for the next root, and the timestamp."""
    assert published.site.timestamp.stat().st_size < 600
    assert published.site.role_file("root", 1).stat().st_size < 4000
    assert Metadata.from_file(str(published.site.role_file("targets", 1))).signed.targets == {}
