"""What a web server and an updater must read does not depend on the publisher's umask."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecl_export.channel import Repository


@pytest.fixture(params=[0o077, 0o027, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Return the modes of the folders, and of the files."""
    paths = [folder, *folder.rglob("*")]
    return (
        {path.stat().st_mode & 0o777 for path in paths if path.is_dir()},
        {path.stat().st_mode & 0o777 for path in paths if path.is_file() and path.name[0] != "."},
    )


@pytest.mark.parametrize("folder", [None, 0o755, 0o750, 0o2775])
def test_a_site_has_the_permissions_of_its_folder(
    tmp_path: Path, umask: None, releases: dict[int, Path], shop: Any, folder: int | None
) -> None:
    site, keys, usb = tmp_path / "site", tmp_path / "keys", tmp_path / "usb"
    if folder is not None:
        site.mkdir()
        site.chmod(folder)
    repository = Repository.create(site, keys, unencrypted=True)
    repository.publish(releases[1], shop.bundle, channel="stable")
    repository.refresh()
    repository.mirror(usb, channel="stable")
    wanted = (folder or 0o755) & 0o777
    assert modes(site) == ({wanted}, {wanted & 0o666})
    assert modes(usb) == ({wanted}, {wanted & 0o666})
    assert keys.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.pem")} == {0o600}
    assert (keys / "keys.json").stat().st_mode & 0o777 == 0o600
