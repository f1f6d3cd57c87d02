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
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from edgecl.learning.learner import Learner
from edgecl.learning.records import Knowledge
from edgecl.learning.sums import AddUp, Part, StatisticsError, add_up, shards
from edgecl.program.learned import join
from edgecl.streams import ImageSet
from edgecl.streams.folders.account import FileSource

LOCAL = "local"  # an address: a cluster of this machine, which ends with the command
RETRIES = 3  # of a shard whose worker died
AHEAD = 2  # shards for each processor that are under way: their sums wait in memory

# The folder; of each image its file there, the digest of that, its name and its label.
Shard: TypeAlias = tuple[str, tuple[str, ...], tuple[bytes, ...], tuple[str, ...], tuple[int, ...]]
Open: TypeAlias = Callable[[str], Learner]


def add_up_on(address: str, open_run: Open) -> AddUp:
    """Return what adds up images on a cluster.

    Args:
        address: of the cluster, as `ray.init` takes it, or `local`.
        open_run: opens a run on a worker; a function of a module that the workers have.
    """

    def add(
        learner: Learner, past: Knowledge, images: ImageSet, place: Sequence[int]
    ) -> Iterator[Part]:
        path = str(learner.run.path.resolve())
        work = [(open_run, path, shard_of(each), tuple(place)) for each in shards(images)]
        with cluster(address) as ray, learner.reporter.bar("shards", len(work)) as advance:
            there = ray.cluster_resources()
            needs = {"num_cpus": 1, "num_gpus": 1 if there.get("GPU") else 0}
            remote = ray.remote(max_retries=RETRIES, **needs)(add_up_shard)
            ahead = AHEAD * max(1, int(there.get("GPU") or there.get("CPU", 1)))
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


def add_up_shard(open_run: Open, path: str, shard: Shard, place: tuple[int, ...]) -> Part:
    """Add up a shard, on a worker."""
    learner, past = opened(open_run, path)
    root, files, digests, names, labels = shard
    images = ImageSet.of(FileSource(Path(root), files, digests), labels, names)
    return add_up(learner, join(learner.declared, past.parts), images, place)


@cache
def opened(open_run: Open, path: str) -> tuple[Learner, Knowledge]:
    """Open a run, once in a process."""
    learner = open_run(path)
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
