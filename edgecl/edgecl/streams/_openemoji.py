"""Stream `openemoji10`: named emoji in ten art styles (domains), class- or domain-incremental.

cil   A class is a concept (an icon name). Training images are of `train_styles`, test images of
      `test_styles`: one image per concept and style. A concept needs an image for both.
dil   A class is one of eight Unicode groups (food, animals, ...), a task is a style. In each group
      a fraction of the *concepts* is held out for tests, the same in every style.
dcil  As dil, but a task is a pair of a style and `increment` of the groups; the seed draws the
      order of all pairs, so a task has new classes, a new domain, or both
      (versatile incremental learning, Park et al., ECCV 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgecl.config import nearest
from edgecl.streams._build import DataSet, class_incremental, finish
from edgecl.streams._errors import StreamError
from edgecl.streams._openemoji_fetch import (
    concept_digest,
    is_unseen,
    openemoji10_folder,
    read_index,
    styles,
)
from edgecl.streams._options import (
    ClassOptions,
    HeldOutOptions,
    ProtocolOptions,
    option,
    refuse,
)
from edgecl.streams._registry import register_stream
from edgecl.streams._select import class_order, shuffled
from edgecl.streams._sources import ZipSource
from edgecl.streams._types import ImageSet, Stream, Task

TRAIN_STYLES = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
TEST_STYLES = ("fluent-emoji",)
MIN_GROUP = 10  # concepts; drops the group Flags, which has eight
Concepts = Literal["unseen", "seen", "all"]


@dataclass(frozen=True)
class OpenEmojiOptions(ProtocolOptions, HeldOutOptions, ClassOptions):
    """Options of `openemoji10`; `test_fraction` is of the concepts of a group."""

    root: str | None = option("Where the data set's files are.", path=True)
    concepts: Concepts | None = option("Which concepts; unseen by default.")  # noqa: RUF009 a field
    train_styles: tuple[str, ...] | None = option("A style of the training images, or a domain.")
    test_styles: tuple[str, ...] | None = option("A style of the test images.")


@register_stream("openemoji10", OpenEmojiOptions)
def openemoji10(options: OpenEmojiOptions) -> Stream:
    """Build the stream; `root` replaces the user's cache folder."""
    folder = openemoji10_folder(None if options.root is None else Path(options.root))
    concepts = _choose(read_index(folder)["concepts"], options.concepts or "unseen")
    protocol = options.protocol or "cil"
    if protocol == "cil":
        refuse(options, ("test_fraction",), "openemoji10 as cil tests on whole styles")
        refuse(options, ("hold_out",), "openemoji10 as cil has no domains")
        return _by_concept(folder, concepts, options)
    unfit = ("test_styles", "classes", "base", "class_order")
    refuse(options, unfit, f"openemoji10 as {protocol} tests on held-out concepts of all groups")
    if protocol == "dil":
        refuse(options, ("increment",), "openemoji10 as dil has one style per task")
    return _by_group(folder, concepts, options)


def _choose(concepts: Mapping[str, Any], which: str) -> dict[str, Any]:
    chosen = [n for n in concepts if which == "all" or is_unseen(n) == (which == "unseen")]
    return {name: concepts[name] for name in sorted(chosen, key=concept_digest)}


def _styles(asked: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    known = [style.style for style in styles()]
    for style in asked or ():
        if style not in known:
            raise StreamError(
                f"A style must be one of {', '.join(known)}; got {style!r}. {nearest(style, known)}"
            )
    return asked or default


def _by_concept(folder: Path, concepts: dict[str, Any], options: OpenEmojiOptions) -> Stream:
    train_styles = _styles(options.train_styles, TRAIN_STYLES)
    test_styles = _styles(options.test_styles, TEST_STYLES)
    classes = tuple(
        name
        for name, concept in concepts.items()
        if not set(train_styles).isdisjoint(concept["styles"])
        and not set(test_styles).isdisjoint(concept["styles"])
    )
    train, test = (
        _images(
            folder,
            [
                (style, name, label)
                for label, name in enumerate(classes)
                for style in wanted
                if style in concepts[name]["styles"]
            ],
        )
        for wanted in (train_styles, test_styles)
    )
    return class_incremental(DataSet(classes, train, test), options, options.increment or 20)


def _images(folder: Path, cells: list[tuple[str, str, int]]) -> ImageSet:
    """Build the set of these (style, concept, label)."""
    source = ZipSource([(folder / f"{style}.zip", f"{name}.png") for style, name, _ in cells])
    names = [f"openemoji10:{style}/{name}" for style, name, _ in cells]
    return ImageSet.of(source, [label for _, _, label in cells], names)


def _by_group(folder: Path, concepts: dict[str, Any], options: OpenEmojiOptions) -> Stream:
    splits = _split_groups(concepts, options)
    domains = _styles(options.train_styles, tuple(style.style for style in styles()))
    names = [sorted(splits)[i] for i in class_order(len(splits), options.seed)]
    size = len(names) if options.protocol == "dil" else options.increment or 2
    blocks = [names[i : i + size] for i in range(0, len(names), size)]
    pairs = [(domain, block) for domain in domains for block in blocks]
    pairs = [pairs[i] for i in class_order(len(pairs), options.seed)]
    classes = tuple(dict.fromkeys(name for _, block in pairs for name in block))
    tasks = []
    for number, (domain, block) in enumerate(pairs):
        train, test = (
            _images(
                folder,
                [
                    (domain, concept, classes.index(group))
                    for group in block
                    for concept in splits[group][part]
                    if domain in concepts[concept]["styles"]
                ],
            )
            for part in ("train", "test")
        )
        present = tuple(sorted(block, key=classes.index))
        tasks.append(Task(f"task_{number:02d}_{domain}", present, train, test))
    return finish(options.protocol or "dil", classes, tasks, options)


def _split_groups(
    concepts: dict[str, Any], options: OpenEmojiOptions
) -> dict[str, dict[str, list[str]]]:
    """Hold out concepts of each Unicode group, the same for all styles."""
    groups: dict[str, list[str]] = {}
    for name, concept in concepts.items():
        if concept["group"] is not None:
            groups.setdefault(concept["group"], []).append(name)
    splits = {}
    for group, members in groups.items():
        if len(members) >= MIN_GROUP:
            held = round(options.fraction * len(members))
            order = [members[i] for i in shuffled(len(members), "group", options.seed, group)]
            splits[group] = {"train": order[held:], "test": order[:held]}
    return splits
