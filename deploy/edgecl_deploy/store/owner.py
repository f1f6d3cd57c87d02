"""Who a command acts as: a store belongs to one user, and stays that user's."""

import grp
import os
import pwd
from contextlib import suppress
from pathlib import Path

from edgecl_deploy.errors import StoreError, one_line

_MASK = 0o022  # what is private is not in a store, and its readers are other users


def act_as_owner(path: str | os.PathLike[str]) -> None:
    """Let this process act as the owner of a store's folder, if root runs it.

    A file of root in the store of another user would end that user's updates. This cannot be taken
    back, so it is for commands.

    Args:
        path: The folder; one that is not there yet belongs to who makes it.

    Raises:
        StoreError: Root is not allowed to act as somebody else, as in some containers.
    """
    os.umask(_MASK)
    if os.geteuid() != 0 or not Path(path).is_dir():
        return
    owner = os.stat(path)
    if owner.st_uid == 0:
        return
    try:
        _become(owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StoreError(
            f"a command on {os.fspath(path)} must act as its owner, user {owner.st_uid}",
            one_line(error),
            f"Run it as that user, with `sudo -u '#{owner.st_uid}' edgecl-device ...`.",
        ) from error


def _become(user: int, group: int) -> None:
    groups = {group}
    with suppress(KeyError):
        name = pwd.getpwuid(user)
        groups |= {name.pw_gid} | {each.gr_gid for each in grp.getgrall() if name[0] in each.gr_mem}
    os.setgroups(sorted(groups))
    os.setgid(group)
    os.setuid(user)
