"""Stream `emoji-demo`, in the wheel: 60 emoji in seven art styles, 6 tasks of 10.

Training images are of six styles and the test image of each class is of a seventh, so the learner
must generalise to a new style. scripts/make_emoji_demo.py makes the archive and documents how the
classes were chosen; the attributions are in NOTICE and LICENSES next to it.
"""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._options import ClassOptions
from edgecl.streams._registry import register_stream
from edgecl.streams._sources import ZipSource
from edgecl.streams._types import ImageSet, Stream

ARCHIVE = Path(__file__).parent / "data" / "emoji_demo" / "emoji-demo.zip"


@register_stream("emoji-demo", ClassOptions)
def emoji_demo(options: ClassOptions) -> Stream:
    """Build the stream; images in the archive are named SPLIT/STYLE/CLASS.webp."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        index = json.loads(archive.read("index.json"))
    classes = tuple(index["classes"])
    train, test = (_read(index["images"], classes, split) for split in ("train", "test"))
    return class_incremental(DataSet(classes, train, test), options, options.increment or 10)


def _read(images: Iterable[str], classes: tuple[str, ...], split: str) -> ImageSet:
    members = [name for name in images if name.startswith(f"{split}/")]
    labels = [classes.index(Path(name).stem) for name in members]
    source = ZipSource([(ARCHIVE, name) for name in members])
    return ImageSet.of(source, labels, [f"emoji-demo:{name}" for name in members])
