"""Tables of labels: CSV, TSV and JSON lines with a row per image.

A table names the file, and either its label or, in a column per class, a 1 in one of them; also its
task, its split and its domain. Tables may be at the top of a folder, also one per split that is
named after it, or in each part (`train/_classes.csv`).
"""

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from edgecl.streams._build import check_classes, check_name
from edgecl.streams._errors import StreamError
from edgecl.streams.folders.layouts import (
    UNUSED_TABLE,
    UNUSED_VAL,
    Item,
    Layout,
    LayoutError,
    Part,
    part_of,
    task_of,
)
from edgecl.streams.folders.tree import File, Folder, Tree
from edgecl_deploy.manifest.names import spelled

MAX_BYTES = 256 * 1024 * 1024
COLUMNS = {
    "file": "file filename file_name filepath file_path path image_path img_path image img name "
    "image_id id",
    "label": "label labels class class_name classname class_label category label_name target",
    "task": "task task_id",
    "split": "split set subset partition is_valid is_test",
    "domain": "domain",
}
BOXES = {"xmin", "x_min", "x1", "bbox", "bboxes", "boxes"}  # a table of objects, not of images
NOT_NAMED = "an image that the table does not name"
THE_TABLE = "the table of labels"
NO_LABEL = "without a label in the table"
LABELS = "with several labels in the table"
ON, OFF = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}


@dataclass(slots=True)
class Row:
    """One row of a table: where it is, and the words in it; none where it has no such column."""

    number: int
    file: str
    labels: tuple[str, ...]
    task: str | None
    part: Part | None
    domain: str | None


@dataclass(eq=False)
class Table:
    """A table that was understood.

    Attributes:
        file: it.
        folder: that it is in.
        part: that all of its rows are of, by its name or its folder.
        rows: of it.
        columns: that were understood, by what they are.
    """

    file: File
    folder: Folder
    part: Part | None
    rows: list[Row]
    columns: dict[str, str]


def find_tables(tree: Tree, base: Folder, given: str | None) -> list[Table]:
    """Return the tables that hold the labels of a tree; none where there is none.

    Args:
        given: the name of the one table to read, in the base folder; it must be understood.

    Raises:
        StreamError: there are several that cannot be told apart, or one cannot be read.
    """
    if given is not None:
        file = next((file for file in base.tables if file.name == given), None)
        found = None if file is None else _read(tree, base, file, None)
        if found is None:
            raise StreamError(
                f"A table of images must have a column 'file' and a column 'label', or one column "
                f"of 0 and 1 per class; {spelled(given)} has not. Rename its columns."
            )
        return [found]
    tables = [t for f in base.tables if (t := _read(tree, base, f, part_of(_stem(f.name))))]
    for inner in base.folders.values():
        part = part_of(inner.name)
        if part:
            tables += [t for f in inner.tables if (t := _read(tree, inner, f, part))]
    if len(tables) > 1 and (
        any(t.part is None for t in tables) or len({t.part for t in tables}) < len(tables)
    ):
        raise StreamError(
            f"The labels must be in one table, or in one of each part; {tree.path(base)} has "
            f"{', '.join(spelled(t.file.name) for t in tables[:5])}. Give the path of the table in "
            "place of the folder, or move the others out."
        )
    return tables


def by_tables(tree: Tree, tables: list[Table], protocol: str | None) -> Layout:
    """Return the layout that tables describe.

    Raises:
        StreamError: two rows contradict each other, or no row is for training.
    """
    files = Lookup(tree)
    by_domain = protocol in ("dil", "dcil") and not any("task" in t.columns for t in tables)
    column = "domain" if by_domain else "task"
    named = any(column in table.columns for table in tables)
    labels: dict[int, tuple[Part, str, str | None, int]] = {}
    rows: list[tuple[File, Part, str, str | None]] = []
    missing: list[str] = []
    aside: list[tuple[str, File]] = []
    for table in tables:
        for row in table.rows:
            file = files.find(row.file, table.folder, table.part)
            if file is None:
                missing.append(row.file)
                continue
            task = (row.domain if by_domain else row.task) if named else None
            what = (row.part or "train", "\n".join(row.labels), task)
            if id(file) in labels:
                _same(table, row, labels[id(file)], what)
                continue
            labels[id(file)] = (*what, row.number)
            if len(row.labels) != 1:
                aside.append((LABELS if row.labels else NO_LABEL, file))
                continue
            if named and task is None:
                raise StreamError(
                    f"Every row of a table must have a {column} where one has; row {row.number} of "
                    f"{spelled(table.file.name)} has none. Fill the column in."
                )
            rows.append((file, what[0], row.labels[0], task))
    layout = _layout(tree, tables, rows)
    layout.aside += aside
    used_tables = {id(table.file) for table in tables}
    for folder in tree.top.all_folders():
        layout.aside += [(NOT_NAMED, f) for f in folder.images if id(f) not in labels]
        for file in folder.tables:
            layout.aside.append((THE_TABLE if id(file) in used_tables else UNUSED_TABLE, file))
    if missing:
        few = ", ".join(spelled(name) for name in missing[:3])
        layout.notes.append(f"{len(missing)} rows of the table name no image: {few}")
    return layout


