"""Files of private keys: hard to guess, closed to others, and encrypted anew when asked."""

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from edgecl_export.channel import Repository, keyfiles
from edgecl_export.errors import ChannelError

WORDS, NEW = "open sesame, please", "another set of words"


@pytest.fixture
def locked(tmp_path: Path, clock: Any) -> Repository:
    """Return a repository whose keys have a passphrase."""
    return Repository.create(tmp_path / "site", tmp_path / "keys", passphrase=WORDS, clock=clock)


def opened(repository: Repository, words: str | None, **options: Any) -> Repository:
    return Repository.open(
        repository.site.path, repository.keys.folder, passphrase=words, **options
    )


def test_a_guess_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the rounds that are shipped
    pem = keyfiles.private_pem(Ed25519PrivateKey.generate(), WORDS)
    data = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert data.startswith(b"openssh-key-v1\0")
    assert b"bcrypt" in data
    place = data.index(b"bcrypt") + len(b"bcrypt") + 4
    (salt,) = struct.unpack_from(">I", data, place)
    assert struct.unpack_from(">I", data, place + 4 + salt)[0] >= 24  # ssh-keygen's own number


@pytest.mark.parametrize("words", ["x", "short", "eleven char", "aaaaaaaaaaaaaaaaaaaa"])
def test_an_easy_passphrase_is_refused(tmp_path: Path, locked: Repository, words: str) -> None:
    with pytest.raises(ChannelError, match="Take several words") as caught:
        Repository.create(tmp_path / "other", tmp_path / "other-keys", passphrase=words)
    assert words not in str(caught.value)
    assert not (tmp_path / "other-keys").exists()
    with pytest.raises(ChannelError, match="Take several words"):
        locked.protect(words)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("words", [WORDS, None])
def test_a_key_that_others_may_read_is_not_used(
    tmp_path: Path, words: str | None, mode: int
) -> None:
    site, keys = tmp_path / "site", tmp_path / "keys"
    Repository.create(site, keys, passphrase=words, unencrypted=words is None)
    (keys / "online-1.pem").chmod(mode)
    with pytest.raises(ChannelError, match=f"found the mode {mode:04o}. Run `chmod 600`"):
        Repository.open(site, keys, passphrase=words).refresh()
    (keys / "online-1.pem").chmod(0o600)
    Repository.open(site, keys, passphrase=words).refresh()


def test_a_folder_that_others_may_write_is_not_used(repository: Repository) -> None:
    repository.keys.folder.chmod(0o770)
    with pytest.raises(ChannelError, match="Run `chmod 700`"):
        opened(repository, None)


def test_a_medium_without_permissions_may_hold_an_encrypted_key(tmp_path: Path) -> None:
    """FAT shows every file with the mode of the mount."""
    for words in (WORDS, None):
        folder = tmp_path / str(words)
        site, keys, stick = folder / "site", folder / "keys", folder / "stick"
        Repository.create(site, keys, passphrase=words, unencrypted=words is None)
        stick.mkdir()
        for name in ("root-1.pem", "root-2.pem"):
            (keys / name).rename(stick / name)
            (stick / name).chmod(0o755)
        extra = [f"file2:{stick}/root-{number}.pem" for number in (1, 2)]
        if words is None:
            with pytest.raises(ChannelError, match="Run `chmod 600`"):
                Repository.open(site, keys, extra_keys=extra).rotate("timestamp")
        else:
            repository = Repository.open(site, keys, passphrase=words, extra_keys=extra)
            repository.rotate("timestamp")


def test_keys_get_another_passphrase(locked: Repository) -> None:
    done = opened(locked, WORDS).protect(NEW)
    assert len(done) == 9
    opened(locked, NEW).refresh(everything=True)
    with pytest.raises(ChannelError, match="wrong one"):
        opened(locked, WORDS).refresh()
    assert {path.stat().st_mode & 0o777 for path in done} == {0o600}


def test_keys_of_a_publisher_without_one_get_a_passphrase(repository: Repository) -> None:
    repository.protect(NEW)
    with pytest.raises(ChannelError, match="EDGECL_KEY_PASSPHRASE"):
        opened(repository, None).refresh()
    again = opened(repository, NEW)
    again.rotate("packs-lab")
    assert b"OPENSSH" in (again.keys.folder / "packs-lab-2.pem").read_bytes()


def test_an_interrupted_change_of_the_passphrase_is_repeated(
    locked: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = keyfiles.write_private, [4]

    def fail(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the power is gone")
        real(*arguments)

    monkeypatch.setattr(keyfiles, "write_private", fail)
    with pytest.raises(OSError, match="power"):
        opened(locked, WORDS).protect(NEW)
    monkeypatch.undo()
    monkeypatch.setattr(keyfiles, "_ROUNDS", 1)
    opened(locked, WORDS).protect(NEW)
    opened(locked, NEW).refresh(everything=True)


def test_keys_with_pbkdf2_open_and_status_asks_to_protect_them(locked: Repository) -> None:
    path = locked.keys.folder / "online-1.pem"
    private = keyfiles.read_private(path, lambda: WORDS, strict=True)
    weak = BestAvailableEncryption(WORDS.encode())
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, weak))
    old = opened(locked, WORDS)
    old.refresh()
    found = old.status()
    assert found.code == 3
    assert "the files of 1 keys are encrypted with PBKDF2" in found.problems[0]
    old.protect(NEW)
    assert opened(locked, NEW).status().code == 0
