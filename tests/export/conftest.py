"""Every method, learned on a tiny backbone and shipped to ONE bundle, once a session.

Two runs per method: `trained` went through the learner; `wild` holds random values everywhere, so
that a graph that left out an injection, a bias or a task would not go unnoticed (a freshly trained
adapter does next to nothing).
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner, run_header
from edgecl.learning.records import LearnedTask, TaskRecord
from edgecl.learning.runs import Run
from edgecl.learning.training import Compute
from edgecl.methods import Method, build_method, methods
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.session import learn_stream, make_learner, new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy.files import read_bundle
from edgecl_deploy.progress import Reporter
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

TASKS = 3
CLASSES = 2  # per task

MakeRun = Callable[..., Run]
Config = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Shipped:
    """One run and what was exported of it, in both dtypes."""

    learner: Learner
    packs: dict[str, Path]
    release: dict[str, Path]


@dataclass(frozen=True)
class World:
    backbone: Backbone
    stream: Stream
    bundle: Path
    steps: tuple[Any, ...]  # what it was after each program
    exports: tuple[str, ...]  # its digest after every pack and release
    trained: dict[str, Shipped]
    wild: dict[str, Shipped]
    images: np.ndarray  # uint8 [n, h, w, 3], real and random


def random_tensor(
    item: TensorSpec, classes: int, former: int, task: int, generator: torch.Generator
) -> torch.Tensor:
    """Return values that neither vanish nor drown the features, or the count."""
    if item.counts:
        return item.count(classes)
    shape = item.shape(classes, former, task)
    if len(shape) == 1:
        return 0.2 * torch.randn(shape, generator=generator)
    # A head has its rows first; centroids are as long as the queries, so images differ in them.
    inputs = shape[-1 if item.axis_names[0] == "c" or "j" in item.axis_names else -2]
    return torch.randn(shape, generator=generator) * inputs**-0.5


def write_random_run(
    path: Path,
    method: Method,
    header: dict[str, Any],
    *,
    side: int,
    tasks: int = TASKS,
    classes: int = CLASSES,
    seed: int = 0,
) -> Run:
    """Write a run that nobody trained."""
    generator = torch.Generator().manual_seed(seed)
    declared = method.program.declare()
    run = Run.create(path, header)
    for task in range(tasks):
        names = tuple(f"class-{task}-{index}" for index in range(classes))
        part: Tensors = {
            name: random_tensor(item, classes, task * classes, task, generator)
            for name, item in declared.items()
            if item.shipped(task)
        }
        record = TaskRecord(task, f"task_{task:02d}", names, (), (1,) * classes, (), 0.0)
        shape = (1, side, side, 3)
        canary = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        run.commit(LearnedTask(record, part, {}, canary), None)
    return run


@pytest.fixture
def make_run(tiny_clip: Clip, small_config: Config, tmp_path: Path) -> MakeRun:
    """Return a function that writes a random run of a method into a fresh folder.

    `width` makes the run of a backbone that does not exist, of that width.
    """

    def make(name: str, *, out: str = "run", width: int | None = None, **options: Any) -> Run:
        spec = BackboneSpec.of(tiny_clip)
        if width is not None:
            spec = BackboneSpec(width, 11, spec.sites, "0" * 64)
        method = build_method(name, spec, small_config(name))
        header = {**run_header(method, tiny_clip, None, 0, "float32"), "protocol": "cil"}
        side = tiny_clip.visual.preprocess.size
        return write_random_run(tmp_path / out, method, header, side=side, **options)

    return make


def ship(learner: Learner, folder: Path, bundle: Path) -> tuple[Shipped, Iterator[str]]:
    """Export packs and releases in both dtypes; also return the bundle's digest after each."""
    packs, release, seen = {}, {}, []
    for dtype in ("float16", "float32"):
        packs[dtype], release[dtype] = folder / f"packs-{dtype}", folder / f"release-{dtype}"
        export_packs(learner.run, packs[dtype], dtype=dtype)
        seen.append(read_bundle(bundle).digest)
        export_release(packs[dtype], release[dtype], bundle)
        seen.append(read_bundle(bundle).digest)
    return Shipped(learner, packs, release), iter(seen)


@pytest.fixture(scope="session")
def world(
    tiny_clip: Clip,
    programs: Any,
    small_config: Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    """Return all methods, learned and shipped."""
    tiny_backbone, root = tiny_clip.visual, tmp_path_factory.mktemp("shipped")
    stream = load_stream("digits", limit_train=60, limit_test=30, tasks=TASKS)
    compute = Compute(torch.device("cpu"))
    cache = FeatureCache(None, tiny_backbone.digest)
    exports: list[str] = []
    trained: dict[str, Shipped] = {}
    wild: dict[str, Shipped] = {}
    for name in methods():
        learner = new_learner(
            root / name, name, tiny_clip, stream,
            config=small_config(name, epochs=1), seed=0, compute=compute, cache=cache,
        )  # fmt: skip
        learn_stream(learner, stream)
        trained[name], seen = ship(learner, root / f"{name}-trained", programs.bundle)
        exports += seen
        header = {**learner.run.header, "stream": None}
        del header["format"]
        side = tiny_backbone.preprocess.size
        run = write_random_run(root / f"{name}-run", learner.method, header, side=side)
        random = make_learner(run, tiny_clip, compute, Reporter(), cache)
        wild[name], _ = ship(random, root / f"{name}-wild", programs.bundle)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    real = [learner.load(task.test.subset(range(2)), "").images for task in stream.tasks]
    images = np.concatenate([*real, noise])
    return World(
        backbone=tiny_backbone,
        stream=stream,
        bundle=programs.bundle,
        steps=programs.steps,
        exports=tuple(exports),
        trained=trained,
        wild=wild,
        images=images,
    )


@pytest.fixture
def bundle(world: World, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may damage."""
    return shutil.copytree(world.bundle, tmp_path / "bundle")
