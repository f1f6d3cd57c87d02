"""The manifests of the channels: which release, for how many devices, halted or not."""

from dataclasses import dataclass, replace
from math import floor

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import Channel, channel_target, parse_channel
from edgecl_deploy.format import Rollout as ManifestRollout
from edgecl_export.channel.draft import Draft
from edgecl_export.channel.metadata import channel_names, read_channel
from edgecl_export.channel.roles import RELEASES, check_name
from edgecl_export.errors import ChannelError


@dataclass(frozen=True)
class Rollout:
    """How a release reaches the devices: their share grows evenly from 0 to `percent`."""

    hours: int | float = 0  # until `percent` is reached, 0 for at once
    percent: int = 100  # of the devices, 0 to 100
    start: int | float | None = None  # seconds since 1970, None for now

    def __post_init__(self) -> None:
        if not (0 <= self.hours < 1e6 and 0 <= self.percent <= 100):
            raise ChannelError(
                "A roll-out must take 0 hours or more and reach 0 to 100 percent, "
                f"got {self.hours} h and {self.percent} %. Change --rollout-hours or --percent."
            )

    def in_manifest(self, name: str, now: int | float) -> ManifestRollout | None:
        """Return the roll-out as the manifest has it, None for all devices at once.

        Args:
            name: The devices' order is drawn from it.
            now: Seconds since 1970.
        """
        if self == Rollout():
            return None
        start = floor(now if self.start is None else self.start)
        return ManifestRollout(name, start, round(self.hours * 3600), self.percent)


def seconds(draft: Draft) -> int:
    """Return the time of a draft in seconds since 1970."""
    return floor(draft.now.timestamp())


def find_channel(draft: Draft, name: str) -> Channel:
    """Return a channel's manifest.

    Raises:
        ChannelError: if there is no such channel.
    """
    releases = draft.roles.get(RELEASES)
    channel = read_channel(draft.site, releases, name)
    if channel is None:
        raise ChannelError(
            f"The channel must be one of {', '.join(channel_names(releases)) or 'none yet'}, "
            f"got {name!r}. Make it with `edgecl channel publish RELEASE --channel {name}`."
        )
    return channel


def put_channel(draft: Draft, channel: Channel) -> Channel:
    """Put a manifest into a draft, to be signed by `releases`.

    Raises:
        ChannelError: if the manifest breaks its own format.
    """
    data = channel.to_bytes()
    try:
        parse_channel(data)
    except DeployError as error:
        raise ChannelError(f"The manifest of {channel.name} cannot be written: {error}") from error
    draft.put(RELEASES, channel_target(channel.name), data)
    return channel


def unfinished(channel: Channel, now: int | float) -> bool:
    """Return whether some devices may not take a channel's release yet."""
    return channel.halted or (channel.rollout is not None and channel.rollout.share(now) < 1.0)


def move_on(draft: Draft, channel: Channel, rollout: Rollout | None, *, force: bool) -> Channel:
    """Put a release into a channel: the first one, a later one, or the same with another roll-out.

    A bundle that the channel has signed stays signed until another one is.

    Args:
        channel: The manifest without its roll-out.
        rollout: How it reaches the devices; None for all at once.
        force: Whether the roll-out of the release before may be unfinished.

    Raises:
        ChannelError: if the number does not grow, or the roll-out before is unfinished.
    """
    check_name(channel.name, "channel")
    now = seconds(draft)
    name = f"{channel.number}-{channel.release[:16]}"
    channel = replace(channel, rollout=(rollout or Rollout()).in_manifest(name, now), created=now)
    old = read_channel(draft.site, draft.roles.get(RELEASES), channel.name)
    if old is not None:
        if old.number == channel.number and old.release != channel.release:
            raise ChannelError(
                f"Release {channel.number} of {channel.name} must stay what it is, "
                f"{old.release[:12]}, got {channel.release[:12]}. "
                f"Make the release again with --number {old.number + 1}."
            )
        if channel.number < old.number:
            raise ChannelError(
                f"The release number of {channel.name} must be greater than {old.number}, got "
                f"{channel.number}. Make the release again with --number {old.number + 1}."
            )
        same = old.release == channel.release
        if not (same or force or old.halted) and unfinished(old, now):
            raise ChannelError(
                f"Release {old.number} of {channel.name} must have reached all devices before "
                f"{channel.number} follows, but its roll-out is unfinished. Wait, promote it to "
                "100 percent, or use --force-rollout."
            )
        least = max(channel.min_release, old.min_release)
        channel = replace(
            channel,
            min_release=least,
            bundle=channel.bundle or old.bundle,
            purge=channel.purge or old.purge,
        )
    if channel.min_release > channel.number:
        raise ChannelError(
            f"The oldest allowed release must not be newer than {channel.number}, got "
            f"{channel.min_release}. Lower --min-release."
        )
    if channel.purge and not channel.min_release:
        raise ChannelError(
            "A channel erases the releases before one that devices must not go back before, got no "
            f"such one. Give --min-release {channel.number} with --purge."
        )
    return put_channel(draft, channel)


def promote(draft: Draft, source: str, to: str, rollout: Rollout | None, *, force: bool) -> Channel:
    """Put the release of one channel into another, or give it another roll-out in its own.

    Raises:
        ChannelError: if the source is halted.
    """
    channel = find_channel(draft, source)
    if channel.halted:
        raise ChannelError(
            f"{source} must not be halted when its release is promoted, found release "
            f"{channel.number} halted. Publish a better one, or `edgecl channel resume {source}`."
        )
    return move_on(draft, replace(channel, name=to), rollout, force=force)


def halt(draft: Draft, name: str) -> Channel:
    """Stop a roll-out: no further device takes the release."""
    channel = find_channel(draft, name)
    if channel.halted:
        return channel
    return put_channel(draft, replace(channel, halted=True, created=seconds(draft)))


def resume(draft: Draft, name: str) -> Channel:
    """Continue a roll-out from the share at which it was halted."""
    channel, now = find_channel(draft, name), seconds(draft)
    if not channel.halted:
        return channel
    rollout = channel.rollout
    if rollout is not None and rollout.start < now:
        done = max(0, channel.created - rollout.start)
        rollout = replace(rollout, start=max(0, now - done))
    return put_channel(draft, replace(channel, halted=False, rollout=rollout, created=now))
