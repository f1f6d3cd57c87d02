"""Makes the store of a new device, with a root of trust that was checked."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from edgecl_deploy.errors import UntrustedError, one_line
from edgecl_deploy.files import read_file
from edgecl_deploy.store.records import Config, parse_config
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.access import check_url
from edgecl_deploy.update.bundles import check_signed
from edgecl_deploy.update.floor import DEVELOPMENT
from edgecl_deploy.update.trust import LIMITS, Trust


def provision(
    path: str | os.PathLike[str],
    config: Config,
    root: str | os.PathLike[str],
    factory: str | os.PathLike[str] | None = None,
    *,
    signed_bundle: bool = False,
) -> tuple[Store, bool]:
    """Make a store whose root of trust was checked.

    Args:
        path: A folder that is new or empty.
        config: The operator's settings. The bundle, and a folder as URL, become absolute paths.
        root: The file root.json that the device is to trust.
        factory: A release directory; this release serves from the start.
        signed_bundle: Refuse a bundle that the channel has not signed; this needs the channel.

    Returns:
        The store, and whether its root is for development only.
    """
    data = read_file(Path(root), LIMITS.root_max_length)
    development = check_root(data)
    local = "://" not in config.url
    check_url(config.url)
    settled = replace(
        config,
        bundle=os.path.abspath(config.bundle),
        url=os.path.abspath(config.url) if local else config.url,
    )
    if signed_bundle:
        with tempfile.TemporaryDirectory() as scratch:
            signed = check_signed(Trust(Path(scratch), data, settled.url), settled)
        settled = replace(settled, bundle_digest=signed)
    return Store.create(path, parse_config(settled.to_bytes()), data, factory), development


def check_root(data: bytes) -> bool:
    """Check that bytes are a root.json that signs itself.

    Returns:
        Whether it is for development only.

    Raises:
        UntrustedError: They are something else.
    """
    try:
        root: Metadata[Any] = Metadata.from_bytes(data)
        found = f"a {root.signed.type}.json"
        if root.signed.type == "root":
            root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
            return bool(root.signed.unrecognized_fields.get(DEVELOPMENT))
    except RepositoryError as error:
        found = one_line(error)
    raise UntrustedError(
        "the root of trust must be a root.json that its own keys have signed",
        found,
        "Take metadata/1.root.json of the channel, on a way that you trust.",
    )
