"""Prepares damaged image files, as the device and as the learner do, and reports what it took.

`python tests/e2e/mutated_images.py COUNT SEED` prints one JSON object; it is a process of its own
because it limits its memory, and because the highest memory of a process never falls. Both sides
have a device's limit of pixels: it is what bounds time and memory.
"""

import hashlib
import io
import json
import os
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.backbones import BackboneError, Preprocess
from edgecl.streams import BrokenImageError, open_image
from edgecl_deploy.errors import ImageError
from edgecl_deploy.image_limits import DEVICE_PIXELS, VARIABLE
from edgecl_deploy.images import prepare

ROOM = 1024**3  # bytes of address space beyond what the process has at its start
SPEC = Preprocess(size=32, resize=36, window=(100.0, 60000.0), background=(10, 20, 30))
FITS = ("crop", "pad", "squash")
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"}
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 4096, 65500, 16383)


def picture(mode: str, side: int, seed: int = 0) -> Image.Image:
    """Return a smooth picture with some noise: all coders have something to do."""
    rng = np.random.default_rng([side, seed])
    slope = np.add.outer(np.arange(side), np.arange(side))[..., None] * [2, 3, 5]
    rgb = Image.fromarray((slope + rng.integers(0, 30, (side, side, 3))).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 200)
    if mode in {"RGBA", "LA"}:
        rgb.putalpha(rgb.getchannel(0))
        return rgb.convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", rgb.size, rgb.tobytes())
    return rgb.convert(mode)


