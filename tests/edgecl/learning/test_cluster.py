"""Adding up on a Ray cluster: the sums of one machine, whoever dies meanwhile; nothing is sent."""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from edgecl import session
from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cli.statistics import read_statistics, stats
from edgecl.learning import cluster, sums
from edgecl.learning.cluster import Asked, add_up_on
from edgecl.learning.learner import Learner, LearnerError
from edgecl.learning.sums import StatisticsError
from edgecl.reading.reader import Reading
from edgecl.session import learn_task, new_learner, statistics_of
from edgecl.streams import ArraySource, ImageSet, load_stream
from edgecl_deploy.format import Statistics
from edgecl_deploy.image_limits import workstation_pixels

MakeFolders = Callable[..., Path]
USAGE = "RAY_USAGE_STATS_ENABLED"


@pytest.fixture
def learner(
    make_folders: MakeFolders,
    tiny_backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Learner:
    """Return a run of one task that other processes can open."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sums, "SHARD", 4)
    monkeypatch.setenv(USAGE, "")  # so that it is put back
    monkeypatch.delenv(USAGE)
    stream = load_stream(str(make_folders({"hue-0": 0, "hue-1": 1}, root="first")), increment=2)
    cache = FeatureCache(None, tiny_backbone.digest)
    learner = new_learner(tmp_path / "run", "lda", tiny_backbone, stream, cache=cache)
    learn_task(learner, stream.tasks[0], stream.classes)
    learner.run.change(stream_tasks=1)
    return learner


@pytest.fixture
def images(make_folders: MakeFolders) -> Path:
    return make_folders({"hue-1": 1, "hue-5": 5, "hue-7": 7}, count=7, root="more")


def same(found: Statistics, wanted: Statistics) -> None:
    assert (found.classes, found.sources) == (wanted.classes, wanted.sources)
    np.testing.assert_allclose(found.sums, wanted.sums, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.gram, wanted.gram, rtol=1e-9, atol=1e-12)


# -- with a stand-in, in a moment


class RayError(Exception):
    pass


class Here(ModuleType):
    """Stands in for Ray: one process; `under_way` is the largest number of shards at once."""

    def __init__(self, resources: dict[str, float], broken: Exception | None = None) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.resources, self.broken = resources, broken
        self.asked: list[object] = []
        self.now = self.under_way = 0
        self.up = False

    def init(self, address: str, **options: object) -> None:
        if address not in {"local", "head:6379"}:
            raise ConnectionError(f"nobody listens at {address}")
        self.up = True
        self.asked.append((address, options, os.environ.get(USAGE)))

    def shutdown(self) -> None:
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: object) -> Callable[..., object]:
        self.asked.append(options)

        def wrap(work: Callable[..., object]) -> object:
            def submit(*arguments: object) -> Callable[[], object]:
                self.now += 1
                self.under_way = max(self.under_way, self.now)
                return lambda: work(*arguments)

            return SimpleNamespace(remote=submit)

        return wrap

    def get(self, waiting: Callable[[], object]) -> object:
        self.now -= 1
        if self.broken is not None:
            error = RayError("a worker died")
            error.cause = self.broken  # type: ignore[attr-defined]
            raise error
        return waiting()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Here]]:
    cluster.opened.cache_clear()

    def make(broken: Exception | None = None, **resources: float) -> Here:
        found = Here(resources, broken)
        monkeypatch.setitem(sys.modules, "ray", found)
        return found

    yield make
    cluster.opened.cache_clear()


@pytest.mark.parametrize(("resources", "needs"), [({"CPU": 1}, 0), ({"CPU": 2, "GPU": 1}, 1)])
def test_a_cluster_adds_up_what_one_machine_does(
    learner: Learner,
    images: Path,
    ray: Callable[..., Here],
    resources: dict[str, float],
    needs: int,
) -> None:
    found_ray = ray(**resources)
    found = statistics_of(learner, images, add_up_on("head:6379", session.open_learner))
    same(found, statistics_of(learner, images))
    first, options = found_ray.asked
    assert first == ("head:6379", {"log_to_driver": False, "logging_level": "ERROR"}, "0")
    assert options == {"max_retries": 3, "num_cpus": 1, "num_gpus": needs}
    assert found_ray.under_way == cluster.AHEAD  # six shards: not all at once
    assert not found_ray.up


def test_the_command_takes_an_address(
    learner: Learner, images: Path, ray: Callable[..., Here], tmp_path: Path
) -> None:
    ray(CPU=2)
    given = [str(learner.run.path), str(images), "-o", str(tmp_path / "sums"), "--ray", "local"]
    told = CliRunner().invoke(stats, given, catch_exceptions=False)
    assert "21 images of 3 classes" in told.stdout
    same(read_statistics(tmp_path / "sums", 10**9), statistics_of(learner, images))


def test_a_worker_does_as_the_command_was_asked(
    learner: Learner,
    images: Path,
    ray: Callable[..., Here],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And an image that it skips is named where the command was given."""
    found = ray(CPU=2, GPU=1)
    seen = []
    (images / "hue-5" / "000.png").write_bytes(b"no image")
    whole = images / "hue-5" / "001.png"
    whole.write_bytes(whole.read_bytes()[:-60])  # what a header does not show
    there = session.open_learner

    def opened(path: str | Path, **options: object) -> Learner:
        seen.append((options["device"], options["reading"], workstation_pixels()))
        return there(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "open_learner", opened)
    out = str(tmp_path / "sums")
    given = [str(learner.run.path), str(images), "-o", out, "--ray", "local", "--device", "cpu"]
    given += ["--workers", "1", "--image-memory", "5M", "--max-pixels", "5000"]
    told = CliRunner().invoke(stats, given, catch_exceptions=False)
    wanted = ("cpu", Reading(1, 5_000_000), 5000)
    assert seen == [wanted, wanted]  # the machine that asks, one worker
    assert found.asked[1]["num_gpus"] == 0  # type: ignore[index]
    assert "19 images of 3 classes, 2 skipped" in told.stdout
    assert told.stdout.count("  skipped: ") == 2
    alone = CliRunner().invoke(stats, [*given[:4], "--json"], catch_exceptions=False)
    lines = json.loads(alone.stdout)["skipped"]
    assert [f"  skipped: {each}" for each in lines] == told.stdout.splitlines()[1:]
    # a limit of a worker's own process is not that of the command
    add = add_up_on("local", opened, Asked(max_pixels=5))
    with pytest.raises(LearnerError, match="readable training image"):
        statistics_of(learner, images, add, seen.append)
    assert "at most 5 pixels" in str(seen[-1]) or "1 to 5 pixels" in str(seen[-1])


def test_who_wants_ray_s_statistics_keeps_them(
    learner: Learner, images: Path, ray: Callable[..., Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USAGE, "1")
    found = ray(CPU=2)
    statistics_of(learner, images, add_up_on("local", session.open_learner))
    assert found.asked[0][2] == "1"  # type: ignore[index]


def test_what_cannot_be_added_up_is_told(
    learner: Learner, images: Path, ray: Callable[..., Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ray(CPU=2, broken=FileNotFoundError("/data/run"))
    with pytest.raises(StatisticsError, match="got FileNotFoundError: /data/run"):
        statistics_of(learner, images, add_up_on("local", session.open_learner))
    assert not broken.up
    with pytest.raises(StatisticsError, match=r"nobody listens at nowhere:1.*ray start --head"):
        statistics_of(learner, images, add_up_on("nowhere:1", session.open_learner))
    ray(CPU=2)
    with pytest.raises(StatisticsError, match="needs a cluster with GPUs, found none"):
        statistics_of(learner, images, add_up_on("local", session.open_learner, Asked("cuda")))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StatisticsError, match=r"pip install edgecl\[ray\]"):
        statistics_of(learner, images, add_up_on("local", session.open_learner))
    in_memory = ImageSet.of(ArraySource(np.zeros((1, 8, 8), np.uint8)), [0], ["one"])
    with pytest.raises(StatisticsError, match="Leave --ray out"):
        cluster.shard_of(in_memory)


# -- with Ray


def dying(path: str, **asked: object) -> Learner:
    """Open a run; the first process that does is killed, and leaves what Ray was told there."""
    mark = Path(path) / "died"
    if not mark.exists():
        mark.write_text(os.environ.get(USAGE, "nothing"))
        os.kill(os.getpid(), signal.SIGKILL)
    return session.open_learner(path, **asked)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not here: `pip install edgecl[ray]`"
)
@pytest.mark.filterwarnings("ignore")  # Ray's own, of many kinds
def test_two_workers_of_which_one_is_killed(
    learner: Learner, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a token there
    wanted = statistics_of(learner, images)
    found = statistics_of(learner, images, add_up_on("local", dying))
    same(found, wanted)
    assert (learner.run.path / "died").read_text() == "0"
