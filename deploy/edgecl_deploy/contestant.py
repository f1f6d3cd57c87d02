"""One candidate of `edgecl-device tune`: a process that runs images when it is its turn.

It reads a number of images per line and answers with their milliseconds, one JSON document per
line; the first line tells how it started. It ends with its input.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgecl_deploy.choice import Wish
from edgecl_deploy.engines import Artefacts
from edgecl_deploy.errors import DeployError, one_line
from edgecl_deploy.files import ReleaseFiles, read_bundle, read_release
from edgecl_deploy.runtime import Classifier
from edgecl_deploy.store.layout import ARTEFACTS, is_store

IMAGES = 8  # different ones, in turn


def main(asked: str) -> int:
    """Open a classifier, then run images as ordered.

    Args:
        asked: A JSON object: `path`, `release` (None for a store), and the fields of a `Wish`.
    """
    wanted: dict[str, Any] = json.loads(asked)
    path, release = wanted.pop("path"), wanted.pop("release")
    begin = time.perf_counter()
    try:
        classifier, _ = opened(path, release, Wish(**wanted))
        side = classifier.preprocessing.size
        noise = np.random.default_rng(0)
        images = noise.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
        classifier.scores(images[:1])  # the first run is slower
    except (DeployError, OSError) as error:
        say({"error": one_line(error)})
        return 0
    say({
        "start_ms": 1e3 * (time.perf_counter() - begin),
        "version": classifier.engine.version,
    })
    turn = 0
    for line in sys.stdin:
        ms = []
        for _ in range(int(line)):
            one = images[turn % IMAGES : turn % IMAGES + 1]
            turn += 1
            begin = time.perf_counter()
            classifier.scores(one)
            ms.append(1e3 * (time.perf_counter() - begin))
        say({"ms": ms, "mb": peak_mb()})
    return 0


def opened(
    path: str, release: str | None, wish: Wish
) -> tuple[Classifier, Callable[[], ReleaseFiles]]:
    """Open it without a follower; the canaries of its release must pass.

    Args:
        path: A store, or a bundle.
        release: Of a bundle.
        wish: What runs it.

    Returns:
        The classifier, and what reads its release again.
    """
    read: Callable[[], ReleaseFiles]
    if is_store(path):
        from edgecl_deploy.store.store import Store  # POSIX only; a bundle with a release is not

        store = Store.open(path)
        bundle, read = store.bundle(), lambda: store.read_current()[1]
        artefacts = Artefacts(store.path / ARTEFACTS)
    else:
        bundle, read, artefacts = read_bundle(path), lambda: read_release(str(release)), None
    engine, mode = wish.meet(None, artefacts)
    classifier = Classifier(bundle, engine, mode)
    classifier.take(read(), strict=True)
    return classifier, read


def peak_mb() -> float:
    """Return the largest resident memory that this process had.

    The kernel's `ru_maxrss` begins with that of the process that started this one.
    """
    with suppress(OSError):  # not Linux
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource  # POSIX only

    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss / (1e6 if sys.platform == "darwin" else 1e3)


def say(answer: dict[str, Any]) -> None:
    """Answer the process that started this one."""
    print(json.dumps(answer), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
