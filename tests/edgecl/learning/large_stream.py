"""Learns 100,000 generated images and prints a line of JSON: its peak of memory, and its speed.

python tests/edgecl/learning/large_stream.py OUT [IMAGES]
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.reading.reader import Reading
from edgecl.session import learn_stream, new_learner
from edgecl.streams import ImageSet, Stream, Task

SIDE = 32
CLASSES = 10  # of a task
TESTS = 200  # images of a task


class GeneratedSource:
    """Noise around the colour of a class, made when it is asked for."""

    def __init__(self, first: int, count: int, labels: int):
        self.first = first
        self.labels = labels
        self.count = count
        self.asked = 0

    def __len__(self) -> int:
        return self.count

    def digest(self, index: int, fresh: bool = False) -> bytes:
        return f"generated {self.first + index}".encode()

    def image(self, index: int, least: int | None = None) -> Image.Image:
        self.asked += 1
        colour = np.random.default_rng(self.labels + index % CLASSES).integers(30, 226, 3)
        noise = np.random.default_rng(self.first + index).integers(-30, 30, (SIDE, SIDE, 3))
        return Image.fromarray((colour + noise).astype(np.uint8))

    def mode(self, index: int) -> str:
        return "RGB"


def generated(first: int, count: int, labels: int) -> ImageSet:
    names = [f"{first + index}" for index in range(count)]
    own = [labels + index % CLASSES for index in range(count)]
    return ImageSet.of(GeneratedSource(first, count, labels), own, names)


def stream_of(*sizes: int) -> Stream:
    """Return a stream of tasks with so many training images."""
    tasks = [
        Task(
            f"task {place}",
            tuple(f"class {place * CLASSES + each}" for each in range(CLASSES)),
            generated(1_000_000 * place, size, place * CLASSES),
            generated(1_000_000 * place + size, TESTS, place * CLASSES),
        )
        for place, size in enumerate(sizes)
    ]
    names = tuple(name for task in tasks for name in task.classes)
    return Stream("generated", "cil", names, tuple(tasks), {"name": "generated"})


def main(out: Path, images: int) -> None:
    backbone = load_backbone("vit-tiny-16", image_size=SIDE, depth=2, random_seed=0)
    steps = {"epochs": 1, "batch_size": 128}
    runs = {
        "simplecil": ({}, (images * 9 // 10, images // 10)),
        "ranpac": ({"first_session": "none"}, (images * 9 // 10, images // 10)),
        "l2p": ({"schedule": steps}, (images // 200, images // 200)),
    }
    found = {}
    for name, (config, sizes) in runs.items():
        stream = stream_of(*sizes)
        began = time.perf_counter()
        learner = new_learner(
            out / name, name, backbone, stream, config=config, reading=Reading(memory=10**7)
        )
        summary = learn_stream(learner, stream)
        assert summary is not None
        found[name] = {
            "images_per_second": round(sum(sizes) / (time.perf_counter() - began)),
            "decoded": sum(task.train.source.asked for task in stream.tasks),
            "a_last": summary.a_last,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
