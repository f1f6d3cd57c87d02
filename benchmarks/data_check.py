"""How long `edgecl data check` takes on many small files, the first time and again, and its memory.

    python benchmarks/data_check.py FOLDER [--files 200000] [--classes 100]

makes FOLDER/images (PNG of 32 x 32 pixels, no two alike; left there) unless it is there, and runs
the command twice with a cache of its own. Prints one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

SIDE = 32


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def png(number: int) -> bytes:
    """Return an image in which only this number's has these pixels."""
    row = bytes((number * step + column) % 251 for step, column in enumerate(range(3 * SIDE), 1))
    rows = b"".join(b"\0" + row[3 * (y % 7) :] + row[: 3 * (y % 7)] for y in range(SIDE))
    header = SIDE.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    text = b"number\0" + str(number).encode()
    pixels = zlib.compress(rows, 1)
    return b"\x89PNG\r\n\x1a\n" + b"".join((
        chunk(b"IHDR", header),
        chunk(b"tEXt", text),
        chunk(b"IDAT", pixels),
        chunk(b"IEND", b""),
    ))


def make(root: Path, files: int, classes: int) -> None:
    """Write the images, as many of each class."""
    for name in range(classes):
        (root / f"class-{name:03d}").mkdir(parents=True)
    for number in range(files):
        path = root / f"class-{number % classes:03d}" / f"{number:06d}.png"
        path.write_bytes(png(number))


def check(root: Path, cache: Path) -> dict[str, object]:
    """Run the command; return its seconds and the largest memory of it and its workers."""
    code = (
        "import json, os, resource, sys\n"
        "from edgecl.cli import data\n"
        "data(['check', sys.argv[1], '--json'], standalone_mode=False)\n"
        "own, workers = (resource.getrusage(who).ru_maxrss / 1e3"
        " for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        "spent = os.times()\n"
        "print(json.dumps([own, workers, sum(spent[:4])]))\n"
    )
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, str(root)],
        env={**os.environ, "EDGECL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    found, memory = (json.loads(line) for line in result.stdout.splitlines())
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(memory[2], 1),
        "memory_mb": round(memory[0]),
        "memory_mb_of_the_largest_worker": round(memory[1]),
        "files": found["files"]["total"],
        "findings": [reason["why"] for reason in found["findings"]],
    }


def main() -> None:
    """Make the images, check them twice, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=100)
    arguments = parser.parse_args()
    root, cache = arguments.folder / "images", arguments.folder / "cache"
    if not root.exists():
        make(root, arguments.files, arguments.classes)
    shutil.rmtree(cache, ignore_errors=True)
    time.sleep(3)  # the index does not trust files that were changed a moment ago
    found = {"first": check(root, cache), "again": check(root, cache), "cores": os.cpu_count()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
