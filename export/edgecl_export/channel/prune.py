"""Removes from a site what no channel names any more, so that old devices can still follow.

Laws: every root stays, a device that was away for years follows them one by one; what a channel
names stays; what devices may be fetching by metadata that was current a moment ago stays for a time
of grace, unless it must be erased. The entries leave the signed roles first, their files only by a
later run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import object_target, parse_pack, parse_release
from edgecl_export.channel.draft import Draft
from edgecl_export.channel.manifests import find_channel
from edgecl_export.channel.metadata import Site, channel_names, publishers
from edgecl_export.channel.mirror import release_objects
from edgecl_export.channel.roles import RELEASES, ROOT, TIMESTAMP, packs_role
from edgecl_export.errors import ChannelError

OBJECTS = "packs"  # the folder of the objects of all publishers, see `object_target`
GRACE = timedelta(days=7)  # a device fetches for hours, a copy of the site may be days old


@dataclass(frozen=True)
class Pruned:
    """What was removed.

    Attributes:
        entries: Objects that the publishers' roles list no more; devices stop to fetch these lines.
        files: Files of the site, old metadata and objects.
        size: Their bytes.
        later: Files that a run after the time of grace will remove.
    """

    entries: int
    files: int
    size: int
    later: int


def drop_entries(draft: Draft) -> int:
    """Take the objects that no channel names out of the publishers' roles; return how many."""
    wanted: dict[str, set[str]] = {}
    for name in channel_names(draft.roles.get(RELEASES)):
        channel = find_channel(draft, name)
        held = wanted.setdefault(packs_role(channel.publisher), set())
        for sha256, kind in release_objects(draft, name):
            held.add(object_target(channel.publisher, sha256, kind))
    dropped = 0
    for publisher in publishers(draft.targets):
        role = packs_role(publisher)
        if role not in draft.roles:
            continue
        surplus = draft.roles[role].signed.targets.keys() - wanted.get(role, set())
        if surplus:
            targets = draft.edit(role).targets
            for target in surplus:
                del targets[target]
            dropped += len(surplus)
    return dropped


def check_past(draft: Draft, before: int) -> None:
    """Check that no channel names a release that is to be erased.

    Raises:
        ChannelError: if one does.
    """
    for name in channel_names(draft.roles.get(RELEASES)):
        number = find_channel(draft, name).number
        if number < before:
            raise ChannelError(
                f"Every channel must name release {before} or a later one, got {name} with release "
                f"{number}. Publish a later one there, or retire the channel."
            )


def unused_files(
    site: Site, current: Mapping[str, int], now: float, before: int = 0
) -> tuple[list[Path], int]:
    """Return the files that may be removed, and how many may be later.

    Args:
        current: Version by role.
        now: Seconds since 1970.
        before: Objects that only releases of a lower number need are removed without grace.
    """
    old: list[Path] = []
    kept: list[Path] = []
    for role, versions in versions_of(site).items():
        for version, path in versions.items():
            newer = min((each for each in versions if each > version), default=None)
            replaced = None if newer is None else now - versions[newer].stat().st_mtime
            past = replaced is not None and replaced > GRACE.total_seconds()
            outdated = role != ROOT and version < current.get(role, version)
            (old if past and outdated else kept).append(path)
    files = {path for path in (site.path / "targets").rglob("*") if path.is_file()}
    counts = [path for path in kept if is_current(path, current)]
    now_listed = files & set(listed_files(site, counts))
    needed = files & set(listed_files(site, kept))
    if before:
        needed -= _only_before(needed, before) - now_listed
    later = len(kept) - len(counts) + len(needed - now_listed)
    return old + sorted(files - needed), later


def _only_before(files: set[Path], before: int) -> set[Path]:
    """Return the objects of publishers that no release of this number or a later one needs."""
    objects = {path for path in files if path.parent.parent.name == OBJECTS}
    data = {path.name.partition(".")[0]: path for path in objects}
    needed: set[str] = set()
    for sha256, path in data.items():
        with suppress(DeployError, OSError):  # other manifests; a damaged one needs nothing
            release = parse_release(path.read_bytes() if path.suffix == ".json" else b"")
            if release.number >= before:
                needed |= {sha256, *release.blobs, *release.packs}
                needed |= {release.enrolment.blob} if release.enrolment is not None else set()
                for pack in release.packs:
                    needed |= (
                        set(parse_pack(data[pack].read_bytes()).blobs) if pack in data else set()
                    )
    return {path for sha256, path in data.items() if sha256 not in needed}


def versions_of(site: Site) -> dict[str, dict[int, Path]]:
    """Return the files of metadata by role and version."""
    found: dict[str, dict[int, Path]] = {}
    for path in site.metadata.glob("*.json"):
        version, _, role = path.name.removesuffix(".json").partition(".")
        if version.isascii() and version.isdigit() and role != TIMESTAMP:
            found.setdefault(role, {})[int(version)] = path
    return found


def is_current(path: Path, current: Mapping[str, int]) -> bool:
    """Return whether a file of metadata is the version of its role that counts, or a root."""
    version, _, role = path.name.removesuffix(".json").partition(".")
    return role == ROOT or int(version) >= current.get(role, 0)


def listed_files(site: Site, metadata: Iterable[Path]) -> Iterator[Path]:
    """Yield the objects that files of metadata list; whether they are signed does not matter."""
    for path in metadata:
        for target, entry in targets_of(path).items():
            yield site.target_file(target, entry["hashes"]["sha256"])


def targets_of(path: Path) -> Mapping[str, Any]:
    """Return the targets of a file of metadata; none if it cannot be read."""
    try:
        signed = json.loads(path.read_bytes())["signed"]
        found: Mapping[str, Any] = signed.get("targets", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found
