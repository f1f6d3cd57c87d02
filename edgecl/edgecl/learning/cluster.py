"""Adding up images on the machines of a Ray cluster (ADR 0063).

A shard of the images is a task of Ray: a machine opens the run, adds the shard up, and sends the
sums. The shards are the same whatever the machines, and their sums are added in their order, so the
result depends neither on who did what nor on who was killed meanwhile. Images, run and weights are
read where they are: every machine sees them under the same paths.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from edgecl.learning.learner import Learner
from edgecl.learning.records import Knowledge
from edgecl.learning.sums import AddUp, Part, StatisticsError, add_up, shards
from edgecl.program.learned import join
from edgecl.reading.reader import Reading
from edgecl.streams import ImageSet
from edgecl.streams.folders.account import FileSource
from edgecl_deploy.image_limits import most_pixels, workstation_pixels

LOCAL = "local"  # an address: a cluster of this machine, which ends with the command
RETRIES = 3  # of a shard whose worker died
AHEAD = 2  # shards for each processor that are under way: their sums wait in memory

# The folder; of each image its file there, the digest of that, its name and its label.
Shard: TypeAlias = tuple[str, tuple[str, ...], tuple[bytes, ...], tuple[str, ...], tuple[int, ...]]
Open: TypeAlias = Callable[..., Learner]  # of a path, and `device` and `reading`


@dataclass(frozen=True)
class Asked:
    """What a worker does as the command was asked to; it goes with every shard.

    Attributes:
        device: of `session.open_learner`.
        workers: threads of each worker that decode; None: the cores of its machine.
        memory: bytes of images of each worker in memory; None: as one machine has.
        max_pixels: of an image that is decoded.
    """

    device: str = "auto"
    workers: int | None = None
    memory: int | None = None
    max_pixels: int = field(default_factory=workstation_pixels)

    def reading(self) -> Reading:
        """Return how a worker reads, on its machine."""
        wanted = {"workers": self.workers, "memory": self.memory}
        return Reading(**{name: each for name, each in wanted.items() if each is not None})

    def gpus(self, there: bool) -> int:
        """Return how many GPUs a shard needs.

        Args:
            there: the cluster has some.

        Raises:
            StatisticsError: if there is none where one was asked for.
        """
        if self.device == "cuda" and not there:
            raise StatisticsError(
                "--device cuda needs a cluster with GPUs, found none that Ray knows of. Start its "
                "workers with `ray start --num-gpus N`, or use --device cpu."
            )
        return 1 if there and self.device != "cpu" else 0


def add_up_on(address: str, open_run: Open, asked: Asked | None = None) -> AddUp:
    """Return what adds up images on a cluster.

    Args:
        address: of the cluster, as `ray.init` takes it, or `local`.
        open_run: opens a run on a worker; a function of a module that the workers have.
        asked: of the workers; None: as they are.
    """
    wanted = asked or Asked()

    def add(
        learner: Learner, past: Knowledge, images: ImageSet, place: Sequence[int]
    ) -> Iterator[Part]:
        path = str(learner.run.path.resolve())
        work = [(open_run, path, wanted, shard_of(each), tuple(place)) for each in shards(images)]
        with cluster(address) as ray, learner.reporter.bar("shards", len(work)) as advance:
            there = ray.cluster_resources()
            needs = {"num_cpus": 1, "num_gpus": wanted.gpus(bool(there.get("GPU")))}
            remote = ray.remote(max_retries=RETRIES, **needs)(add_up_shard)
            processors = there["GPU"] if needs["num_gpus"] else there.get("CPU", 1)
            ahead = AHEAD * max(1, int(processors))
            waiting: deque[Any] = deque()
            for each in work:
                if len(waiting) == ahead:
                    yield _result(ray, waiting.popleft())
                    advance()
                waiting.append(remote.remote(*each))
            while waiting:
                yield _result(ray, waiting.popleft())
                advance()

    return add


def _result(ray: Any, waiting: Any) -> Part:
    """Wait for a shard.

    Raises:
        StatisticsError: if its machine cannot add it up, or died once too often.
    """
    try:
        found: Part = ray.get(waiting)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise StatisticsError(
            f"A shard must be added up by a worker that sees the run, the weights and the images "
            f"under the same paths, got {type(cause).__name__}: {str(cause).strip()[:500]}. Look "
            "at the machines of the cluster, then run the command again."
        ) from error
    return found


def shard_of(images: ImageSet) -> Shard:
    """Return where the images of a shard are.

    Raises:
        StatisticsError: if they are no files.
    """
    source = images.source
    if not isinstance(source, FileSource):
        raise StatisticsError(
            "A cluster adds up files that each of its machines sees, got images of "
            f"{type(source).__name__}. Leave --ray out, or unpack them into a folder."
        )
    files = tuple(source.names[at] for at in images.positions)
    digests = tuple(source.digests[at] for at in images.positions)
    return str(source.root.resolve()), files, digests, images.names, images.labels


def add_up_shard(
    open_run: Open, path: str, asked: Asked, shard: Shard, place: tuple[int, ...]
) -> Part:
    """Add up a shard, on a worker."""
    root, files, digests, names, labels = shard
    images = ImageSet.of(FileSource(Path(root), files, digests), labels, names)
    with most_pixels(asked.max_pixels):
        learner, past = opened(open_run, path, asked)
        return add_up(learner, join(learner.declared, past.parts), images, place)


@cache
def opened(open_run: Open, path: str, asked: Asked) -> tuple[Learner, Knowledge]:
    """Open a run, once in a process."""
    learner = open_run(path, device=asked.device, reading=asked.reading())
    return learner, learner.run.knowledge()


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine; yield the module `ray`.

    Raises:
        StatisticsError: if Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported, or started
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise StatisticsError(
            "--ray needs the package ray, got none. Install it with `pip install edgecl[ray]`."
        ) from error
    own = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # many kinds, of several libraries
        raise StatisticsError(
            f"--ray must be the address of a running cluster, or local, got {address!r} "
            f"({str(error).strip()[:300]}). Start one with `ray start --head`."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
