"""What there is to choose from: every method, what it costs to run and what it ships per task."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from typing import Any

from edgecl.backbones import load_backbone, load_clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import AnyMethod, build_method, methods
from edgecl.methods.status import Status
from edgecl.program.learned import TensorSpec

BACKBONE, CLIP = "vit-s14", "edgecl-clip-s"  # that the bytes are of
TASK, CLASSES, DTYPE = 10, 10, "float16"
BYTES = {True: 2, False: 4}  # of a number, by whether it survives float16
KINDS = ("once", "appended", "replaced")
FORGETS = {"rows": "class", "sums": "class", "tasks": "task", "last": "last"}
HEADING = (
    f"Bytes of the pack of task {TASK}, {CLASSES} classes a task, on {BACKBONE} in {DTYPE}; of "
    f"the vision-language methods on {CLIP}, the same ViT with a text tower. Once: "
    "in the first pack only. Appended: what the task adds. Replaced: whole in every pack. What "
    "tells images of no class comes on top: up to 6.7 KB a class, or 0.3 KB (`--unknown cosine`)."
)

STATUS = (
    "Equal steps: trained from the same start on the same batches as the public code, tensors and "
    "scores differ at most by the fraction in brackets of their largest entry. Compared accuracy: "
    "A_last less that of the public code, in points, on the same backbone, images and order. "
    "Tested: by our own tests alone."
)


@dataclass(frozen=True)
class Shipped:
    """One kind of what a method ships: the tensors and their bytes, without a pack's manifest."""

    bytes: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        passes: runs through the backbone per image; T is the number of tasks.
        ships: by kind: `once`, `appended` and `replaced`.
        status: see `Method`.
        reads_names: whether it reads class names, by the text tower of a CLIP.
        forgets: what can be forgotten exactly: a `class`, a `task` or the `last` task only.
        enrols: how a device teaches it a class: `mean`, `ridge`, `discriminant` or `text`; None: by
            a release only.
    """

    name: str
    title: str
    family: str
    passes: str
    ships: dict[str, Shipped]
    status: Status
    paper: str
    reads_names: bool
    forgets: str
    enrols: str | None

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        backbone = CLIP if methods()[self.name].needs_text else BACKBONE
        of = {"backbone": backbone, "task": TASK, "classes_per_task": CLASSES, "dtype": DTYPE}
        status = {**value["status"], "words": str(self.status)}
        return {**value, "status": status, "ships": {**of, **value["ships"]}}

    def row(self) -> dict[str, str]:
        """Return the columns of a table."""
        ships = {kind: size(self.ships[kind].bytes) for kind in KINDS}
        own = {"name": self.name, "family": self.family, "passes": self.passes}
        return {**own, **ships, "status": str(self.status)}


def catalogue() -> list[Entry]:
    """Return all methods, each in its default configuration, by name."""
    return [entry(build_method(name, place(kind.needs_text))) for name, kind in methods().items()]


def entry(method: AnyMethod) -> Entry:
    """Describe a method."""
    return Entry(
        name=method.name,
        title=method.title,
        family=method.family,
        passes=method.program.cost or str(len(method.program.passes)),
        ships=shipped(method, TASK, CLASSES),
        status=method.status,
        paper=method.paper,
        reads_names=method.needs_text,
        forgets=FORGETS[method.forgets],
        enrols=None if (how := method.program.enrol) is None else how.kind,
    )


def fitting(
    entries: Iterable[Entry],
    *,
    names: bool | None = None,
    passes: int | None = None,
    forgets: str | None = None,
    enrols: bool = False,
) -> list[Entry]:
    """Return the methods that do what is asked for.

    Args:
        names: whether they read class names.
        passes: most runs through the backbone per image, whatever the number of tasks.
        forgets: a `class` or a `task`, which can be forgotten exactly.
        enrols: whether a device can teach them a class.
    """
    return [
        each
        for each in entries
        if (names is None or each.reads_names == names)
        and (passes is None or (each.passes.isdecimal() and int(each.passes) <= passes))
        and (forgets is None or each.forgets in {"class", forgets})
        and (not enrols or each.enrols is not None)
    ]


@lru_cache(maxsize=2)
def place(needs_text: bool = False) -> BackboneSpec:
    """Return what methods must know of the backbone, whose weights do not matter here."""
    if needs_text:
        return BackboneSpec.of(load_clip(CLIP, random_seed=0))
    return BackboneSpec.of(load_backbone(BACKBONE, random_seed=0))


def shipped(method: AnyMethod, task: int, classes: int) -> dict[str, Shipped]:
    """Say what ships, as the method declares it.

    Args:
        task: from 1; the bytes of what is appended or replaced are of its pack.
        classes: of every task.
    """
    declared = method.program.declare()
    return {kind: _of(kind, declared, task, classes) for kind in KINDS}


def _of(kind: str, declared: dict[str, TensorSpec], task: int, classes: int) -> Shipped:
    items = {name: item for name, item in declared.items() if item.ships == kind}
    total = sum(
        prod(item.shape(classes, classes * (task - 1), task - 1)) * BYTES[item.half]
        for item in items.values()
    )
    return Shipped(total, tuple(items))


def in_words(ships: dict[str, Shipped]) -> str:
    """Say in short what ships, as in "1.1 MB once, 15 KB appended"."""
    return ", ".join(f"{size(ships[kind].bytes)} {kind}" for kind in KINDS if ships[kind].bytes)


def size(count: int) -> str:
    """Return bytes for people; nothing where there are none."""
    if not count:
        return ""
    if count < 1000:
        return f"{count} B"
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"
