"""Where everything is stored that can be fetched or made again: weights, data sets, features."""

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """Return the cache folder: $EDGECL_CACHE, or the user's."""
    return Path(os.environ.get("EDGECL_CACHE") or user_cache_dir("edgecl"))
