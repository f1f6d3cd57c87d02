"""Compares this machine's clock with the times that a site and its keys hold.

A clock that is late makes signatures that devices find expired; one that is ahead makes
signatures that are valid for too long. The first is refused, the second is told.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edgecl_deploy.update.floor import BUILT
from edgecl_export.channel.metadata import Site, State, channel_names, read_channel
from edgecl_export.channel.roles import RELEASES, ROOT, SNAPSHOT, TIMESTAMP, life
from edgecl_export.errors import ChannelError

TOLERANCE = timedelta(hours=1)  # two machines of a publisher may differ by so much
AHEAD = timedelta(days=60)  # nobody published or refreshed for so long, or the clock is ahead


def times(site: Site, state: State, keys: Path) -> Iterator[tuple[datetime, str]]:
    """Yield times that have passed, and what holds each."""
    yield moment(BUILT), "this edgecl was made"
    signed: dict[str, Any] = {role: each.signed for role, each in state.roles.items()}
    signed |= {SNAPSHOT: state.snapshot.signed, TIMESTAMP: state.timestamp.signed}
    if state.roots:
        signed[ROOT] = state.root
    for role, content in signed.items():
        if content.version > 0:
            # What is valid longer is a copy for a medium, or was signed under another rule.
            yield content.expires - life(role), f"{role} was signed"
    releases = state.roles.get(RELEASES)
    for name in channel_names(releases):
        channel = read_channel(site, releases, name)
        if channel is not None:
            yield moment(channel.created), f"{name} was published"
    for path in keys.glob("*.json"):
        yield moment(path.stat().st_mtime), f"{path.name} of the keys was written"


def moment(seconds: int | float) -> datetime:
    """Return a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def lateness(site: Site, state: State, keys: Path, now: datetime) -> str | None:
    """Return in words by how much the clock is late; None if it is not."""
    latest, what = max(times(site, state, keys))
    if latest <= now + TOLERANCE:
        return None
    return f"{now:%Y-%m-%d %H:%M}, but {what} on {latest:%Y-%m-%d %H:%M} UTC"


def ahead(state: State, now: datetime) -> str | None:
    """Return in words that the clock may be ahead; None if nothing looks like it."""
    expired = now - state.timestamp.signed.expires
    if state.timestamp.signed.version == 0 or expired < AHEAD:
        return None
    return (
        f"by this clock ({now:%Y-%m-%d %H:%M} UTC) the site was last signed "
        f"{(expired + life(TIMESTAMP)).days} days ago: if that is not so, set the clock, and run "
        "the command again"
    )


def check(site: Site, state: State, keys: Path, now: datetime) -> None:
    """Refuse to sign by a clock that is late.

    Raises:
        ChannelError: if it is.
    """
    found = lateness(site, state, keys, now)
    if found is not None:
        raise ChannelError(
            f"The clock must not be before what has been signed, found {found}. Set the clock: "
            "devices would take the new signatures for expired. If an earlier clock was ahead and "
            "this one is right, use --trust-clock."
        )
