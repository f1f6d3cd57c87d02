"""The roles of a repository: who signs what, and how long a signature is valid."""

from datetime import timedelta

from edgecl_deploy.format import CHANNEL_NAME
from edgecl_export.errors import ChannelError

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
TOP = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)  # delegated by root; all others by targets
ONLINE = (SNAPSHOT, TIMESTAMP)  # one key signs both, by cron
RELEASES = "releases"  # signs the manifests of the channels
PACKS = "packs-"  # packs-<publisher> signs the objects of one publisher

LIFE = {
    ROOT: timedelta(days=730),
    TARGETS: timedelta(days=365),
    RELEASES: timedelta(days=365),
    PACKS: timedelta(days=365),
    SNAPSHOT: timedelta(days=30),
    TIMESTAMP: timedelta(days=14),
}
RENEW_BELOW = 0.3  # of its life left: `refresh` renews a role, `status` asks for it
KEYS = {ROOT: 3, TARGETS: 2, RELEASES: 2, PACKS: 1, TIMESTAMP: 1}  # made by `init`
ROOT_THRESHOLD = 2  # of the root's keys; every other role needs one signature
DEVELOPMENT = "x-edgecl-development"  # a field of the signed root: it has one key, not three


def life(role: str) -> timedelta:
    """Return how long a signature of a role is valid."""
    return LIFE[PACKS if role.startswith(PACKS) else role]


def packs_role(publisher: str) -> str:
    """Return the name of a publisher's role, after a check of the publisher's name."""
    check_name(publisher, "publisher")
    return f"{PACKS}{publisher}"


def paths_of(role: str) -> list[str]:
    """Return the patterns of the targets that a delegated role may sign."""
    return ["channels/*"] if role == RELEASES else [f"packs/{role[len(PACKS) :]}/*"]


def check_name(name: str, what: str) -> None:
    """Check the name of a channel or a publisher.

    Raises:
        ChannelError: if it holds more than lower-case words.
    """
    if len(name) > 64 or CHANNEL_NAME.fullmatch(name) is None:
        raise ChannelError(
            f"A {what} must be named by lower-case words such as stable or line-7, got {name!r}. "
            "Choose another name."
        )
