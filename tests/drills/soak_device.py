"""A device in one process: an application that asks all the time, and an updater.

`python soak_device.py STORE` updates once for each line of its input that names a release, and
answers with a line of JSON: the outcome, the requests so far, and what this process and its store
take. A line `offline` or `again` is a poll that installs nothing.
"""

import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from edgecl_deploy import Classifier, follow
from edgecl_deploy.store.log import LOG, OLDER
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.poll import channel_of

EACH = 100  # requests between two updates, at least
TESTED = 10  # one update in so many runs the self-test in a process of its own
PAUSE = 0.0002  # seconds between two requests
LONGEST = 60  # seconds for a release to be taken, or for requests
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


class Application:
    """Asks and checks every answer, until it is told to stop."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.requests, self.wrong = 0, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        side = self.classifier.preprocessing.size
        pictures = {
            name: np.full((side, side, 3), colour, np.uint8) for name, colour in COLOURS.items()
        }
        while not self._stop.wait(PAUSE):
            for name, pixels in pictures.items():
                (answer,) = self.classifier.predict([pixels])
                self.requests += 1
                if answer.label != name and not self.wrong:
                    self.wrong = f"{name}: {answer}"

    def __enter__(self) -> "Application":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def passes(*_: object) -> None:
    """A self-test that finds nothing wrong, at once."""


def until(true) -> None:
    end = time.monotonic() + LONGEST
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("a release was not taken, or no request was answered")
        time.sleep(0.001)


def taken(store: Path) -> dict[str, int]:
    """What this process and its store take."""
    gc.collect()
    process = psutil.Process()
    files = [path for path in store.rglob("*") if path.is_file() and not path.is_symlink()]
    logs = [path for path in files if path.name in {LOG, OLDER}]
    return {
        "memory": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "disk": sum(path.stat().st_size for path in files if path not in logs),
        "files": len(files) - len(logs),
        "log": sum(path.stat().st_size for path in logs),
    }


def main(path: Path) -> None:
    follow.LOOK = 0.01
    store = Store.open(path)
    with Classifier.open(path, threads=1) as classifier, Application(classifier) as application:
        for count, line in enumerate(sys.stdin):
            word = line.strip()
            url = os.fspath(path / "nowhere") if word == "offline" else None
            source = channel_of(store, store.config, url)
            result = update(store, source, test=None if count % TESTED == 0 else passes)
            if word.isdigit():
                until(lambda: classifier.release == int(word))  # noqa: B023
                before = application.requests
                until(lambda: application.requests >= before + EACH)  # noqa: B023
            about = {"outcome": result.outcome.word, "reason": result.reason}
            about |= {"requests": application.requests, "wrong": application.wrong}
            sys.stdout.write(json.dumps({**about, **taken(path)}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
