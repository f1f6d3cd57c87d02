"""Tiny releases, a repository in a fresh folder, and devices that are a plain `tuf` client."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.support import world as small
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgecl_deploy.format import (
    Channel,
    channel_target,
    digest,
    object_target,
    parse_channel,
    parse_pack,
    parse_release,
)
from edgecl_deploy.store.disk import Disk
from edgecl_export.channel import Repository, keyfiles

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a passphrase be tried in a moment: half a second for each key would be minutes."""
    monkeypatch.setattr(keyfiles, "_ROUNDS", 1)


@dataclass
class Shop:
    """A bundle, and releases of the first 1 to 4 colours with canaries."""

    world: Any

    @property
    def bundle(self) -> Path:
        return self.world.bundle_path

    def release(self, count: int, number: int | None = None, **changes: Any) -> Path:
        """Make a release of the first colours; `error` spoils its canaries."""
        packs = [self.world.pack(i, (name,)) for i, name in enumerate(COLOURS[:count])]
        images = small.picture(COLOURS[count - 1], 2)
        scores = self.world.expected(images, [pack for pack, _ in packs], "plain")
        scores = scores + changes.pop("error", 0)
        canary = (images, scores) if changes.pop("canary", True) else None
        made = self.world.made(*packs, number=number or count, canary=canary, **changes)
        return made.write(self.world.fresh())


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop")
    folder = root / "bundle"
    folder.mkdir()
    weights = small.SCALE.tobytes()
    (folder / "weights.bin").write_bytes(weights)
    bundle = small.Bundle(
        backbone=small.Backbone("mean-colour", small.BACKBONE, 3),
        preprocessing=small.Preprocessing(
            small.SIDE, small.SIDE, "bicubic", (0.0,) * 3, (1.0,) * 3, (255,) * 3
        ),
        weights=small.FileRef("weights.bin", digest(weights), len(weights)),
        programs={"plain": small.write_plain(folder)},
        created_by="tests",
    )
    (folder / "bundle.json").write_bytes(bundle.to_bytes())
    return Shop(small.World(root, bundle))


@pytest.fixture(scope="session")
def releases(shop: Shop) -> dict[int, Path]:
    """Releases 1 to 4, each with one more pack than the one before."""
    return {count: shop.release(count) for count in range(1, 5)}


class Clock:
    """Seconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def sleep(self, *, hours: float = 0, days: float = 0) -> None:
        self.ahead += 3600 * (hours + 24 * days)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class QuickDisk(Disk):
    """Makes nothing durable."""

    def sync(self, path: Path) -> None:
        assert path.exists()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    """A production repository: two of three root keys, unencrypted to be quick."""
    return Repository.create(
        tmp_path / "site", tmp_path / "keys", unencrypted=True, clock=clock, disk=QuickDisk()
    )


class Files(FetcherInterface):
    """Reads a site as a web server would show it."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("site:///")
        path = self.site / name
        if not path.is_file():
            raise DownloadHTTPError(f"no {name}", 404)
        self.asked.append(name)
        return iter([path.read_bytes()])


@dataclass
class Device:
    """What a device does with python-tuf, and what it holds."""

    folder: Path
    root: bytes
    site: Path
    objects: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)  # by the last `take`
    updater: Any = None

    def poll(self, name: str = "stable") -> Channel | None:
        """Refresh, and read the channel's manifest; every error of tuf is the caller's."""
        files = Files(self.site)
        (self.folder / "tuf").mkdir(parents=True, exist_ok=True)
        self.updater = Updater(
            str(self.folder / "tuf"),
            "site:///metadata/",
            target_base_url="site:///targets/",
            fetcher=files,
            bootstrap=self.root,
        )
        self.updater.refresh()
        data = self.download(channel_target(name))
        self.fetched = files.asked
        return None if data is None else parse_channel(data)

    def download(self, target: str) -> bytes | None:
        info = self.updater.get_targetinfo(target)
        if info is None:
            return None
        return Path(self.updater.download_target(info, str(self.folder / "file"))).read_bytes()

    def take(self, name: str = "stable") -> int:
        """Fetch what the channel's release needs and the device lacks; return its number."""
        channel = self.poll(name)
        assert channel is not None
        data = self.object(channel.publisher, channel.release, "json")
        assert len(data) == channel.size
        release = parse_release(data)
        blobs = set(release.blobs)
        for pack in release.packs:
            blobs |= set(parse_pack(self.object(channel.publisher, pack, "json")).blobs)
        for blob in blobs:
            self.object(channel.publisher, blob, "safetensors")
        assert release.number == channel.number
        return release.number

    def object(self, publisher: str, sha256: str, kind: Any) -> bytes:
        if sha256 not in self.objects:
            data = self.download(object_target(publisher, sha256, kind))
            assert data is not None, "the publisher's role lists it"
            assert digest(data) == sha256, "two roles agree"
            self.objects[sha256] = data
        return self.objects[sha256]


MakeDevice = Callable[..., Device]


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> MakeDevice:
    """Return a function that makes a device; it trusts the root that `init` wrote."""
    count = itertools.count()

    def make(site: Path | None = None) -> Device:
        folder = tmp_path / f"device-{next(count)}"
        return Device(folder, repository.root_file.read_bytes(), site or repository.site.path)

    return make


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that reads every file under a folder."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    return read
