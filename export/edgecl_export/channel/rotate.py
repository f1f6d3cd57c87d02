"""Adding, replacing and revoking keys; the draft then signs again what the change invalidates.

A key that signs for several roles is replaced or revoked in all of them.
"""

from collections.abc import Iterable

from tuf.api.metadata import DelegatedRole, Delegations, Key

from edgecl_export.channel.draft import Draft
from edgecl_export.channel.metadata import delegated
from edgecl_export.channel.roles import PACKS, TOP, packs_role, paths_of
from edgecl_export.errors import ChannelError

SHORTEST = 6  # digits of a keyid that are enough to name it


def roles_of(draft: Draft) -> list[str]:
    """List all roles."""
    return [*TOP, *delegated(draft.targets)]


def check_role(draft: Draft, role: str) -> None:
    """Check that a role exists.

    Raises:
        ChannelError: if it does not.
    """
    if role not in roles_of(draft):
        raise ChannelError(
            f"The role must be one of {', '.join(roles_of(draft))}, got {role!r}. "
            "A new publisher comes with `edgecl channel key add packs-NAME`."
        )


def delegate(draft: Draft, role: str, keys: Iterable[Key]) -> None:
    """Delegate from targets to a role: one signature of these keys, for its own paths only."""
    targets = draft.edit("targets")
    if targets.delegations is None or targets.delegations.roles is None:
        targets.delegations = Delegations({}, {})
    assert targets.delegations.roles is not None
    targets.delegations.roles[role] = DelegatedRole(role, [], 1, True, paths_of(role))
    for key in keys:
        targets.add_key(key, role)


def add_key(draft: Draft, role: str, public: bytes | None, uri: str | None) -> str:
    """Add a key to a role, or a publisher with its first key.

    Args:
        role: A role, or `packs-NEW`.
        public: The public part (PEM) of a key that is elsewhere; None makes a key in KEYS.
        uri: Where the private part of such a key is.

    Returns:
        The keyid.

    Raises:
        ChannelError: if the role does not exist, or has the key.
    """
    new = role.startswith(PACKS) and role not in roles_of(draft)
    if new:
        packs_role(role[len(PACKS) :])  # checks the name
    else:
        check_role(draft, role)
    key = draft.keys.make([role]) if public is None else draft.keys.adopt(public, uri, role)
    if new:
        delegate(draft, role, [key])
        return key.keyid
    if key.keyid in draft.parent(role).get_delegated_role(role).keyids:
        raise ChannelError(
            f"A key must be new to {role}, got {key.keyid[:12]}, which it has. Give another one."
        )
    draft.edit_parent(role).add_key(key, role)
    return key.keyid


def rotate_key(draft: Draft, role: str, keyid: str | None) -> dict[str, str]:
    """Replace a key of a role by a new one, or all of them.

    For snapshot and timestamp this also ends a fast-forward attack: devices forget the versions
    that the replaced key has signed (TUF 1.0.34, 5.3.11).

    Args:
        keyid: The key, or the beginning of its keyid; None for all keys of the role.

    Returns:
        The new keyid of each replaced one.
    """
    check_role(draft, role)
    listed = list(draft.parent(role).get_delegated_role(role).keyids)
    old = listed if keyid is None else [find_key(draft, role, keyid)]
    replaced = {}
    for each in old:
        affected = roles_with(draft, each)
        key = draft.keys.make(affected)
        replaced[each] = key.keyid
        for name in affected:
            draft.edit_parent(name).add_key(key, name)
            draft.edit_parent(name).revoke_key(each, name)
    return replaced


def revoke_key(draft: Draft, role: str, keyid: str) -> list[str]:
    """Take a key away from every role that has it.

    Returns:
        These roles.

    Raises:
        ChannelError: if a role would have fewer keys than it needs.
    """
    check_role(draft, role)
    keyid = find_key(draft, role, keyid)
    affected = roles_with(draft, keyid)
    for name in affected:
        listed = draft.parent(name).get_delegated_role(name)
        if len(listed.keyids) - 1 < listed.threshold:
            raise ChannelError(
                f"{name} must keep {listed.threshold} of its {len(listed.keyids)} keys, found that "
                f"it would not without {keyid[:12]}. Run `edgecl channel key rotate {role}`, or "
                f"first `edgecl channel key add {name}`."
            )
    for name in affected:
        draft.edit_parent(name).revoke_key(keyid, name)
    return affected


def roles_with(draft: Draft, keyid: str) -> list[str]:
    """List the roles that have a key."""
    return [
        role
        for role in roles_of(draft)
        if keyid in draft.parent(role).get_delegated_role(role).keyids
    ]


def find_key(draft: Draft, role: str, keyid: str) -> str:
    """Return the whole keyid.

    Raises:
        ChannelError: if the role has no such key, or several.
    """
    listed = draft.parent(role).get_delegated_role(role).keyids
    found = [each for each in listed if each.startswith(keyid) and len(keyid) >= SHORTEST]
    if len(found) != 1:
        raise ChannelError(
            f"KEYID must name one key of {role}, with {SHORTEST} digits or more: "
            f"{', '.join(each[:12] for each in listed)}; got {keyid!r}. "
            "If it was revoked just now and the command was interrupted, `edgecl channel refresh` "
            "finishes the work."
        )
    return found[0]
