"""Images on disk, every method learned on them, shipped task by task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.methods import methods
from edgecl.session import learn_stream, needs_text, new_learner
from edgecl.streams import ImageSet, Stream, load_stream
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

SIDE = 40  # pixels of an image file; the backbone takes 32
CLASSES = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 230), "yellow": (230, 220, 20),
    "violet": (160, 20, 200), "grey": (90, 90, 90), "white": (250, 250, 250), "teal": (0, 130, 130),
}  # fmt: skip
TASKS = (("red", "green"), ("blue", "yellow"), ("violet", "grey"))


def draw(name: str, seed: int) -> Image.Image:
    """Return a noisy striped picture of a class's colour, of one of several sizes and modes."""
    rng = np.random.default_rng([list(CLASSES).index(name), seed])
    height, width = SIDE + 9 * (seed % 3), SIDE + 7 * (seed % 2)
    pixels = np.broadcast_to(np.array(CLASSES[name], float), (height, width, 3)).copy()
    pixels[:: 3 + list(CLASSES).index(name) % 4] *= 0.5
    image = Image.fromarray(
        (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    )
    return image.convert(("RGB", "RGBA", "P", "RGB")[seed % 4])


def write_images(root: Path, names: tuple[str, ...], count: int, first: int = 0) -> None:
    """Write ROOT/CLASS/000.png and so on; some are JPEG or WebP."""
    for name in names:
        (root / name).mkdir(parents=True)
        for seed in range(first, first + count):
            image = draw(name, seed)
            ending = "webp" if seed % 3 == 1 else "jpg" if image.mode == "RGB" else "png"
            image.save(root / name / f"{seed:03d}.{ending}")


@dataclass(frozen=True)
class Shipped:
    """A method's run, and one release per task."""

    learner: Learner
    releases: tuple[Path, ...]


@dataclass(frozen=True)
class Site:
    images: Path
    stream: Stream
    bundle: Path
    shipped: dict[str, Shipped]
    make_learner: Callable[..., Learner]


def labels_of(learner: Learner, images: ImageSet) -> tuple[list[str], list[bool]]:
    """Return the learner's label for each image, and whether it is no tie of 1e-4."""
    pixels = learner.load(images, "").images
    scores = learner.predict(pixels).scores.numpy()
    rows = [name for names in learner.run.class_rows() for name in names]
    best = np.sort(scores, axis=1)
    return [rows[row] for row in scores.argmax(axis=1)], list(best[:, -1] - best[:, -2] > 1e-4)


def ship(learner: Learner, root: Path, bundle: Path, dtype: Any = "float32") -> Shipped:
    """Export one release per task."""
    export_program(learner.method.program, learner.backbone, bundle)
    export_packs(learner.run, root / "packs", dtype=dtype)
    releases = [root / f"release-{count}" for count in range(1, len(learner.run) + 1)]
    for count, release in enumerate(releases, 1):
        export_release(root / "packs", release, bundle, tasks=count)
    return Shipped(learner, tuple(releases))


@pytest.fixture(scope="session")
def site(
    tiny_clip: Clip,
    programs: Any,
    small_config: Callable[..., dict[str, Any]],
    make_clip: Callable[[Backbone], Clip],
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """Return all methods on three tasks of two colours."""
    root = tmp_path_factory.mktemp("site")
    for index, names in enumerate(TASKS):
        write_images(root / "images" / "train" / f"task_{index:02d}", names, 6)
        write_images(root / "images" / "test" / f"task_{index:02d}", names, 4, first=100)
    stream = load_stream(str(root / "images"))
    tiny = tiny_clip.visual
    cache = FeatureCache(None, tiny.digest)

    def make(path: Path, name: str, source: Stream = stream, backbone: Backbone = tiny) -> Learner:
        memory = cache if backbone is tiny else FeatureCache(None, backbone.digest)
        compute = Compute(torch.device("cpu"))
        return new_learner(
            path,
            name,
            make_clip(backbone) if needs_text(name) else backbone,
            source,
            config=small_config(name),
            seed=0,
            compute=compute,
            cache=memory,
        )

    shipped = {}
    for name in methods():
        learner = make(root / name, name)
        learn_stream(learner, stream)
        shipped[name] = ship(learner, root / f"{name}-shipped", programs.bundle)
    return Site(root / "images", stream, programs.bundle, shipped, make)


@pytest.fixture(scope="session")
def labels() -> Callable[[Learner, ImageSet], tuple[list[str], list[bool]]]:
    """Return `labels_of`."""
    return labels_of


@pytest.fixture(scope="session")
def shipping() -> Callable[..., Shipped]:
    """Return `ship`."""
    return ship


@pytest.fixture(scope="session")
def writing() -> Callable[..., None]:
    """Return `write_images`."""
    return write_images
