"""Compares a device's bundle with the one that its channel has signed.

A bundle comes with the firmware or on a medium, never through the channel; this shows that it is
the publisher's.
"""

from edgecl_deploy.errors import UntrustedError
from edgecl_deploy.files import read_bundle
from edgecl_deploy.store.records import Config
from edgecl_deploy.update.trust import Trust


def check_signed(source: Trust, config: Config) -> str:
    """Check that every byte of the bundle in the settings is what the channel has signed.

    Args:
        source: The channel; its metadata is fetched.
        config: The settings of the store.

    Returns:
        The digest that the channel has signed, to be pinned.

    Raises:
        UntrustedError: The channel has signed another bundle, or none.
    """
    source.refresh()
    signed = source.channel(config.channel).bundle
    if signed is None:
        raise UntrustedError(
            f"the channel {config.channel} must have signed a bundle",
            "none",
            "Publish a release with `edgecl channel publish --sign-bundle`, or leave out "
            "--signed-bundle if you trust the way on which the bundle came.",
        )
    bundle = read_bundle(config.bundle)
    pinned = config.bundle_digest or bundle.digest
    if not bundle.digest == pinned == signed.sha256:
        found = f"{bundle.bundle.backbone.name} with {bundle.digest}"
        if pinned != bundle.digest:
            found += f" and settings that name {pinned}"
        raise UntrustedError(
            f"the bundle in {config.bundle} must be the one that the channel {config.channel} has "
            f"signed, {signed.name} with the digest {signed.sha256}",
            found,
            "Install the publisher's bundle; if this is a new one, publish with --sign-bundle.",
        )
    bundle.verify_files()
    return signed.sha256
