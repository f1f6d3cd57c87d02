"""One engine of `edgecl-device bench`: a process that measures when it is its turn.

It reads a number of runs per line and answers with what they took, one JSON document per line; the
first line tells how it started. It ends with its input.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgecl_deploy.choice import Wish
from edgecl_deploy.contestant import opened, peak_mb, say
from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.images import least_side, open_image, prepare
from edgecl_deploy.pipeline import FILES_AHEAD
from edgecl_deploy.runtime import Classifier

STAGES = ("read", "decode", "prepare", "run", "answer")
TOP = 5  # classes per answer
LEAST = 6  # images of a whole: fewer hardly overlap
Found = TypeVar("Found")


class Turns:
    """Measures a classifier, turn by turn.

    Args:
        classifier: It is idle.
        swap: Reads the release that answers and takes it again.
        photos: Image files, which are used one after the other.
        batch: Images of one run.
    """

    def __init__(
        self, classifier: Classifier, swap: Callable[[], object], photos: list[str], batch: int
    ) -> None:
        self._classifier, self._swap = classifier, swap
        self._photos: Iterator[str] = cycle(photos)
        self._batch = batch
        self._spent: dict[str, list[float]] = {}

    def take(self, runs: int) -> dict[str, Any]:
        """Measure so many runs stage by stage, then as many images as a whole, then a swap."""
        self._spent = {stage: [] for stage in STAGES}
        for _ in range(runs):
            self._one_run(list(islice(self._photos, self._batch)))
        count = max(runs * self._batch, LEAST)
        whole = {
            name: self._whole(count, ahead)
            for name, ahead in (("overlapped", FILES_AHEAD), ("sequential", 0))
        }
        begin = time.perf_counter()
        self._swap()
        return {
            "ms": self._spent,
            "images": count,
            "seconds": whole,
            "swap_ms": 1e3 * (time.perf_counter() - begin),
            "mb": peak_mb(),
        }

    def _one_run(self, photos: list[str]) -> None:
        classifier = self._classifier
        spec, loaded = classifier.preprocessing, classifier.loaded
        least, most = least_side(spec), classifier.max_pixels

        def decoded(data: bytes) -> Any:
            return open_image(data, max_pixels=most, least=least)

        data = self._timed("read", lambda: [Path(name).read_bytes() for name in photos])
        images = self._timed("decode", lambda: list(map(decoded, data)))
        squares = self._timed(
            "prepare", lambda: np.stack([prepare(each, spec, max_pixels=most) for each in images])
        )
        scores = self._timed("run", lambda: loaded.run(squares))
        self._timed("answer", lambda: list(loaded.predictions(scores, TOP)))

    def _timed(self, stage: str, work: Callable[[], Found]) -> Found:
        begin = time.perf_counter()
        found = work()
        self._spent[stage].append(1e3 * (time.perf_counter() - begin) / self._batch)
        return found

    def _whole(self, count: int, ahead: int) -> float:
        """Return the seconds from the first image to the last answer."""
        photos = islice(self._photos, count)
        begin = time.perf_counter()
        for _ in self._classifier.stream(photos, top_k=TOP, batch=self._batch, ahead=ahead):
            pass
        return time.perf_counter() - begin


def main(asked: str) -> int:
    """Open a classifier, then measure as ordered.

    Args:
        asked: A JSON object: `path`, `release` (None for a store), `photos`, `runs_of` (images of
            one run), `max_pixels`, and the fields of a `Wish` under `wish`.
    """
    wanted: dict[str, Any] = json.loads(asked)
    photos: list[str] = wanted["photos"]
    begin = time.perf_counter()
    try:
        classifier, read = opened(wanted["path"], wanted["release"], Wish(**wanted["wish"]))
        classifier.max_pixels = wanted["max_pixels"]
        first = next(classifier.stream(photos[:1], ahead=0))
    except (DeployError, OSError) as error:
        say({"error": one_line(error)})
        return 0
    if first.error is not None:
        say({"error": first.error})
        return 0
    say({
        "start_ms": 1e3 * (time.perf_counter() - begin),
        "version": classifier.engine.version,
        "release": classifier.release,
        "classes": len(classifier.classes),
        "program": classifier.loaded.files.release.program,
        "decode": classifier.preprocessing.decode,
    })
    turns = Turns(classifier, lambda: classifier.take(read()), photos, wanted["runs_of"])
    for line in sys.stdin:
        say(turns.take(int(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
