"""Where everything is stored that can be fetched or made again: weights, data sets, features."""

import os
import re
import tempfile
from pathlib import Path

from platformdirs import user_cache_dir

from edgecl.errors import EdgeclError

LIMIT = "EDGECL_CACHE_LIMIT"
FEATURE_BYTES = 20 * 10**9  # of stored features, where the variable is not set
POWERS = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12}


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


def parse_bytes(text: str, what: str) -> int:
    """Return a number of bytes: digits, and K, M, G or T.

    Args:
        what: it is of, for the error.

    Raises:
        EdgeclError: if it is none.
    """
    found = re.fullmatch(r"\s*(\d{1,18})\s*([kmgt]?)b?\s*", text.lower())
    if found is None:
        raise EdgeclError(f"{what} must be a number of bytes, got {text!r}. Write for example 20G.")
    return int(found[1]) * 10 ** POWERS[found[2]]


def feature_bytes() -> int:
    """Return how many bytes of features may be stored: $EDGECL_CACHE_LIMIT, or 20 GB."""
    chosen = os.environ.get(LIMIT)
    return parse_bytes(chosen, LIMIT) if chosen else FEATURE_BYTES
