"""A world in small for the learner's tests: a tiny random ViT and streams of coloured images."""

import colorsys
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tests.shapes  # noqa: F401 - before any module of edgecl, whose shapes it enforces
import torch
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from edgecl.backbones import (
    Backbone,
    Clip,
    TextConfig,
    TextTower,
    Tokenizer,
    load_backbone,
    loaders,
)
from edgecl.backbones.digest import Identity
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.methods import build_method, methods
from edgecl.session import new_learner
from edgecl.streams import ArraySource, ImageSet, Stream, Task
from edgecl_deploy.engines import Graph
from edgecl_deploy.engines._onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSession
from edgecl_export.bundle import export_program
from edgecl_export.graphs import trace
from edgecl_export.weights import WEIGHTS_FILE

settings.register_profile("shared", deadline=None)  # the machine has other work, too
settings.load_profile("shared")

SIDE = 32
HUES = 6
SMALL = 64  # the largest size that a test gives to a method
MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]


# What shares the programs of all methods, which take minutes to export: one worker exports them
# and runs it all. pytest-xdist's own groups (`xdist_group`) have no effect under pytest 9.2: the
# hook of xdist 3.8 that reads them is not called.
TOGETHER = tuple(
    f"tests/{name}.py"
    for name in (
        "e2e/test_path",
        *(
            f"export/test_{room}"
            for room in (
                "bundle",
                "cli",
                "engines",
                "enrolment",
                "golden",
                "half",
                "licence",
                "pack",
                "parity",
                "quantize",
                "release",
                "simplify",
                "targets",
                "unknown",
                "verify",
            )
        ),
    )
)


