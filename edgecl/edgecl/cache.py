"""Where everything is stored that can be fetched or made again: weights, data sets, features."""

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """Return the cache folder: $EDGECL_CACHE, or the user's.

    A user without a home has a temporary one.
    """
    if chosen := os.environ.get("EDGECL_CACHE"):
        return Path(chosen)
    try:
        found = Path(user_cache_dir("edgecl"))
    except (RuntimeError, KeyError, OSError):  # no HOME, and no entry in the list of users
        found = Path("~")
    if found.is_absolute():
        return found
    return Path(tempfile.gettempdir()) / f"edgecl-{getattr(os, 'getuid', os.getpid)()}"
