"""Stream `mtil-mini`: ten tasks, each with its own classes and its own domain, in two orders.

A small version of multi-domain task-incremental learning (MTIL; Zheng et al., ZSCL, ICCV 2023,
https://arxiv.org/abs/2303.06628): seven themes of icons, each in its own art style, Open Clip Art,
Fashion-MNIST and digits. A text tower can read the class names.

data/mtil_mini.json fixes the tasks, their orders, and every image of the icons and of the clip
art. A class of icons has several concepts, of which some are for training and the others for
tests, so that no drawing is in both.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.streams._build import DataSet, check_classes, finish
from edgecl.streams._errors import StreamError
from edgecl.streams._openemoji_fetch import openemoji10_folder, read_index
from edgecl.streams._options import StreamOptions, option
from edgecl.streams._registry import load_stream, register_stream, takes_option
from edgecl.streams._sources import PathSource, ZipSource
from edgecl.streams._types import ImageSet, Stream, Task

PLAN = Path(__file__).parent / "data" / "mtil_mini.json"
DEBIAN = Path("/usr/share/openclipart/png")
Plan = Mapping[str, Any]  # one task of the data file


@dataclass(frozen=True)
class MtilMiniOptions(StreamOptions):
    """Options of `mtil-mini`, whose tasks are fixed."""

    root: str | None = option("Where the data set's files are.", path=True)
    order: int | None = option("The order of the tasks, 1 or 2.")


@register_stream("mtil-mini", MtilMiniOptions)
def mtil_mini(options: MtilMiniOptions) -> Stream:
    """Build the stream; `root` may hold openemoji10/, openclipart/ and fashion-mnist/.

    Raises:
        StreamError: the order is unknown.
    """
    plan = json.loads(PLAN.read_bytes())
    order = str(1 if options.order is None else options.order)
    if order not in plan["orders"]:
        raise StreamError(
            f"order must be one of {', '.join(plan['orders'])} for mtil-mini; got {order}. "
            "Leave it out for order 1."
        )
    root = None if options.root is None else Path(options.root)
    tasks: list[Task] = []
    classes: tuple[str, ...] = ()
    for name in plan["orders"][order]:
        task = plan["tasks"][name]
        data = SOURCES[task["source"]](task, root)
        new_label = range(len(classes), len(classes) + len(data.classes))
        train, test = data.train.relabel(new_label), data.test.relabel(new_label)
        tasks.append(Task(name, data.classes, train, test))
        classes += data.classes
    check_classes(classes)
    return finish("dcil", classes, tasks, options, order=int(order))


def _icons(task: Plan, root: Path | None) -> DataSet:
    """Read concepts of OpenEmoji-10, each in those of the task's styles that have it."""
    folder = openemoji10_folder(root if _inside(root, "openemoji10") else None)
    concepts = read_index(folder)["concepts"]

    def read(part: str) -> ImageSet:
        cells = [
            (style, concept, label)
            for label, members in enumerate(task["classes"].values())
            for concept in members[part]
            for style in task["styles"]
            if style in concepts[concept]["styles"]
        ]
        source = ZipSource([(folder / f"{style}.zip", f"{c}.png") for style, c, _ in cells])
        names = [f"openemoji10:{style}/{concept}" for style, concept, _ in cells]
        return ImageSet.of(source, [label for *_, label in cells], names)

    return DataSet(tuple(task["classes"]), read("train"), read("test"))


def _clip_art(task: Plan, root: Path | None) -> DataSet:
    """Read files of Open Clip Art, which Debian's package openclipart-png installs."""
    folder = _inside(root, "openclipart") or DEBIAN

    def read(part: str) -> ImageSet:
        cells = [
            (file, label)
            for label, members in enumerate(task["classes"].values())
            for file in members[part]
        ]
        paths = [folder / file for file, _ in cells]
        if missing := next((path for path in paths if not path.is_file()), None):
            raise StreamError(
                f"Stream 'mtil-mini' needs Open Clip Art as PNG; {missing} does not exist. Install "
                "Debian's openclipart-png, or give root, a folder with that package's png folder "
                "as ROOT/openclipart."
            )
        names = [f"openclipart:{file}" for file, _ in cells]
        return ImageSet.of(PathSource(paths), [label for _, label in cells], names)

    return DataSet(tuple(task["classes"]), read("train"), read("test"))


def _from_stream(task: Plan, root: Path | None) -> DataSet:
    """Take `images` training and test images of each class of another stream, classes renamed."""
    name, names, count = task["source"], task["classes"], task["images"]
    options: dict[str, Any] = {"seed": None, "increment": len(names), "shots": count}
    if takes_option(name, "root") and (folder := _inside(root, name)):
        options["root"] = str(folder)
    (whole,) = load_stream(name, **options, limit_test=count * len(names)).tasks
    return DataSet(tuple(names[known] for known in whole.classes), whole.train, whole.test)


def _inside(root: Path | None, name: str) -> Path | None:
    folder = None if root is None else root / name
    return folder if folder is not None and folder.is_dir() else None


SOURCES: dict[str, Callable[[Plan, Path | None], DataSet]] = {
    "openemoji10": _icons,
    "openclipart": _clip_art,
    "fashion-mnist": _from_stream,
    "digits": _from_stream,
}
