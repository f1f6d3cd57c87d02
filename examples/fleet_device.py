"""The application of one simulated device: it answers requests from its store until it is stopped.

It knows nothing of channels and updates. It has a few labelled pictures of its own, and refuses a
release that does not know them any more.
"""

import argparse
import collections
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from edgecl_deploy import Classifier
from edgecl_deploy.errors import DeployError, StoreError

PAUSE = 0.1  # seconds between two requests
NOTE = 0.5  # seconds between two notes of what was counted
OWN = 4  # pictures that this device has labels for


def main() -> None:
    """Answer requests, count, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("pictures", type=Path, help="folder with pictures and labels.json")
    parser.add_argument("counts", type=Path)
    arguments = parser.parse_args()
    labels: dict[str, str] = json.loads((arguments.pictures / "labels.json").read_text())
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))

    def accept(candidate: Classifier) -> str | None:
        own = list(labels)[:OWN]
        answers = candidate.predict([arguments.pictures / name for name in own])
        right = sum(a.label == labels[name] for a, name in zip(answers, own, strict=True))
        return None if 2 * right > len(own) else f"it knows {right} of {len(own)} of my pictures"

    counts: dict[str, Any] = {"requests": 0, "failed": 0, "mixed": 0, "swaps": 0}
    seen: collections.Counter[str] = collections.Counter()  # "release|picture|label"
    with wait_for_release(arguments.store, accept, stop) as classifier:
        names, last, noted = list(labels), classifier.release, 0.0
        while not stop:
            pair = [names[(counts["requests"] + i) % len(names)] for i in range(2)]
            counts["requests"] += 1
            try:
                answers = classifier.predict([arguments.pictures / name for name in pair])
            except DeployError as error:
                counts["failed"] += 1
                counts["error"] = str(error)
                continue
            counts["failed"] += any(answer.error is not None for answer in answers)
            counts["mixed"] += len({answer.release for answer in answers}) > 1
            counts["swaps"] += answers[0].release != last
            last = answers[0].release
            seen.update(f"{a.release}|{n}|{a.label}" for a, n in zip(answers, pair, strict=True))
            if time.monotonic() - noted > NOTE:
                noted = time.monotonic()
                note(arguments.counts, {**counts, "release": last, "seen": seen})
            time.sleep(PAUSE)
        note(arguments.counts, {**counts, "release": last, "seen": seen})


def wait_for_release(store: Path, accept: Any, stop: list[int]) -> Classifier:
    """Open the store as soon as it has a release.

    Raises:
        SystemExit: if it is told to stop before.
    """
    while not stop:
        try:
            return Classifier.open(store, accept=accept, threads=1)
        except StoreError:
            time.sleep(PAUSE)
    raise SystemExit


def note(path: Path, counts: dict[str, Any]) -> None:
    """Write the counts whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(counts))
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
