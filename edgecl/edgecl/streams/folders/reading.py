"""What must be read of every image: its digest, and whether it can be opened.

Many files are read by worker processes. They are started as programs of their own and spoken to in
lines of JSON, so a script that calls `load_stream` need not guard its main module.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgecl.streams._errors import BrokenImageError
from edgecl.streams._sources import open_image
from edgecl_deploy.children import python_module
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.images import WIDE_MODES
from edgecl_deploy.images.pixels import extent, to_rgb
from edgecl_deploy.manifest.names import spelled
from edgecl_deploy.progress import Reporter

CHUNK = 1 << 20
BATCH = 64  # files that a worker is given at a time
FEW = 2000  # files that are read without workers
MAX_WORKERS = 8
WHITE = (255, 255, 255)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Look(NamedTuple):
    """What a decoded image is like.

    Attributes:
        constant: all of its pixels are the same, on a white background.
        light: the mean, 0..255, of a thumbnail; of more than 8 bits, on the image's own levels.
        contrast: the standard deviation of the thumbnail's light.
        colour: the mean difference of its strongest and weakest channel.
    """

    width: int
    height: int
    mode: str
    constant: bool
    light: float
    contrast: float
    colour: float


class Reading(NamedTuple):
    """What was read of one file.

    Attributes:
        digest: of the content, in hexadecimal; nothing where it cannot be read.
        usable: it can be opened, or be decoded where it was.
        look: of a decoded image; None where it was not decoded.
    """

    digest: str
    usable: bool = True
    look: Look | None = None


def read(path: str, *, decode: bool) -> Reading:
    """Read one file.

    Args:
        decode: decode the whole image, in place of its header.
    """
    try:
        data, digest = _content(path)
    except OSError:
        return Reading("", usable=False)
    file = Path(path) if data is None else data
    try:
        if decode:
            return Reading(digest, look=look_at(open_image(file, spelled(path))))
        open_image(file, spelled(path), header_only=True)
        return Reading(digest)
    except BrokenImageError:
        return Reading(digest, usable=False)


def _content(path: str) -> tuple[bytes | None, str]:
    """Return the content of a regular file, None of a large one, and its digest.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "it is no regular file any more")
        data = file.read(CHUNK)
        digest = hashlib.blake2b(data, digest_size=16)
        if len(data) < CHUNK:
            return data, digest.hexdigest()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return None, digest.hexdigest()


def look_at(image: Image.Image) -> Look:
    """Return what a decoded image is like."""
    window = None
    if image.mode in WIDE_MODES:
        low, high = extent(np.asarray(image))
        window = (low, high if low < high else low + 1)
    rgb = to_rgb(image, WHITE, window)
    constant = all(len(set(band.getextrema())) == 1 for band in rgb.split())
    pixels = np.asarray(rgb.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    light = pixels @ LUMA
    return Look(
        image.width,
        image.height,
        image.mode,
        constant,
        round(float(light.mean()), 1),
        round(float(light.std()), 1),
        round(float((pixels.max(axis=2) - pixels.min(axis=2)).mean()), 1),
    )


def read_all(
    paths: Sequence[str], *, decode: bool, reporter: Reporter, title: str
) -> list[Reading]:
    """Read many files, on all cores where they are many; the answers are in their order."""
    with reporter.bar(title, len(paths)) as advance:
        workers = min(usable_cores(), MAX_WORKERS, len(paths) // FEW * 2)
        if workers > 1 and sys.executable:
            return _Pool(paths, decode, advance).run(workers)
        found = []
        for path in paths:
            found.append(read(path, decode=decode))
            advance()
        return found


class _Pool:
    """Worker processes, each fed by a thread of this one."""

    def __init__(self, paths: Sequence[str], decode: bool, advance: Callable[[int], None]) -> None:
        self._paths = paths
        self._decode = decode
        self._advance = advance
        self._found: list[Reading | None] = [None] * len(paths)
        self._open: SimpleQueue[int] = SimpleQueue()
        self._done: SimpleQueue[int] = SimpleQueue()
        for start in range(0, len(paths), BATCH):
            self._open.put(start)

    def run(self, workers: int) -> list[Reading]:
        processes = [_start(self._decode) for _ in range(workers)]
        threads = [threading.Thread(target=self._feed, args=(p,), daemon=True) for p in processes]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) or not self._done.empty():
                with suppress(Empty):
                    self._advance(self._done.get(timeout=0.2))
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        # What a worker that ended early was reading is read here.
        return [
            read(path, decode=self._decode) if one is None else one
            for path, one in zip(self._paths, self._found, strict=True)
        ]

    def _feed(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(Empty, OSError, ValueError):
            while True:
                start = self._open.get_nowait()
                batch = self._paths[start : start + BATCH]
                process.stdin.write(json.dumps(batch) + "\n")
                process.stdin.flush()
                answers = json.loads(process.stdout.readline())
                for index, (digest, usable, look) in enumerate(answers, start=start):
                    self._found[index] = Reading(digest, usable, look and Look(*look))
                self._done.put(len(batch))


def _start(decode: bool) -> "subprocess.Popen[str]":
    """Start a worker with the import path of this process."""
    return subprocess.Popen(  # noqa: S603 this interpreter, this module
        python_module(__name__, "decode" if decode else "header"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="ascii",
    )


def work(lines: Iterator[str], decode: bool) -> Iterator[str]:
    """Answer each line of paths with a line of readings."""
    for line in lines:
        yield json.dumps([read(path, decode=decode) for path in json.loads(line)])


if __name__ == "__main__":
    for answer in work(iter(sys.stdin.readline, ""), sys.argv[1] == "decode"):
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
