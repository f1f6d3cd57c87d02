"""The names of the files and folders of a store."""

from edgecl_deploy.manifest.whole import TEMPORARY

CONFIG, ROOT, STATE, DENIED = "config.json", "root.json", "state.json", "denied.json"
LOCK, CURRENT = "lock", "current"
OBJECTS, GENERATIONS, STAGING, TUF = "objects", "generations", "staging", "tuf"
INHIBIT, HEALTH = "inhibit", "health"
PART, TEMP = "part", "tmp"  # in staging: resumable downloads, and what nobody resumes
FOLDERS = (OBJECTS, GENERATIONS, STAGING, TUF, INHIBIT, HEALTH)
BEGUN = {
    *FOLDERS,
    LOCK,
    ROOT,
    STATE,
    CURRENT,
    f"{TEMPORARY}{ROOT}",
    f"{TEMPORARY}{STATE}",
    f"{TEMPORARY}{CURRENT}",
    f"{TEMPORARY}{CONFIG}",
}  # what `create` makes before the last step
