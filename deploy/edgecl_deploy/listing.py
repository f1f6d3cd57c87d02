"""Finds the image files that a person names: files, folders, and patterns such as 'a/**/*.jpg'.

Laws: the order is that of the names, so it is the same on every machine; no list is longer than one
folder's or one pattern's names; a folder that cannot be listed is an error, and never an empty one.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from edgecl_deploy.errors import OptionError, one_line

# What a folder is searched for. A file that is named itself may have any ending.
ENDINGS = frozenset({
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k"),
})  # fmt: skip
# What systems leave in folders of images; hidden names are left out in addition.
LEFTOVERS = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


def is_leftover(name: str) -> bool:
    """Return whether a name is hidden, or one that a system left there."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def is_image_name(name: str) -> bool:
    """Return whether a file in a folder is taken as an image."""
    return not is_leftover(name) and os.path.splitext(name)[1].lower() in ENDINGS


def find_images(named: Iterable[str]) -> Iterator[str]:
    """Return the paths of image files in the order in which they were named, each folder's sorted.

    Args:
        named: Files, folders (all image files under them; hidden names and what systems leave there
            are left out) and patterns of files. A name that is there is never a pattern.

    Raises:
        OptionError: A folder or a pattern has no image, or a folder cannot be listed.
    """
    named = list(named)
    for name in named:
        if next(_found(name), None) is not None:
            continue
        if os.path.isdir(name):
            action = f"Name another one, or files. The endings are {', '.join(sorted(ENDINGS))}."
            raise OptionError(f"the folder {name} must hold image files", "none", action)
        raise OptionError(
            f"the pattern {name} must match files", "none", "Check it; ** is folders of any depth."
        )
    return chain.from_iterable(map(_found, named))


def _found(name: str) -> Iterator[str]:
    if os.path.isdir(name):
        return images_under(name)
    if not os.path.lexists(name) and glob.has_magic(name):
        return _matching(name)
    return iter((name,))


def _matching(pattern: str) -> Iterator[str]:
    asked = set(Path(pattern).parts)
    for path in sorted(glob.iglob(pattern, recursive=True)):
        found = (part for part in Path(path).parts if part not in asked)
        if not any(map(is_leftover, found)) and not os.path.isdir(path):
            yield path


def images_under(
    folder: str, above: tuple[tuple[int, int], ...] = (), *, skip: bool = False
) -> Iterator[str]:
    """Yield the image files under a folder, sorted by folder.

    Args:
        folder: The folder.
        above: The device and number of the folders above it: a link to one of them is no end.
        skip: Leave out a folder below that cannot be listed.

    Raises:
        OptionError: A folder cannot be listed.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            names = sorted((each.name, each.is_dir()) for each in entries)
    except OSError as error:
        if skip and above:
            return
        raise OptionError(
            f"the folder {folder} must be readable", one_line(error), "Give this user the right."
        ) from error
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if is_folder and not is_leftover(name):
            yield from images_under(path, (*above, own), skip=skip)
        elif not is_folder and is_image_name(name):
            yield path
