"""Files that options of streams are given as: class orders, templates and images of each task."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgecl.config import nearest
from edgecl.streams._errors import StreamError
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest import names as rule

Templates = dict[str, tuple[str, ...]]  # of each task by its name
TaskImages = dict[str, tuple[str, ...]]  # likewise
_LISTS = Path(__file__).parent / "data" / "fscil"


def read_class_order(path: Path) -> list[str]:
    """Read names of classes: a JSON list, or one in each line; empty lines do not count.

    Raises:
        StreamError: the file cannot be read, or is neither.
    """
    text = _text(path, "class_order")
    if not text.lstrip().startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    names = _json(text, path, "class_order")
    if not all(isinstance(name, str) for name in names):
        raise StreamError(
            f"class_order must be a JSON list of names, or a text with one name in each line; "
            f"{path} holds {next(n for n in names if not isinstance(n, str))!r}. Put names in "
            "quotes."
        )
    return list(names)


def positions(order: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the position in the natural order of each class of an order.

    Raises:
        StreamError: the order does not name every class once.
    """
    known = {name: index for index, name in enumerate(classes)}
    count = Counter(map(rule.canonical, order))
    for what, wrong in (
        ("twice", [name for name, times in count.items() if times > 1]),
        ("unknown", [name for name in count if name not in known]),
        ("missing", [name for name in classes if name not in count]),
    ):
        if wrong:
            few = ", ".join(map(rule.quoted, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
            raise StreamError(
                f"class_order must name each of the {len(classes)} classes once; {len(wrong)} "
                f"{'are' if len(wrong) > 1 else 'is'} {what}: {few}. Correct the file; the names "
                "are those of the data set, spelled alike."
            )
    return tuple(known[name] for name in count)


def read_templates(path: Path) -> dict[str, Any]:
    """Read the templates of tasks: a JSON object, {"TASK": ["a photo of a {}."]}.

    Raises:
        StreamError: the file cannot be read, or is no JSON object.
    """
    found = _json(_text(path, "task_templates"), path, "task_templates")
    if not isinstance(found, dict):
        raise StreamError(
            "task_templates must be a JSON object, templates by the name of their task; "
            f'{path} is none. Write it so: {{"task_00": ["a photo of a {{}}."]}}.'
        )
    return found


def check_tasks(what: str, named: Iterable[str], tasks: Sequence[str]) -> None:
    """Check that what is given by task is of tasks of the stream.

    Raises:
        StreamError: if not.
    """
    for task in named:
        if task not in tasks:
            raise StreamError(
                f"{what} must be of tasks of the stream, {', '.join(tasks[:20])}"
                f"{', ...' if len(tasks) > 20 else ''}; got {rule.quoted(task)}. Correct the name."
            )


def check_templates(templates: Templates, tasks: Sequence[str]) -> None:
    """Check that templates are of tasks of the stream, and hold {} for the class name.

    Raises:
        StreamError: if not.
    """
    check_tasks("task_templates", templates, tasks)
    for task, each in templates.items():
        fits = all(
            template.isprintable() and "{}" in template and len(template) <= limits.MAX_CLASS_NAME
            for template in each
        )
        if not fits or not 0 < len(each) <= limits.MAX_TEMPLATES:
            raise StreamError(
                f"task_templates of a task must be 1 to {limits.MAX_TEMPLATES} printable texts of "
                f"at most {limits.MAX_CLASS_NAME} characters with {{}} for the class name; "
                f"{task} has {list(each[:3])}. Write them so: a photo of a {{}}."
            )


def published_images() -> list[str]:
    """Return the names of the lists of images that come with the package."""
    return sorted(file.name.removesuffix(".json") for file in _LISTS.iterdir())


def read_images(path: Path) -> dict[str, Any]:
    """Read which images tasks have: a JSON object, {"source": "...", "images": {"TASK": [...]}}.

    Args:
        path: of the file, or the name of a list that comes with the package.

    Raises:
        StreamError: the file cannot be read, or is no such object.
    """
    if str(path) in published_images():
        path = _LISTS / f"{path}.json"
    elif not path.suffix:
        raise StreamError(
            f"session_images must be a JSON file, or one of {', '.join(published_images())}; got "
            f"{str(path)!r}. {nearest(str(path), published_images())}"
        )
    found = _json(_text(path, "session_images"), path, "session_images")
    if not isinstance(found, dict) or not isinstance(found.get("images"), dict):
        raise StreamError(
            f"session_images must be a JSON object with images, by task; {path} is none. Write "
            'it so: {"source": "...", "images": {"task_01": ["CLASS/FILE"]}}.'
        )
    return dict(found["images"])


def _text(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > limits.MAX_PACK_MANIFEST:
            raise StreamError(
                f"{what} must be a file of at most {limits.MAX_PACK_MANIFEST} bytes; {path} has "
                f"{path.stat().st_size}. Give another file."
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise StreamError(
            f"{what} must be a file in UTF-8; {path} cannot be read ({error}). Check the path."
        ) from error


def _json(text: str, path: Path, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StreamError(
            f"{what} must be JSON; {path} is none ({error}). Correct the file."
        ) from error
