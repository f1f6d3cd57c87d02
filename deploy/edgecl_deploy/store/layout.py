"""The names of the files and folders of a store."""

import os
from pathlib import Path

from edgecl_deploy.manifest.whole import TEMPORARY

CONFIG, ROOT, STATE, DENIED = "config.json", "root.json", "state.json", "denied.json"
FLOOR, FLOOR_FORMAT = "floor.json", "edgecl-floor/2"  # of edgecl_deploy.update.floor
LOCK, QUEUE, CURRENT = "lock", "queue", "current"  # the queue: who waits for the lock
RESERVE = "reserve"  # bytes that an undo gives up when the disk is full
OBJECTS, GENERATIONS, STAGING, TUF = "objects", "generations", "staging", "tuf"
INHIBIT, HEALTH = "inhibit", "health"
LOCAL = "local"  # the classes that were enrolled on this device, of the user that serves
ENGINE = "engine.json"  # what `tune` measured
ARTEFACTS = "artefacts"  # what engines compile, of the user that serves
SPARE = "spare"  # second copies of the documents that nothing else can tell
PART, TEMP = "part", "tmp"  # in staging: resumable downloads, and what nobody resumes
FOLDERS = (OBJECTS, GENERATIONS, STAGING, TUF, INHIBIT, HEALTH, LOCAL, SPARE)
BEGUN = {
    *FOLDERS,
    LOCK,
    QUEUE,
    ROOT,
    STATE,
    DENIED,
    RESERVE,
    CURRENT,
    f"{TEMPORARY}{DENIED}",
    f"{TEMPORARY}{RESERVE}",
    f"{TEMPORARY}{ROOT}",
    f"{TEMPORARY}{STATE}",
    f"{TEMPORARY}{CURRENT}",
    f"{TEMPORARY}{CONFIG}",
}  # what `create` makes before the last step


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a store."""
    return any((Path(path) / name).is_file() for name in (CONFIG, f"{SPARE}/{CONFIG}"))


def has_local(folder: Path) -> bool:
    """Return whether a folder holds, or held, classes that were enrolled on this device."""
    return os.path.lexists(folder / CURRENT) or (folder / GENERATIONS).is_dir()
