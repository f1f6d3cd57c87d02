"""Make the built-in stream `emoji-demo` (edgecl/edgecl/streams/data/emoji_demo/emoji-demo.zip).

The classes are the unseen concepts of OpenEmoji-10 that stand in all seven styles below, sorted by
the md5 of their names, the first 60. No model and no accuracy took part in the choice.
Images: 112 x 112, RGB on white, lossless WebP, in one uncompressed zip without dates.

The same packages, resvg and Pillow give the same bytes (versions in index.json); needs npm and
edgecl[data]. `--check` compares with the archive that is there and writes nothing.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import sys
import zipfile
from pathlib import Path

from PIL import Image

from edgecl.cache import cache_dir
from edgecl.streams._emoji_demo import ARCHIVE
from edgecl.streams._iconify import IconSet, rasterise
from edgecl.streams._openemoji_fetch import (
    EPOCH,
    concept_digest,
    fetch_package,
    find_concepts,
    is_unseen,
    read_package,
    styles,
)
from edgecl_deploy.manifest.whole import write_whole

TRAIN_STYLES = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
TEST_STYLES = ("fluent-emoji",)
CLASSES = 60
SIZE = 112  # pixels, the default backbone's input


def render(icons: IconSet, name: str) -> bytes:
    """Render one icon as lossless WebP on white."""
    rgba = Image.open(io.BytesIO(rasterise(icons.svg(name, SIZE)))).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, quality=100, method=6)
    return out.getvalue()


def make(packages: Path) -> bytes:
    """Return the bytes of the archive."""
    pinned = styles()
    sets = {s.style: read_package(fetch_package(s, packages)) for s in pinned}
    concepts = find_concepts(sets)
    wanted = {*TRAIN_STYLES, *TEST_STYLES}
    fit = [name for name, found in concepts.items() if is_unseen(name) and wanted <= found]
    classes = sorted(fit, key=concept_digest)[:CLASSES]
    images = {
        f"{split}/{style}/{name}.webp": render(sets[style], name)
        for split, of_split in (("train", TRAIN_STYLES), ("test", TEST_STYLES))
        for name in classes
        for style in of_split
    }
    index = {
        "format": "edgecl-emoji-demo/1",
        "rule": __doc__.split("\n\n")[1].replace("\n", " "),
        "size": SIZE,
        "made_with": {p: importlib.metadata.version(p) for p in ("resvg_py", "pillow")},
        "packages": {s.package: s.version for s in pinned if s.style in wanted},
        "classes": classes,
        "images": {name: hashlib.sha256(data).hexdigest() for name, data in images.items()},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        members = {"index.json": json.dumps(index, indent=1).encode(), **images}
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
    return out.getvalue()


def main() -> None:
    """Make or check the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    data = make(cache_dir() / "openemoji10" / "packages")
    print(f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    if not check:
        write_whole(ARCHIVE, data)
    elif data != ARCHIVE.read_bytes():
        sys.exit(f"{ARCHIVE} has other bytes. Run this script without --check to write it anew.")


if __name__ == "__main__":
    main()
