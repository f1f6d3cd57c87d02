"""Measures how fast this device is: by stage, on a picture made here, with the versions used."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from statistics import median

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from edgecl_deploy.engines.processor import cpu_name
from edgecl_deploy.images import prepare
from edgecl_deploy.runtime import Classifier

_PHOTO = (480, 640)  # height, width: a camera frame
_SWAPS = 5
_LEAST_RUNS = 3


@dataclass(frozen=True)
class Bench:
    """The report of `edgecl-device bench`. Times are medians."""

    preprocess_ms: float  # per image: decode a 640 x 480 JPEG, resize, crop
    graph_ms: float  # per image, in batches of `batch`
    swap_ms: float  # read, verify, self-test and take the same release again
    batch: int
    runs: int  # of the graph
    classes: int
    release: int
    program: str
    engine: str
    numpy: str
    pillow: str
    python: str
    cpu: str

    def to_json(self) -> dict[str, float | int | str]:
        """Return the figures by name."""
        return asdict(self)


def run_bench(
    classifier: Classifier, swap: Callable[[], object], *, batch: int, seconds: float
) -> Bench:
    """Measure a classifier.

    Args:
        classifier: It must be idle.
        swap: Reads the release that it runs and takes it again.
        batch: Images of one run.
        seconds: How long to run the graph; at least a few runs are made.
    """
    noise = np.random.default_rng(0).integers(0, 256, (*_PHOTO, 3), dtype=np.uint8)
    encoded = BytesIO()
    Image.fromarray(noise).resize((_PHOTO[1], _PHOTO[0])).save(encoded, "JPEG")
    spec = classifier.preprocessing
    image = prepare(encoded.getvalue(), spec)
    decode = [_timed(lambda: prepare(encoded.getvalue(), spec)) for _ in range(2 * _LEAST_RUNS)]
    images = np.stack([image] * batch)  # uint8 [b, h, w, 3]
    classifier.scores(images)  # the first run is slower
    graph: list[float] = []
    end = time.perf_counter() + seconds
    while len(graph) < _LEAST_RUNS or time.perf_counter() < end:
        graph.append(_timed(lambda: classifier.scores(images)))
    swaps = [_timed(swap) for _ in range(_SWAPS)]
    return Bench(
        preprocess_ms=1e3 * median(decode),
        graph_ms=1e3 * median(graph) / batch,
        swap_ms=1e3 * median(swaps),
        batch=batch,
        runs=len(graph),
        classes=len(classifier.classes),
        release=classifier.release,
        program=classifier.loaded.files.release.program,
        engine=classifier.engine.version,
        numpy=np.__version__,
        pillow=pillow_version,
        python=platform.python_version(),
        cpu=cpu_name(),
    )


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