def encoded(mode: str, side: int, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture(mode, side).save(out, kind, **options)
    return out.getvalue()


def frames() -> dict[str, Any]:
    """Return what makes two more frames; Pillow leaves the last coder's options in them."""
    more = [picture("RGB", 24, seed) for seed in (1, 2)]
    return {"save_all": True, "append_images": more}


def originals() -> dict[str, bytes]:
    """Return a whole file of every format, mode and coding that is accepted."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    files = {
        "jpeg": encoded("RGB", 40, "JPEG", exif=exif, icc_profile=b"p" * 90),
        "jpeg progressive": encoded("RGB", 64, "JPEG", progressive=True, quality=60),
        "jpeg grey": encoded("L", 33, "JPEG"),
        "jpeg cmyk": encoded("CMYK", 24, "JPEG"),
        "mpo": encoded("RGB", 24, "MPO", **frames()),
        "png": encoded("RGB", 40, "PNG", exif=exif),
        "png interlaced": encoded("RGBA", 24, "PNG"),
        "png palette": encoded("P", 32, "PNG", transparency=3),
        "png 16": encoded("I;16", 24, "PNG"),
        "png bits": encoded("1", 40, "PNG"),
        "apng": encoded("RGB", 24, "PNG", **frames()),
        "gif": encoded("P", 40, "GIF", transparency=2),
        "gif animated": encoded("RGB", 24, "GIF", **frames()),
        "webp": encoded("RGB", 40, "WEBP", exif=exif),
        "webp lossless": encoded("RGBA", 24, "WEBP", lossless=True),
        "webp animated": encoded("RGB", 24, "WEBP", **frames()),
        "bmp": encoded("RGB", 24, "BMP"),
        "bmp palette": encoded("P", 24, "BMP"),
        "avif": encoded("RGB", 40, "AVIF", exif=exif),
        "avif alpha": encoded("RGBA", 32, "AVIF"),
        "avif animated": encoded("RGB", 24, "AVIF", **frames()),
    }
    for mode in ("1", "L", "RGB", "F"):
        files[f"ppm {mode}"] = encoded(mode, 24, "PPM")
    codings = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "zstd")
    for mode in ("1", "L", "RGB", "RGBA", "P", "CMYK", "LAB", "I;16", "I", "F"):
        for coding in codings:
            if (coding == "group4") != (mode == "1") and coding != "raw":
                continue
            if coding == "jpeg" and mode not in {"L", "RGB", "CMYK"}:
                continue
            files[f"tiff {mode} {coding}"] = encoded(mode, 24, "TIFF", compression=coding)
    files["tiff tiles"] = tiled()
    files["tiff pages"] = encoded("RGB", 24, "TIFF", **frames())
    return files


def tiled() -> bytes:
    """Return a TIFF of four tiles of 16 x 16 grey pixels, which Pillow reads and does not write."""
    pixels = np.asarray(picture("L", 32))
    tiles = [pixels[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    count, start = 10, 8
    offsets_at = start + 2 + 12 * count + 4
    data_at = offsets_at + 32
    entries = [
        (256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 4, offsets_at),
        (325, 4, 4, offsets_at + 16),
    ]  # fmt: skip
    ifd = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    offsets = struct.pack("<4I", *(data_at + 256 * i for i in range(4)))
    sizes = struct.pack("<4I", *([256] * 4))
    return (
        b"II*\0" + struct.pack("<I", start) + ifd + b"\0\0\0\0" + offsets + sizes + b"".join(tiles)
    )


def change(data: bytearray, others: list[bytes], rng: random.Random) -> None:
    """Damage one place, rather near the beginning."""
    at = rng.randrange(len(data)) if rng.random() < 0.4 else rng.randrange(min(200, len(data)))
    kind = rng.randrange(7)
    if kind == 0:
        data[at] = rng.randrange(256)
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:  # a size, an offset, a count
        form = rng.choice(("<H", ">H", "<I", ">I"))
        value = rng.choice(EXTREMES) & ((1 << 8 * struct.calcsize(form)) - 1)
        data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    elif kind == 3:
        del data[at : at + rng.choice((1, 2, 16, 256))]
    elif kind == 4:
        data[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
    elif kind == 5:
        data[at:at] = data[at : at + rng.choice((8, 64, 512))]
    else:
        other = rng.choice(others)
        start = rng.randrange(len(other))
        data[at : at + 64] = other[start : start + 64]


def mutated(whole: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return a damaged file: changed, cut, longer, or with a part of another one."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if data:
            change(data, others, rng)
    if data and rng.random() < 0.15:
        del data[rng.randrange(len(data)) :]
    if rng.random() < 0.6 and data.startswith(b"\x89PNG"):
        return summed(bytes(data))
    return bytes(data)


def summed(png: bytes) -> bytes:
    """Return a PNG with the check sums of its chunks made right, so that damage goes deeper."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if at + 12 + length > len(png):
            break
        body = png[at + 4 : at + 8 + length]
        parts += [png[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(parts) + png[at:]


def on_device(data: bytes, spec: Preprocess) -> str:
    try:
        return hashlib.sha256(prepare(data, spec).tobytes()).hexdigest()
    except ImageError:
        return "refused"


def in_learner(data: bytes, spec: Preprocess) -> str:
    try:
        return hashlib.sha256(spec(open_image(data, "it")).tobytes()).hexdigest()
    except (BrokenImageError, BackboneError):
        return "refused"


def run(count: int, seed: int) -> dict[str, Any]:
    """Prepare so many damaged files; any other error than an image's ends it."""
    files = originals()
    others = list(files.values())
    specs = [SPEC.with_options(fit, None, None) for fit in FITS]
    started: list[str] = []
    sys.addaudithook(lambda event, _: started.append(event) if event in STARTS else None)
    for data in others:  # whole files are accepted; decoders and tables are loaded
        assert on_device(data, specs[0]) == in_learner(data, specs[0]) != "refused"
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, in_use + ROOM))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, largest = (0.0, "", -1), (0, "", -1)
    accepted: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    kinds: dict[str, list[str]] = {}  # as many files of each format, whatever its codings
    for name in files:
        kinds.setdefault(name.split()[0], []).append(name)
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")  # noqa: S311
        name = rng.choice(list(kinds.values())[index % len(kinds)])
        data = mutated(files[name], others, rng)
        spec = specs[index % len(FITS)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        device = on_device(data, spec)
        seconds = time.process_time() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        learner = in_learner(data, spec)
        assert device == learner, (index, name, device, learner)
        slowest = max(slowest, (seconds, name, index))
        largest = max(largest, (grown, name, index))
        tried[name] += 1
        accepted[name] += device != "refused"
    return {
        "files": count,
        "accepted": sum(accepted.values()),
        "accepted_by_kind": {name: f"{accepted[name]} of {tried[name]}" for name in sorted(tried)},
        "slowest": slowest,
        "largest_step_kb": largest,
        "peak_above_start_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
        "started": started,
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    os.environ[VARIABLE] = str(DEVICE_PIXELS)
    json.dump(run(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