def _layout(
    tree: Tree, tables: list[Table], rows: list[tuple[File, Part, str, str | None]]
) -> Layout:
    """Return the layout of rows with one label each.

    Raises:
        LayoutError: no row is for training.
        StreamError: a class of the test part is not trained.
    """
    parts = {part for _, part, _, _ in rows}
    used = "test" if "test" in parts else "val"
    name = ", ".join(spelled(table.file.name) for table in tables)
    if not any(part == "train" for _, part, _, _ in rows):
        raise LayoutError(
            tree,
            f"A table must name images to train on; {name} names none. Check its columns 'file', "
            "'label' and 'split'.",
        )
    raw = sorted({label for _, _, label, _ in rows})
    stored = dict(zip(raw, check_classes(raw, name), strict=True))
    rows = [(file, part, stored[label], task) for file, part, label, task in rows]
    training = [row for row in rows if row[1] == "train"]
    classes = set(stored.values())
    tasks = _order(dict.fromkeys(str(task) for *_, task in training if task is not None))
    fixed = name if parts & {"val", "test"} else None
    words = f"table {name}, {len(classes)} classes" + (f" in {len(tasks)} tasks" if tasks else "")
    layout = Layout(words, [], tasks or None, fixed)
    for _, _, label, task in training:
        layout.trained[str(task) if tasks else None, label] = name
    for file, part, label, task in rows:
        key = str(task) if tasks else None
        held = part != "train"
        if held and part != used:
            layout.aside.append((UNUSED_VAL, file))
            continue
        if held and (key, label) not in layout.trained:
            raise StreamError(
                f"The test part must hold classes of the training part only; {name} has also "
                f"{spelled(label)!r}. Remove these rows, or add training images."
            )
        layout.items.append(Item(file, held, key, label))
    if used == "val" and "val" in parts:
        layout.notes.append("the validation part is the test part, as there is no other")
    return layout


def _order(tasks: dict[str, None]) -> dict[str, str]:
    """Return the tasks in the order of their numbers, else in that of the table."""
    numbers = {name: name if name.isdecimal() else task_of(name) for name in tasks}
    order = list(tasks)
    if all(number is not None for number in numbers.values()):
        order.sort(key=lambda name: (int(numbers[name] or 0), name))
    return {name: check_name(name, "A task") for name in order}


def _same(
    table: Table, row: Row, first: tuple[Part, str, str | None, int], again: tuple[Any, ...]
) -> None:
    """Refuse a file that two rows tell different things of.

    Raises:
        StreamError: they do.
    """
    if first[:3] != again:
        raise StreamError(
            f"A file must have one label, task and split; row {row.number} of "
            f"{spelled(table.file.name)} contradicts row {first[3]} on {spelled(row.file)}. Remove "
            "one."
        )


class Lookup:
    """Finds the file that a row means: by its path, in its part's folder, by its name or stem."""

    def __init__(self, tree: Tree) -> None:
        self._root = tree.root.as_posix().rstrip("/") + "/"
        self._by_path: dict[str, File] = {}
        self._by_base: dict[str, File | None] = {}
        self._by_stem: dict[str, File | None] = {}
        self._in_parts: dict[tuple[str, Part | None], dict[str, File]] = {}
        for file in tree.top.all_images():
            base = file.name.rpartition("/")[2]
            self._by_path[file.name] = file
            for index, key in ((self._by_base, base), (self._by_stem, _stem(base))):
                index[key] = None if key in index else file

    def find(self, name: str, folder: Folder, part: Part | None) -> File | None:
        """Return the file of a name in a table; None where there is none.

        Of a name without a folder that several files have, too.
        """
        name = name.replace("\\", "/").removeprefix(self._root)
        name = "/".join(piece for piece in name.split("/") if piece not in ("", "."))
        own = f"{folder.path}/{name}" if folder.path else name
        parts = self._in_part(folder, part)
        file = self._by_path.get(own) or parts.get(name) or self._by_path.get(name)
        if file is not None:
            return file
        base = name.rpartition("/")[2]
        if base in self._by_base:
            return self._by_base[base]
        return self._by_stem.get(base)

    def _in_part(self, folder: Folder, part: Part | None) -> dict[str, File]:
        """Return the files in a folder's folders of a part, by their paths there; the first one."""
        key = (folder.path, part)
        if key not in self._in_parts:
            inner = [f for f in folder.folders.values() if part_of(f.name) == part]
            self._in_parts[key] = {
                file.name[len(place.path) + 1 :]: file
                for place in reversed(inner)
                for file in place.all_images()
            }
        return self._in_parts[key]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _read(tree: Tree, folder: Folder, file: File, part: Part | None) -> Table | None:
    """Read a table; None where it is none of images; a row with another split is an error."""
    if file.size > MAX_BYTES:
        return None
    path = tree.root / file.name
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = _records(text) if file.ending in (".jsonl", ".ndjson") else _lines(text)
            return _table(file, folder, part, rows)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError):
        return None


