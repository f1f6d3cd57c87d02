"""A publication or a key command that stops at any file operation: the old state, and a retry."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import RepositoryError

from edgecl_deploy.store.disk import Disk
from edgecl_export.channel import Repository
from edgecl_export.channel.publish import publish, try_release
from edgecl_export.errors import ChannelError


class StopError(Exception):
    """The machine stops here."""


class Stopping(Disk):
    """Stops before the operation of a number; a write is half done then."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _step(self) -> bool:
        self.left -= 1
        return self.left < 0

    def write(self, path: Path, data: bytes) -> None:
        stopped = self._step()
        super().write(path, data[: len(data) // 2] if stopped else data)
        if stopped:
            raise StopError

    def sync(self, path: Path) -> None:
        if self._step():
            raise StopError

    def rename(self, source: Path, target: Path) -> None:
        if self._step():
            raise StopError
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        if self._step():
            raise StopError
        super().remove(path)

    def folder(self, path: Path) -> None:
        if self._step():
            raise StopError
        super().folder(path)


@pytest.fixture
def copied(repository: Repository, tmp_path: Path) -> Callable[..., Repository]:
    """Return a function that makes a copy of the repository on a disk that stops."""

    def copy(at: int | None) -> Repository:
        target = tmp_path / f"copy-{at}"
        if not target.exists():
            shutil.copytree(repository.site.path, target / "site")
            shutil.copytree(repository.keys.folder, target / "keys")
        disk = None if at is None else Stopping(at)
        return Repository.open(target / "site", target / "keys", disk=disk)

    return copy


def retry(stopped: Repository) -> Repository:
    return Repository.open(stopped.site.path, stopped.keys.folder, disk=Stopping(10**9))


def test_a_publication_stops_anywhere(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, copied: Any
) -> None:
    """Until timestamp.json is replaced a device sees release 1, afterwards release 2."""
    repository.publish(releases[1], shop.bundle, channel="stable")
    tested = try_release(releases[2], shop.bundle)

    def add(target: Repository) -> None:
        with target.change() as draft:
            publish(
                draft, tested, "stable", publisher=None, rollout=None, min_release=0, purge=False,
                notes="", force=False,
            )  # fmt: skip

    seen = []
    for at in range(500):
        stopping = copied(at)
        phone = device(stopping.site.path)
        assert phone.poll().number == 1
        try:
            add(stopping)
        except StopError:
            seen.append(phone.poll().number)
            if at % 5 == 0 or seen[-1] == 2:
                assert device(stopping.site.path).take() == seen[-1], "a new device sees the same"
            if seen[-1] == 1:
                add(retry(stopping))
            assert phone.take() == 2
            assert not list(stopping.site.path.rglob(".tmp-*"))
        else:
            break
    assert len(seen) > 30
    assert seen == sorted(seen), "the switch is one operation"
    assert seen.count(2) == 1, "only the last sync of the folder comes after it"


@pytest.mark.parametrize("role", ["timestamp", "targets", "root", "releases"])
def test_a_rotation_stops_anywhere(
    repository: Repository,
    releases: dict[int, Path],
    shop: Any,
    device: Any,
    copied: Any,
    role: str,
) -> None:
    """With the old key at hand no moment is invalid; running it again always ends well."""
    repository.publish(releases[1], shop.bundle, channel="stable")
    stops = 0
    for at in range(500):
        stopping = copied(at)
        phone = device(stopping.site.path)
        phone.take()
        try:
            stopping.rotate(role)
        except StopError:
            stops += 1
            assert phone.take() == 1
            again = retry(stopping)
            again.rotate(role)
            assert again.halt("stable").halted
            assert phone.poll().halted
        else:
            break
    assert stops >= 5


def test_a_rotation_of_a_lost_key_stops_anywhere(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, copied: Any
) -> None:
    """No order of files is valid throughout: for a moment devices refuse what they are given."""
    repository.publish(releases[1], shop.bundle, channel="stable")
    (repository.keys.folder / "online-1.pem").unlink()
    broken = []
    for at in range(500):
        stopping = copied(at)
        phone = device(stopping.site.path)
        phone.take()
        try:
            stopping.rotate("timestamp")
        except StopError:
            try:
                assert phone.take() == 1
                broken.append(False)
            except RepositoryError:
                broken.append(True)
                with pytest.raises(ChannelError, match="`edgecl channel refresh` finishes"):
                    retry(stopping).status()
            again = retry(stopping)
            again.refresh() if broken[-1] else again.rotate("timestamp")
            assert again.halt("stable").halted
            assert phone.poll().halted
        else:
            break
    assert broken == [*sorted(broken[:-1]), False], "then the timestamp ends it"
    assert 1 <= sum(broken) <= 6
