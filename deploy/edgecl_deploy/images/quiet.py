"""Keeps Pillow's warnings about single files from everybody: a verdict of ours replaces them."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

_IGNORE = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings of Pillow's modules while any thread is inside.

    `warnings.catch_warnings` restores what its own thread found, so two threads that overlap would
    leave the filters of the wrong one. Here each call adds one entry and removes one.
    """
    cast("list[Any]", warnings.filters).insert(0, _IGNORE)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody replaced the filters meanwhile
            cast("list[Any]", warnings.filters).remove(_IGNORE)
