"""The status of a site: what expires when, and which roll-outs are unfinished."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from edgecl_deploy.format import Channel
from edgecl_deploy.update.bounds import largest
from edgecl_export.channel.clocks import lateness
from edgecl_export.channel.keys import Keys
from edgecl_export.channel.manifests import unfinished
from edgecl_export.channel.metadata import Site, State, channel_names, delegated, read_channel
from edgecl_export.channel.roles import RELEASES, RENEW_BELOW, ROOT, SNAPSHOT, TIMESTAMP, TOP, life

WELL, ATTENTION, EXPIRED = 0, 3, 4  # exit codes; 1 and 2 are errors and wrong usage
FORGOTTEN = timedelta(days=14)  # an unfinished roll-out of that age was perhaps forgotten


@dataclass(frozen=True)
class RoleStatus:
    """One role: when its signature expires, and which keys can renew it."""

    role: str
    version: int  # 0: nothing is signed yet
    expires: str | None  # ISO date and time
    days_left: float | None
    soon: bool  # less than 30 % of its life is left
    threshold: int
    keys: dict[str, bool]  # keyid -> whether its private part is available


@dataclass(frozen=True)
class ChannelStatus:
    """One channel: its release, and how far its roll-out is."""

    name: str
    release: int
    digest: str
    publisher: str
    min_release: int
    halted: bool
    share: float  # of the devices that may have it now, 0 to 1
    percent: int  # at the end of the roll-out
    finished: bool
    started: int  # seconds since 1970


@dataclass(frozen=True)
class Status:
    """A whole site; `problems` is empty when all is well."""

    development: bool
    root: int  # version
    roles: tuple[RoleStatus, ...]
    channels: tuple[ChannelStatus, ...]
    problems: tuple[str, ...]
    code: int  # 0 all well, 3 something needs attention soon, 4 something has expired

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def status(site: Site, state: State, keys: Keys, now: datetime) -> Status:
    """Describe a site."""
    roles = tuple(role_status(state, keys, role, now) for role in [*TOP, *delegated(state.targets)])
    releases = state.roles.get(RELEASES)
    found = [read_channel(site, releases, name) for name in channel_names(releases)]
    channels = tuple(channel_status(each, now.timestamp()) for each in found if each is not None)
    late = [role for role in roles if role.days_left is not None and role.days_left <= 0]
    soon = [role for role in roles if role.soon and role not in late]
    old = [
        channel
        for channel in channels
        if not channel.finished and now.timestamp() - channel.started > FORGOTTEN.total_seconds()
    ]
    problems = [
        *(f"{role.role} has expired ({role.expires}): {renewal(role)}" for role in late),
        *(f"{role.role} expires in {role.days_left} days: {renewal(role)}" for role in soon),
        *(
            f"release {channel.release} of {channel.name} is "
            f"{'halted' if channel.halted else f'at {channel.share:.0%} of the devices'} since more"
            f" than {FORGOTTEN.days} days: promote it to 100 percent, or publish a better one"
            for channel in old
        ),
    ]
    weak = sorted({keyid for role in roles for keyid in role.keys if keys.is_weak(keyid)})
    if weak:
        problems.append(
            f"the files of {len(weak)} keys are encrypted with PBKDF2, so that a passphrase can be "
            "guessed fast: run `edgecl channel key passphrase`"
        )
    problems += [
        f"every device fetches the {size} bytes of {role}: run `edgecl channel prune`"
        for role, size in large_roles(site, state)
    ]
    late_clock = lateness(site, state, keys.folder, now)
    if late_clock is not None:
        problems.append(f"the clock of this machine is {late_clock}: set it before you sign")
    code = EXPIRED if late else ATTENTION if problems else WELL
    version = state.root.version
    return Status(state.development, version, roles, channels, tuple(problems), code)


def large_roles(site: Site, state: State) -> list[tuple[str, int]]:
    """List the roles whose metadata has more than half of what devices take, with its bytes."""
    files = {
        role: site.role_file(role, each.signed.version).stat().st_size
        for role, each in state.roles.items()
    }
    return [(role, size) for role, size in files.items() if 2 * size > largest(role)]


def renewal(role: RoleStatus) -> str:
    """Return what to do to renew a role."""
    if sum(role.keys.values()) >= role.threshold:
        return "run `edgecl channel refresh`"
    return "run `edgecl channel refresh --key URI` with its key"


def role_status(state: State, keys: Keys, role: str, now: datetime) -> RoleStatus:
    """Describe a role."""
    signed: Any = {ROOT: state.root, SNAPSHOT: state.snapshot.signed}.get(role)
    if role == TIMESTAMP:
        signed = state.timestamp.signed
    elif signed is None and role in state.roles:
        signed = state.roles[role].signed
    parent = state.root if role in TOP else state.targets
    listed = parent.get_delegated_role(role)
    left = None if signed is None else signed.expires - now
    return RoleStatus(
        role=role,
        version=0 if signed is None else signed.version,
        expires=None if signed is None else f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}",
        days_left=None if left is None else round(left.total_seconds() / 86400, 1),
        soon=left is not None and needs_renewal(role, left),
        threshold=listed.threshold,
        keys={keyid: keys.at_hand(keyid) for keyid in listed.keyids},
    )


def needs_renewal(role: str, left: timedelta) -> bool:
    """Return whether a role expires soon."""
    return left < RENEW_BELOW * life(role)


def channel_status(channel: Channel, now: int | float) -> ChannelStatus:
    """Describe a channel."""
    rollout = channel.rollout
    return ChannelStatus(
        name=channel.name,
        release=channel.number,
        digest=channel.release,
        publisher=channel.publisher,
        min_release=channel.min_release,
        halted=channel.halted,
        share=1.0 if rollout is None else rollout.share(now),
        percent=100 if rollout is None else rollout.percent,
        finished=not unfinished(channel, now),
        started=channel.created if rollout is None else rollout.start,
    )
