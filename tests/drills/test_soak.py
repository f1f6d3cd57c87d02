"""A long life in small: 1,000 updates and 100,000 requests; nothing grows.

The device is a process of its own, `soak_device.py`, and the publisher is this one. The channel is
pruned as `edgecl channel prune` does it, so that its metadata do not grow.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from tests.deploy.support.sources import fast_folder, make_release, make_store
from tests.deploy.support.store_checks import tell
from tests.deploy.support.tuf_repository import PACKS, TufRepository

from edgecl_deploy.format import digest
from edgecl_deploy.store import fsck
from edgecl_deploy.store.log import LARGEST
from edgecl_deploy.store.records import Limits

UPDATES, REQUESTS = 1000, 100_000
EVERY = 3  # updates: then one poll without the channel, and one of a channel that has nothing new
TRIAL = Limits(trial_seconds=0.02)
MB = 1024 * 1024
WARM = 0.25  # share of the updates after which Python's heap has its size
GROWTH = {  # from the first third after that to the last one, at most
    "memory": 2 * MB,
    "descriptors": 0,
    "threads": 0,
    "disk": 4096,
    "files": 0,
}


class Publisher:
    """A signed channel whose newest release is the only one that it lists."""

    def __init__(self, world, folder: Path) -> None:
        self.world, self.repo = world, TufRepository(folder)

    def publish(self, number: int) -> None:
        made = make_release(self.world, number)
        data = made.release.to_bytes()
        self.repo.signed(PACKS).targets.clear()
        for manifest in (data, *made.manifests.values()):
            self.repo.add_object(manifest, "json")
        for blob in made.blobs.values():
            self.repo.add_object(blob)
        self.repo.add_channel(
            number=number, release=digest(data), size=len(data), backbone=made.release.backbone
        )
        self.repo.publish("releases", PACKS)


class Device:
    """The process that is measured."""

    def __init__(self, store: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("soak_device.py")), str(store)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def polls(self, word: object) -> dict:
        """Let it poll, and return what it says."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the device ended with {self.process.wait(60)}"
        found = json.loads(line)
        assert not found["wrong"]
        return found

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


def soak(world, folder: Path, updates: int) -> list[dict]:
    """Return what the device took after each update."""
    publisher = Publisher(world, folder / "site")
    store = make_store(
        world, folder / "store", make_release(world, 1), root=publisher.repo.root,
        url=str(folder / "site"), limits=TRIAL,
    )  # fmt: skip
    device, found = Device(store.path), []
    for number in range(2, updates + 2):
        publisher.publish(number)
        found.append(device.polls(number))
        assert found[-1]["outcome"] == "updated", found[-1]
        if number % EVERY == 0:
            assert device.polls("offline")["outcome"] == "offline"
            assert device.polls("again")["outcome"] == "up-to-date"
    device.close()
    assert fsck.check(store) == []
    assert list(store.path.rglob(".tmp-*")) == []
    return found


def thirds(found: list[dict], name: str) -> tuple[float, float]:
    """Return the medians of the first and the last third after it has warmed up."""
    values = [each[name] for each in found[int(WARM * len(found)) :]]
    count = len(values) // 3
    return median(values[:count]), median(values[-count:])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_grows(world):
    with fast_folder() as folder:
        found = soak(world, folder, UPDATES)
    requests = found[-1]["requests"]
    figures = {name: thirds(found, name) for name in GROWTH}
    text = ", ".join(
        f"{name} {before:.0f} -> {after:.0f}" for name, (before, after) in figures.items()
    )
    tell(f"{UPDATES} updates, {requests} requests: {text}, log {found[-1]['log']}")
    assert requests >= REQUESTS
    assert found[-1]["log"] <= 2 * LARGEST
    for name, (before, after) in figures.items():
        assert after - before <= GROWTH[name], text


def test_the_soak_in_smaller(world, tmp_path):
    found = soak(world, tmp_path, 6)
    assert found[-1]["requests"] >= 600
    for name in ("descriptors", "threads", "files"):
        first, last = thirds(found, name)
        assert first == last, name