class ByFixture(LoadScopeScheduling):
    """Give a worker a whole file, or all files whose tests share a costly fixture."""

    def _split_scope(self, nodeid: str) -> str:
        return "programs" if nodeid.startswith(TOGETHER) else nodeid.split("::", 1)[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a file that needs the programs, by whatever fixture, and is not run where they are."""
    for item in items:
        needs = "programs" in getattr(item, "fixturenames", ())
        if needs and not item.nodeid.startswith(TOGETHER):
            raise pytest.UsageError(
                f"{item.nodeid} needs the programs of all methods, so its file must be in TOGETHER "
                "of tests/conftest.py: else another worker exports them all again."
            )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixture:
    """Tell `pytest -n` how to share the tests out."""
    return ByFixture(config, log)


@dataclass(frozen=True)
class Step:
    """What the bundle was after one method was exported into it."""

    method: str
    digest: str
    weights: str
    weights_bytes: int


@dataclass(frozen=True)
class Programs:
    bundle: Path
    steps: tuple[Step, ...]


def paint(label: int, seed: int, domain: int = 0) -> NDArray[np.uint8]:
    """Return a noisy square of the class's colour, striped; a domain has its own brightness."""
    rng = np.random.default_rng([label, seed, domain])
    colour = np.array(colorsys.hsv_to_rgb(label / HUES, 0.9, (0.9, 0.5)[domain]))
    image = np.broadcast_to(255 * colour, (SIDE, SIDE, 3)).copy()
    image[:: 2 + label % 3] *= 0.4
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def image_set(labels: Sequence[int], hues: Sequence[int], seed: int, domain: int) -> ImageSet:
    """Return images in memory; label l has the colour `hues[l]` and the seeds from `seed` on."""
    seeds = [seed + labels[:row].count(label) for row, label in enumerate(labels)]
    pixels = [paint(hues[label], own, domain) for label, own in zip(labels, seeds, strict=True)]
    names = [f"hue-{hues[label]} {own}" for label, own in zip(labels, seeds, strict=True)]
    return ImageSet.of(ArraySource(np.stack(pixels)), labels, names)


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    """Return a ViT of two blocks with random weights: 32 px, 4 patches, width 192, 3 heads."""
    return load_backbone("vit-tiny-16", image_size=SIDE, depth=2, random_seed=0)


def clip_of(visual: Backbone) -> Clip:
    """Return a CLIP with random weights around an image tower: two text blocks, width 32."""
    config = TextConfig(width=32, depth=2, heads=2, projection=visual.width, context_length=20)
    with torch.device("meta"):
        text = TextTower(config)
    shapes = {name: tensor.shape for name, tensor in text.state_dict().items()}
    text.load_state_dict(loaders.random_weights(shapes, seed=1), assign=True)
    return Clip(
        name="tiny-clip",
        visual=visual,
        text=text.eval().requires_grad_(False),
        tokenizer=Tokenizer(config.context_length),
        logit_scale=2.0,
        identity=Identity({}, dict(vars(config))),
        spec=visual.spec,
    )


@pytest.fixture(scope="session")
def tiny_clip(tiny_backbone: Backbone) -> Clip:
    """Return a CLIP whose image tower is the tiny backbone."""
    return clip_of(tiny_backbone)


@pytest.fixture(scope="session")
def make_clip() -> Callable[[Backbone], Clip]:
    """Return `clip_of`."""
    return clip_of


@pytest.fixture(scope="session")
def make_stream() -> MakeStream:
    """Return a function that makes a stream of coloured images in memory.

    `groups` are the hues of each task: ((0, 1), (2, 3)) is two tasks of two classes, which are
    named `hue-0`, ...
    """

    def make(
        groups: Sequence[Sequence[int]] = ((0, 1), (2, 3), (4, 5)),
        *,
        train: int = 4,
        test: int = 3,
        protocol: str = "cil",
    ) -> Stream:
        hues = list(dict.fromkeys(hue for group in groups for hue in group))
        tasks = []
        for index, group in enumerate(groups):
            domain = index % 2 if protocol != "cil" else 0
            seeds = {
                count: [hues.index(h) for h in group for _ in range(count)]
                for count in (train, test)
            }
            tasks.append(
                Task(
                    f"task_{index:02d}",
                    tuple(f"hue-{hue}" for hue in group),
                    image_set(seeds[train], hues, 0, domain),
                    image_set(seeds[test], hues, 1000, domain),
                )
            )
        classes = tuple(f"hue-{hue}" for hue in hues)
        return Stream("colours", protocol, classes, tuple(tasks), {"name": "colours"})  # type: ignore[arg-type]

    return make


def quick(name: str, epochs: int = 2) -> dict[str, Any]:
    """Return a configuration under which a method trains in a moment: short, and small."""
    fields = methods()[name].config_type.__dataclass_fields__
    small = {
        key: SMALL
        for key, field in fields.items()
        if key not in {"seed", "memory"} and is_large(field.default)
    }
    schedule = {"epochs": epochs, "batch_size": 4, "min_steps": 0}
    return small | {key: schedule for key in ("schedule", "tuning") if key in fields}


def is_large(value: object) -> bool:
    return isinstance(value, int) and value > SMALL


@pytest.fixture(scope="session")
def small_config() -> Callable[..., dict[str, Any]]:
    """Return `quick`."""
    return quick


@pytest.fixture(scope="session", autouse=True)
def gathered_once() -> Iterator[None]:
    """Let torch.onnx gather its operators once, not for every graph: a fifth of an export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        gathered = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(gathered))
        yield


@pytest.fixture(scope="session", autouse=True)
def fsync() -> Iterator[Callable[[int], None]]:
    """Leave out `fsync`, and give it to the tests that do cut the power."""
    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield real


class Traces:
    """`trace`, once for equal stages: several methods have the same injector or classifier."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[ir.Model, Any]] = {}

    def __call__(
        self, host: Any, call: Any, inputs: Mapping[str, Any], outputs: Sequence[str]
    ) -> ir.Model:
        program = call.__self__.program
        parts = {
            "encode": (program.injector, program.taps, program.reads_tokens),
            "match": (program.matcher, program.injector),
            "classify": (program.classifier, program.late_matcher, program.passes),
            "fused": (program,),
        }
        key = repr((call.__name__, parts[call.__name__], inputs, tuple(outputs)))
        if key not in self.known:
            kept = call  # a part without a `repr` of its own is known by where it is in memory
            self.known[key] = trace(host, call, inputs, outputs), kept
        return self.known[key][0].clone()  # who writes it moves its weights to a file


def load_once(folder: Path) -> Callable[[OnnxRuntimeEngine, Graph], OnnxRuntimeSession]:
    """Return a `load` that keeps the sessions of a folder's graphs: a session has no state."""
    load, known = OnnxRuntimeEngine.load, {}

    def kept(engine: OnnxRuntimeEngine, graph: Graph) -> OnnxRuntimeSession:
        if graph.path.parent != folder:
            return load(engine, graph)
        key = (graph.path.name, engine._threads, engine._small)
        if key not in known:
            known[key] = load(engine, graph)
        return known[key]

    return kept


@pytest.fixture(scope="session")
def programs(tiny_clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Return the programs of all methods, exported into ONE bundle: minutes."""
    bundle = tmp_path_factory.mktemp("programs") / "bundle"
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecl_export.programs.trace", Traces())
        for name in methods():
            method = build_method(name, BackboneSpec.of(tiny_clip), quick(name))
            digest = export_program(method.program, tiny_clip.visual, bundle)
            weights = bundle / WEIGHTS_FILE
            held = hashlib.sha256(weights.read_bytes()).hexdigest()
            steps.append(Step(name, digest, held, weights.stat().st_size))
        patch.undo()
        patch.setattr(OnnxRuntimeEngine, "load", load_once(bundle))
        yield Programs(bundle, tuple(steps))


@pytest.fixture
def make_learner(tiny_clip: Clip, make_stream: MakeStream, tmp_path: Path) -> MakeLearner:
    """Return a function that starts a run in a fresh folder: quick to train, features in memory.

    `config` comes on top of what makes it quick; `augmenting` is `augment` and `views`.
    """

    def make(
        name: str,
        stream: Stream | None = None,
        *,
        out: str = "run",
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        **augmenting: Any,
    ) -> Learner:
        return new_learner(
            tmp_path / out,
            name,
            tiny_clip,
            stream or make_stream(),
            config={**quick(name), **(config or {})},
            seed=seed,
            compute=Compute(torch.device("cpu")),
            cache=FeatureCache(None, tiny_clip.visual.digest),
            **augmenting,
        )

    return make


@pytest.fixture
def make_folders(tmp_path: Path) -> MakeFolders:
    """Return a function: {"task_00/red": 0} -> a root with images of hue 0 in task_00/red."""

    def make(hues: Mapping[str, int], *, count: int = 5, root: str = "images") -> Path:
        for folder, hue in hues.items():
            (tmp_path / root / folder).mkdir(parents=True)
            for seed in range(count):
                image = Image.fromarray(paint(hue, seed))
                image.save(tmp_path / root / folder / f"{seed:03d}.png")
        return tmp_path / root

    return make
