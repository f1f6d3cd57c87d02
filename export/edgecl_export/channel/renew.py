"""The first versions of all roles, and new versions of those that expire soon."""

from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Role, Root, Snapshot, Targets, Timestamp

from edgecl_export.channel.draft import Draft, unsigned
from edgecl_export.channel.metadata import State
from edgecl_export.channel.roles import (
    DEVELOPMENT,
    KEYS,
    ONLINE,
    PACKS,
    RELEASES,
    ROOT,
    ROOT_THRESHOLD,
    TARGETS,
    TIMESTAMP,
)
from edgecl_export.channel.rotate import delegate
from edgecl_export.channel.status import needs_renewal


@dataclass(frozen=True)
class Refreshed:
    """What `refresh` has signed, and what it could not because a key is missing."""

    signed: tuple[str, ...]
    missing: tuple[str, ...]


def empty_state(now: datetime) -> State:
    """Return the state of a site before its first version."""
    return State(
        [],
        unsigned(Timestamp(expires=now)),
        unsigned(Snapshot(expires=now, meta={})),
        {TARGETS: unsigned(Targets(expires=now))},
    )


def fill(draft: Draft, packs: str, *, development: bool) -> None:
    """Make the keys and the roles of a new site.

    Args:
        packs: The role of its first publisher.
        development: One key for each role; the root is marked.
    """
    root = draft.new_root = unsigned(Root(expires=draft.now))
    counts = dict.fromkeys(KEYS, 1) if development else KEYS
    keys = draft.keys
    for role in (ROOT, TARGETS):
        for _ in range(counts[role]):
            root.signed.add_key(keys.make([role]), role)
    for _ in range(counts[TIMESTAMP]):
        online = keys.make(ONLINE)
        for role in ONLINE:
            root.signed.add_key(online, role)
    threshold = min(ROOT_THRESHOLD, counts[ROOT])
    root.signed.roles[ROOT] = Role(root.signed.roles[ROOT].keyids, threshold)
    if development:
        root.signed.unrecognized_fields[DEVELOPMENT] = True
    delegate(draft, RELEASES, [keys.make([RELEASES]) for _ in range(counts[RELEASES])])
    delegate(draft, packs, [keys.make([packs]) for _ in range(counts[PACKS])])
    draft.edit(RELEASES)


def refresh(draft: Draft, *, everything: bool) -> Refreshed:
    """Sign snapshot and timestamp again, and the roles that expire soon.

    Args:
        everything: Renew the others too.
    """
    draft.fresh = True
    missing, signed = [], list(ONLINE)
    roles = {ROOT: draft.root, **{name: each.signed for name, each in draft.roles.items()}}
    for role, content in roles.items():
        if not (everything or needs_renewal(role, content.expires - draft.now)):
            continue
        listed = draft.parent(role).get_delegated_role(role)
        if sum(map(draft.keys.at_hand, listed.keyids)) < listed.threshold:
            missing.append(role)
            continue
        signed.append(role)
        draft.edited_root() if role == ROOT else draft.edit(role)
    return Refreshed(tuple(signed), tuple(missing))
