"""A channel without a network: releases of the toy World in memory, with faults to order."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.deploy.support.world import COLOURS, Made, World, picture

from edgecl_deploy.errors import UntrustedError
from edgecl_deploy.format import Channel, digest
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.records import Config, Limits
from edgecl_deploy.store.store import Store

PUBLISHER = "lab"
MEMORY = Path("/dev/shm")  # noqa: S108  a file system in memory, where there is one
QUICK = Limits(trial_seconds=0, untested=True)  # a trial that only reads what was reported so far


@dataclass
class Fresh:
    """The outcome of a refresh."""

    clock: str = "ok"
    development: bool = False


class MemorySource:
    """A `Source` over dicts: it verifies what it gives, as the real one does.

    `faults` maps the number of an operation (0, 1, ...; `refresh`, `channel` and `fetch` count,
    over the life of the source) to what happens instead: an exception is raised; bytes are given
    instead of the right ones, and refused if their digest is not the one asked for.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.channels: dict[str, Channel] = {}
        self.fresh = Fresh()
        self.faults: dict[int, BaseException | bytes] = {}
        self.operations = 0
        self.fetched: list[str] = []  # digests
        self.received = 0

    def publish(self, made: Made, *, channel: str = "stable", **fields: Any) -> Channel:
        """Let a channel name a release; `fields` are those of `Channel`."""
        data = made.release.to_bytes()
        self.objects |= {digest(data): data, **made.manifests, **made.blobs}
        own = {
            "name": channel,
            "number": made.release.number,
            "release": digest(data),
            "size": len(data),
            "publisher": PUBLISHER,
            "backbone": made.release.backbone,
            "created": 0,
        }
        self.channels[channel] = Channel(**{**own, **fields})
        return self.channels[channel]

    def fail(self, after: int, fault: BaseException | bytes) -> None:
        """Order a fault: `after` operations from now on go well."""
        self.faults[self.operations + after] = fault

    def refresh(self) -> Fresh:
        self._next()
        return self.fresh

    def channel(self, name: str) -> Channel:
        self._next()
        return self.channels[name]

    def fetch(self, target: str, sha256: str, size: int | None, to: Path) -> None:
        data = self._next()
        if data is None:
            data = self.objects[sha256]
        self.received += len(data)
        if digest(data) != sha256 or size not in {None, len(data)}:
            raise UntrustedError(f"{target} must be {sha256}", digest(data), "Tell the publisher.")
        with to.open("xb") as file:
            file.write(data)
        self.fetched.append(sha256)

    def _next(self) -> bytes | None:
        fault = self.faults.pop(self.operations, None)
        self.operations += 1
        if isinstance(fault, BaseException):
            raise fault
        return fault


def make_release(
    world: World, number: int, *, tasks: int = 2, wrong: float = 0.0, canary: bool = True
) -> Made:
    """Make a release of `tasks` packs whose last one, and canaries, no other number has.

    `wrong` is added to the expected scores: with 1.0 the self-test refuses it.
    """
    names = list(COLOURS)[:tasks]
    packs, prototypes = [], []
    for task, name in enumerate(names):
        array = world.tensors(task, (name,), "plain")["prototypes"]
        if task == tasks - 1:
            array = array * (1 - number / 1024)
        prototypes.append(array.astype(np.float16).astype(np.float32))
        packs.append(world.pack(task, (name,), tensors={"prototypes": array}))
    if not canary:
        return world.made(*packs, number=number)
    images = np.concatenate([picture(name, 1) for name in names])
    colours = images.astype(np.float32).mean((1, 2)) / 255
    scores = colours @ np.concatenate(prototypes).T + wrong
    return world.made(*packs, number=number, canary=(images, scores.astype(np.float32)))


def release_digest(made: Made) -> str:
    """The name of a release: the digest of its release.json."""
    return digest(made.release.to_bytes())


def objects_of(made: Made) -> dict[str, bytes]:
    """Every object of a release, by digest."""
    data = made.release.to_bytes()
    return {digest(data): data, **made.manifests, **made.blobs}


def make_store(
    world: World,
    path: Path,
    factory: Made | Path | None = None,
    *,
    disk: Disk | None = None,
    now: Any = None,
    limits: Limits = QUICK,
    kind: type[Store] = Store,
    root: bytes = b"{}",
    **config: Any,
) -> Store:
    """Make a store for the World's bundle; `config` are fields of `Config`."""
    own = {"url": "memory:", "channel": "stable", "device": "device-1", "limits": limits}
    release = factory.write(world.fresh()) if isinstance(factory, Made) else factory
    clock = {} if now is None else {"now": now}
    return kind.create(
        path, Config(str(world.bundle_path), **{**own, **config}), root, release, disk, **clock
    )


class Quick(Disk):
    """A disk that syncs nothing: for tests that cut no power."""

    def sync(self, path: Path) -> None:
        """Do nothing."""


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory, if there is one; it is removed in the end."""
    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="edgecl-", dir=parent) as folder:
        yield Path(folder)


def passes(store: Store, generation: Any) -> None:
    """A self-test that finds nothing wrong, at once."""


def fails(store: Store, generation: Any) -> str:
    """A self-test that finds something wrong, at once."""
    return "the test says no"


def refuse(store: Store, *, before: int = 12) -> None:
    """Report against every generation of the near future: every trial fails, by its own fault."""
    for number in range(before):
        if number > (store.current() or 0):
            Reporter(store.path).write(Report(number, error="it sees nothing"))
