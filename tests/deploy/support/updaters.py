"""Updates from processes of their own: a channel in a folder, and the programs that poll it."""

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.support.sources import PUBLISHER, Fresh, objects_of, passes
from tests.deploy.support.world import Made

from edgecl_deploy.errors import UntrustedError
from edgecl_deploy.format import Channel, digest, parse_channel
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.trust import Trust

CHANNEL = "channel.json"


class FolderSource:
    """A `Source` over a folder of objects: quick, because nothing is signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received = 0

    def publish(self, made: Made) -> None:
        """Let the channel name a release; the channel's manifest changes last and in one step."""
        self.folder.mkdir(exist_ok=True)
        for name, data in objects_of(made).items():
            (self.folder / name).write_bytes(data)
        data = made.release.to_bytes()
        channel = Channel(
            "stable", made.release.number, digest(data), len(data), PUBLISHER,
            made.release.backbone, 0,
        )  # fmt: skip
        temporary = self.folder / f"{CHANNEL}.new"
        temporary.write_bytes(channel.to_bytes())
        temporary.replace(self.folder / CHANNEL)

    def refresh(self) -> Fresh:
        return Fresh()

    def channel(self, name: str) -> Channel:
        return parse_channel((self.folder / CHANNEL).read_bytes())

    def fetch(self, target: str, sha256: str, size: int | None, to: Path) -> None:
        shutil.copy(self.folder / sha256, to)
        self.received += to.stat().st_size
        if digest(to.read_bytes()) != sha256:
            raise UntrustedError(f"{target} must be {sha256}", "other bytes", "Tell the publisher.")


class Careless(Disk):
    """Writes that need not outlive a power cut: a test of speed does not wait for the disk."""

    def sync(self, path: Path) -> None:
        pass


@dataclass
class Child:
    """A process of this module, and the pipe to it."""

    process: Any
    pipe: Any

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def start(work: Callable[..., None], *arguments: object) -> Child:
    """Run a function of a module in a new interpreter; its first argument is the pipe to us."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


def one_by_one(pipe: Any, store: Path, releases: list[tuple[Path, Made]]) -> None:
    """Publish each release, install it, and go on when the other side has taken it."""
    own = Store.open(store, Careless())
    pipe.send("ready")
    for folder, made in releases:
        if pipe.recv() != "go":
            return
        source = FolderSource(folder)
        source.publish(made)
        result = update(own, source, test=passes)
        pipe.send((result.outcome.word, result.release))


def poll(pipe: Any, store: Path, root: bytes, url: str, polls: int, pause: float) -> None:
    """Poll a signed channel `polls` times, up to `pause` seconds apart; write how each ended."""
    own = Store.open(store)
    source = Trust(store, root, url)
    pipe.send("ready")
    pipe.recv()
    begin, ends = time.monotonic(), []
    for i in range(polls):
        result = update(own, source, test=passes)
        ends.append((result.outcome.word, result.release, result.reason))
        time.sleep(pause * ((os.getpid() + 7 * i) % 11) / 10)
    pipe.send((ends, time.monotonic() - begin))


def hold(pipe: Any, store: Path) -> None:
    """Take the lock and keep it."""
    with Store.open(store).lock():
        pipe.send(os.getpid())
        pipe.recv()
