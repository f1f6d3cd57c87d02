"""Publishing: a release is tested as a device tests it; then its new objects go into a site."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecl_deploy import Classifier, DeployError
from edgecl_deploy.files import RELEASE_FILE, ReleaseFiles
from edgecl_deploy.format import Channel, Kind, SignedBundle, digest, object_target
from edgecl_export.channel.draft import Draft
from edgecl_export.channel.manifests import Rollout, move_on, seconds
from edgecl_export.channel.metadata import publishers, read_channel
from edgecl_export.channel.roles import RELEASES, packs_role
from edgecl_export.errors import ChannelError


@dataclass(frozen=True)
class Tested:
    """A release that has passed its self-test."""

    files: ReleaseFiles
    data: bytes  # release.json
    bundle: SignedBundle | None = None  # the one that it passed on, if it is to be signed

    def objects(self) -> Iterator[tuple[str, Kind, bytes]]:
        """Yield digest, kind and bytes of everything that a device needs."""
        yield self.files.digest, "json", self.data
        for name, data in self.files.manifests.items():
            yield name, "json", data
        for name, data in self.files.blobs.items():
            yield name, "safetensors", data


@dataclass(frozen=True)
class Published:
    """What a publication has added.

    Attributes:
        channel: The manifest of the channel now.
        objects: Files that the site did not have.
        size: Their bytes.
        known: Files of the release that the site had already.
    """

    channel: Channel
    objects: int
    size: int
    known: int


def try_release(release: Path, bundle: Path, *, sign_bundle: bool = False) -> Tested:
    """Load a release on a bundle as a device does, and run its canaries.

    Args:
        sign_bundle: The bundle is to be signed, so all of its files are checked.

    Raises:
        ChannelError: if it does not load, has no canaries, or fails them.
    """
    try:
        classifier = Classifier.open(bundle, release)
        images = classifier.self_test().images
        if sign_bundle:
            classifier.bundle.verify_files()
    except DeployError as error:
        raise ChannelError(
            f"A release must pass on this workstation before it is published: {error}"
        ) from error
    if not images:
        raise ChannelError(
            "A release must bring canary images, found none. "
            "Make it again with `edgecl export release --canaries 8`."
        )
    files = classifier.loaded.files
    data = (release / RELEASE_FILE).read_bytes()
    if digest(data) != files.digest:
        raise ChannelError(
            f"{release} must not change while it is published, found another {RELEASE_FILE}. "
            "Publish it again when no process writes to it."
        )
    name = classifier.bundle.bundle.backbone.name
    signed = SignedBundle(name, classifier.bundle.digest) if sign_bundle else None
    return Tested(files, data, signed)


def choose_publisher(draft: Draft, publisher: str | None) -> str:
    """Return the publisher's name; None is the only one.

    Raises:
        ChannelError: if there is no such publisher, or a choice between several.
    """
    known = publishers(draft.targets)
    if publisher is None and len(known) == 1:
        return known[0]
    if publisher not in known:
        raise ChannelError(
            f"The publisher must be one of {', '.join(known)}, got {publisher or 'none'}. "
            "Use --publisher, or add one with `edgecl channel key add packs-NAME`."
        )
    return publisher


def publish(
    draft: Draft,
    tested: Tested,
    channel: str,
    *,
    publisher: str | None,
    rollout: Rollout | None,
    min_release: int,
    purge: bool,
    notes: str,
    force: bool,
) -> Published:
    """Put a release and its objects into a draft.

    Raises:
        ChannelError: if the channel has this release already, or two objects share a name.
    """
    publisher = choose_publisher(draft, publisher)
    release = tested.files.release
    old = read_channel(draft.site, draft.roles.get(RELEASES), channel)
    if old is not None and old.release == tested.files.digest:
        raise ChannelError(
            f"The release number of {channel} must be greater than {old.number}, got the same "
            f"release. Change its roll-out with `edgecl channel promote --from {channel} "
            f"--to {channel}`."
        )
    manifest = Channel(
        name=channel,
        number=release.number,
        release=tested.files.digest,
        size=len(tested.data),
        publisher=publisher,
        backbone=release.backbone,
        created=seconds(draft),
        min_release=min_release,
        purge=purge,
        notes=notes,
        bundle=tested.bundle,
    )
    role = packs_role(publisher)
    objects = size = known = 0
    for sha256, kind, data in tested.objects():
        target = object_target(publisher, sha256, kind)
        listed = draft.roles[role].signed.targets.get(target) if role in draft.roles else None
        if listed is not None and listed.hashes["sha256"] != sha256:
            raise ChannelError(
                f"Two objects must not share the name {target}, found {sha256} and "
                f"{listed.hashes['sha256']}. Export the task again."
            )
        if draft.put(role, target, data):
            objects, size = objects + 1, size + len(data)
        else:
            known += 1
    return Published(move_on(draft, manifest, rollout, force=force), objects, size, known)