def _lines(text: Any) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV whose first line names the columns."""
    head = text.readline(1 << 16)
    delimiter = max(",;\t", key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if not any(names):
        return
    for values in csv.reader(text, delimiter=delimiter, skipinitialspace=True):
        if any(value.strip() for value in values):
            yield dict(zip(names, (value.strip() for value in values), strict=False))


def _records(text: Any) -> Iterator[dict[str, str]]:
    """Yield the objects of JSON lines, values as text."""
    for line in text:
        if line.strip():
            value = json.loads(line)
            if not isinstance(value, dict):
                return
            yield {str(key).strip(): _words(item) for key, item in value.items()}


def _words(value: object) -> str:
    """Return a value of JSON as text; a list of labels in lines."""
    if isinstance(value, list):
        return "\n".join(_words(item) for item in value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return "" if value is None else str(value).strip()


def _table(
    file: File, folder: Folder, part: Part | None, rows: Iterator[dict[str, str]]
) -> Table | None:
    """Understand the columns, and the rows by them; None where no column names files or labels."""
    records = list(rows)
    names = list(dict.fromkeys(name for record in records[:100] for name in record))
    columns = _columns(names)
    if "file" not in columns or not records or BOXES & {name.lower() for name in names}:
        return None
    classes: list[str] = []
    if "label" not in columns:
        others = [name for name in names if name not in columns.values()]
        classes = [n for n in others if all(_bit(r.get(n, "")) is not None for r in records)]
        ones = sum(_bit(record.get(name, "")) == 1 for record in records for name in classes)
        if len(classes) < 2 or len(classes) < len(others) or not ones:
            return None
    found = [
        Row(
            number,
            record.get(columns["file"], ""),
            _labels(record, columns, classes),
            record.get(columns.get("task", ""), "") or None,
            part or _split(file, number, record, columns),
            record.get(columns.get("domain", ""), "") or None,
        )
        for number, record in enumerate(records, start=1)
    ]
    return Table(file, folder, part, found, columns)


def _labels(record: dict[str, str], columns: dict[str, str], classes: list[str]) -> tuple[str, ...]:
    """Return the labels of a row."""
    if classes:
        return tuple(name for name in classes if _bit(record.get(name, "")) == 1)
    text = record.get(columns["label"], "")
    return tuple(label for label in re.split(r"[\n|]", text) if label)


def _columns(names: list[str]) -> dict[str, str]:
    """Return the names of the columns that are understood, by what they are."""
    small = {re.sub(r"[ -]", "_", name.strip().lower()): name for name in reversed(names)}
    found: dict[str, str] = {}
    for what, words in COLUMNS.items():
        for word in words.split():
            if word in small and small[word] not in found.values():
                found[what] = small[word]
                break
    return found


def _bit(text: str) -> int | None:
    """Return the truth of a cell of a column per class; None where it is no truth."""
    text = text.lower()
    return 1 if text in ON else 0 if text in OFF else None


def _split(file: File, number: int, record: dict[str, str], columns: dict[str, str]) -> Part | None:
    """Return the part that a row names.

    Raises:
        StreamError: it names something else.
    """
    if "split" not in columns:
        return None
    column, text = columns["split"], record.get(columns["split"], "")
    if column.lower() in ("is_valid", "is_test"):
        held: Part = "val" if column.lower() == "is_valid" else "test"
        part: Part | None = held if _bit(text) else "train"
    else:
        part = part_of(text)
    if part is None:
        raise StreamError(
            f"A split must be train, val or test; row {number} of {spelled(file.name)} has "
            f"{spelled(text)!r}. Rename it."
        )
    return part
