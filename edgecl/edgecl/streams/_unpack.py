"""Write a stream as a folder of images, to look at or to use with other commands."""

from collections.abc import Sequence
from pathlib import Path

from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._types import ImageSet, Stream


def unpack(stream: Stream, out: Path) -> int:
    """Write OUT/train/task_00/CLASS/000.png and OUT/test/...; return the number of images.

    `load_stream(str(OUT))` reads the folder back with the same tasks, of a stream with shared names
    by `shared_names=True`, under the names of the folder's tasks. Broken images are left out.

    Raises:
        StreamError: the folder exists, or the stream has tasks that are only tested.
    """
    if stream.held_out:
        raise StreamError(
            f"Only tasks that are trained can be unpacked, got {stream.held_out[0].name}, which is "
            "held out. Leave hold_out out; it can be given for the folder."
        )
    if out.exists():
        raise StreamError(f"OUT must be a new folder, got {out}. Choose another, or remove it.")
    written = 0
    for index, task in enumerate(stream.tasks):
        for part, images in (("train", task.train), ("test", task.test)):
            names = dict(zip(task.classes, task.read_names, strict=True))
            folders = [names.get(name, name) for name in stream.classes]
            written += _write(images, folders, out / part / f"task_{index:02d}")
    return written


def _write(images: ImageSet, classes: Sequence[str], folder: Path) -> int:
    written = 0
    for index, label in enumerate(images.labels):
        path = folder / classes[label] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            images.image(index).save(path)
        except BrokenImageError:
            continue
        written += 1
    return written
