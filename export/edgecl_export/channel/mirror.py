"""A channel on a medium: a plain copy of the site for devices without a network.

Its snapshot and timestamp are valid longer and have the next version numbers; the site skips those.
So a device can update from the copy first and from the site later, but not the other way round.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import Kind, channel_target, object_target, parse_pack, parse_release
from edgecl_deploy.store.disk import Disk
from edgecl_export.channel.draft import Draft
from edgecl_export.channel.manifests import find_channel
from edgecl_export.channel.roles import ONLINE, RELEASES, ROOT, packs_role
from edgecl_export.channel.sitedisk import SiteDisk, mode_of, open_to_readers
from edgecl_export.errors import ChannelError


@dataclass(frozen=True)
class Mirror:
    """What a copy holds.

    Attributes:
        files: Paths relative to the site; with bytes where the copy's differ from the site's.
        release: Number of the release.
        expires: ISO date and time.
    """

    files: dict[str, bytes | None]
    release: int
    expires: str


def prepare(draft: Draft, channel: str, lifetime: timedelta) -> Mirror:
    """Sign a copy's own snapshot and timestamp, and let the site skip their versions.

    Args:
        lifetime: How long devices accept the copy.

    Raises:
        ChannelError: if something in it expires earlier.
    """
    until = draft.now + lifetime
    if lifetime <= timedelta(0):
        raise ChannelError(
            f"A copy must be valid for a day or more, got {lifetime.days} d. Use 90d."
        )
    publisher = find_channel(draft, channel).publisher
    used = {ROOT: draft.root, **{name: md.signed for name, md in draft.roles.items()}}
    for role in (ROOT, "targets", RELEASES, packs_role(publisher)):
        if used[role].expires < until:
            raise ChannelError(
                f"{role} must be valid as long as the copy, until {until:%Y-%m-%d}, but it expires "
                f"{used[role].expires:%Y-%m-%d}. Run `edgecl channel refresh --all`, or shorten "
                "--expires."
            )
    files: dict[str, bytes | None] = dict.fromkeys(objects_of(draft, channel))
    for root in range(1, draft.root.version + 1):
        files[relative(draft, draft.site.role_file(ROOT, root))] = None
    for role, metadata in draft.roles.items():
        files[relative(draft, draft.site.role_file(role, metadata.signed.version))] = None
    for path, data in draft.sign_freshness(dict.fromkeys(ONLINE, lifetime)):
        files[relative(draft, path)] = data
    draft.fresh = True  # the site skips these versions
    number = find_channel(draft, channel).number
    return Mirror(files, number, draft.timestamp.signed.expires.isoformat())


def relative(draft: Draft, path: Path) -> str:
    """Return a path relative to the site."""
    return path.relative_to(draft.site.path).as_posix()


def objects_of(draft: Draft, name: str) -> Iterator[str]:
    """Yield the files of a channel's release, each of them checked."""
    manifest = draft.roles[RELEASES].signed.targets[channel_target(name)]
    yield relative(draft, draft.site.target_file(manifest.path, manifest.hashes["sha256"]))
    publisher = find_channel(draft, name).publisher
    for sha256, kind in release_objects(draft, name):
        target = object_target(publisher, sha256, kind)
        draft.site.read_target(target, sha256)
        yield relative(draft, draft.site.target_file(target, sha256))


def release_objects(draft: Draft, name: str) -> list[tuple[str, Kind]]:
    """List digest and kind of everything that a channel's release needs; manifests are checked.

    Raises:
        ChannelError: if a manifest cannot be read, or an object is not signed.
    """
    channel = find_channel(draft, name)
    role = draft.roles[packs_role(channel.publisher)].signed

    def listed(sha256: str, kind: Kind) -> str:
        target = object_target(channel.publisher, sha256, kind)
        found = role.targets[target].hashes["sha256"]
        if sha256 != found:
            raise ChannelError(f"{target} must be {sha256}, got {found}. Publish the release.")
        return target

    def read(sha256: str) -> bytes:
        return draft.site.read_target(listed(sha256, "json"), sha256)

    try:
        release = parse_release(read(channel.release))
        blobs = set(release.blobs)
        if release.enrolment is not None:
            blobs.add(release.enrolment.blob)
        for sha256 in release.packs:
            blobs |= set(parse_pack(read(sha256)).blobs)
        for sha256 in blobs:
            listed(sha256, "safetensors")
    except (DeployError, KeyError) as error:
        raise ChannelError(
            f"Release {channel.number} must be whole on the site: {error}. Publish it again."
        ) from error
    manifests: list[tuple[str, Kind]] = [(each, "json") for each in release.packs]
    return [
        *manifests,
        (channel.release, "json"),
        *((blob, "safetensors") for blob in sorted(blobs)),
    ]


def write(mirror: Mirror, site: Path, out: Path) -> None:
    """Write a copy; it appears complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, data in mirror.files.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((site / name).read_bytes() if data is None else data)
        open_to_readers(scratch, mode_of(site))  # mkdtemp makes it private
        SiteDisk(site).sync_tree(scratch)
        os.rename(scratch, out)
        Disk().sync(out.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
