"""Storms: commands that are killed at random, and a disk that somebody fills and frees.

Nothing may be denied wrongly, nothing damaged, nothing left to mend by hand.
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.deploy.support.fleet import COMMAND
from tests.deploy.support.rot import Rot
from tests.deploy.support.sources import fast_folder
from tests.deploy.support.store_checks import tell
from tests.deploy.support.world import World

from edgecl_deploy.store import fsck
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.metadata import check_metadata
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.poll import poll

COMMANDS = [
    ["update"], ["update"], ["update"], ["rollback", "--keep"], ["gc"], ["fsck", "--repair"],
    ["pin", "--off"], ["config", "attempts=3"],
]  # fmt: skip
ROUNDS = int(os.environ.get("EDGECL_STORM_ROUNDS", "80"))  # commands of a storm
TOO_FULL = {0, 1, 3, Outcome.NO_SPACE.value, Outcome.DENIED.value, Outcome.UP_TO_DATE.value}


class Storm:
    """A device that follows a signed channel; releases come, commands run."""

    def __init__(self, world, folder: Path) -> None:
        self.rot = Rot(world, folder / "rot")
        self.world, self.number = world, 5
        self.path = folder / "rot" / "seed"
        self.rng = random.Random(7)  # noqa: S311  not a secret
        self.statuses: dict[int, int] = {}

    def publish(self) -> None:
        self.number += 1
        self.rot.offer(self.world, self.number)

    def start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        name, *more = command
        return subprocess.Popen(
            [*COMMAND, name, str(self.path), *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        _, errors = process.communicate(timeout=120)
        assert b"Traceback" not in errors, errors.decode()
        status = process.returncode
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def check(self) -> None:
        """Nobody mends anything: the next polls do."""
        store = Store.open(self.path)
        self.publish()
        for _ in range(3):
            result = poll(store).result
        assert result.outcome is Outcome.UP_TO_DATE, result.reason
        assert result.release == self.number
        assert store.denied.releases.keys() == self.rot.denied.releases.keys()
        assert fsck.check(store) == []
        assert check_metadata(store) == []
        left = [path.name for path in store.path.rglob(".tmp-*")]
        assert left == []


@pytest.mark.slow
@pytest.mark.timeout(1800 + 10 * ROUNDS)
def test_a_kill_storm(world):
    with fast_folder() as folder:
        storm, kills = Storm(world, folder), 0
        for number in range(ROUNDS):
            if number % 4 == 0:
                storm.publish()
            process = storm.start(storm.rng.choice(COMMANDS))
            if storm.rng.random() < 0.6:
                time.sleep(storm.rng.uniform(0.05, 0.7))
                kills += process.poll() is None
                process.send_signal(signal.SIGKILL)
            storm.end(process)
        storm.check()
    tell(f"{ROUNDS} commands, {kills} kills; statuses {dict(sorted(storm.statuses.items()))}")


@contextmanager
def small_disk():
    """A file system of 48 MB in memory, which needs root and namespaces or mounts."""
    place = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"edgecl-{os.getpid()}"  # noqa: S108
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m,mode=755", "none", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def fill(folder: Path, stop: threading.Event, rng: random.Random) -> None:
    """Fill the disk to the last byte, wait, free it, wait, and so on."""
    path = folder / "filler"
    while not stop.is_set():
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(b"\1" * 65536) == 65536:
                pass
            file.write(b"\1")
        stop.wait(rng.uniform(0.1, 2.0))
        path.unlink(missing_ok=True)
        stop.wait(rng.uniform(0.1, 2.0))


@pytest.mark.slow
@pytest.mark.timeout(1800 + 10 * ROUNDS)
def test_a_disk_that_is_full_now_and_then(world):
    with small_disk() as disk:
        shutil.copytree(world.bundle_path, disk / "bundle")
        storm = Storm(World(disk, world.bundle), disk)
        stop = threading.Event()
        with fast_folder() as site:  # the channel has room
            shutil.move(storm.rot.repo.folder, site / "site")
            storm.rot.repo.folder.symlink_to(site / "site")
            filler = threading.Thread(target=fill, args=(disk, stop, storm.rng))
            filler.start()
            try:
                for number in range(ROUNDS):
                    if number % 4 == 0:
                        storm.publish()
                    storm.end(storm.start(storm.rng.choice(COMMANDS)))
            finally:
                stop.set()
                filler.join()
            storm.check()
    tell(f"{ROUNDS} commands on a disk that fills; statuses {dict(sorted(storm.statuses.items()))}")
    assert set(storm.statuses) - TOO_FULL <= {Outcome.FAILED.value, Outcome.UPDATED.value}
