"""The first day of a device: a store, with a root of trust that is one."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from edgecl_deploy.errors import ManifestError, OptionError, UntrustedError, one_line
from edgecl_deploy.files import read_file
from edgecl_deploy.format import canonical
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store.records import LARGEST, Config, parse_config
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.floor import DEVELOPMENT
from edgecl_deploy.update.trust import LIMITS

PINNED = "pinned"  # a setting that has a command of its own


def provision(
    path: str | os.PathLike[str],
    config: Config,
    root: str | os.PathLike[str],
    factory: str | os.PathLike[str] | None = None,
) -> tuple[Store, bool]:
    """Make a store whose root of trust was checked.

    Args:
        path: A folder that is new or empty.
        config: What the operator says. Its bundle and a folder as its URL become absolute paths.
        root: The file root.json that the device is to trust.
        factory: A release directory that is there from the start.

    Returns:
        The store, and whether its root says that it is for development only.
    """
    data = read_file(Path(root), LIMITS.root_max_length)
    development = check_root(data)
    local = "://" not in config.url
    settled = replace(
        config,
        bundle=os.path.abspath(config.bundle),
        url=os.path.abspath(config.url) if local else config.url,
    )
    return Store.create(path, parse_config(settled.to_bytes()), data, factory), development


def check_root(data: bytes) -> bool:
    """Check that bytes are a root.json that signs itself.

    Returns:
        Whether it is for development only.

    Raises:
        UntrustedError: They are not.
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


def configured(config: Config, settings: Mapping[str, Any]) -> Config:
    """Change settings, and judge the result as any config.json.

    Args:
        config: What holds now.
        settings: New values by name: fields of the configuration or of its limits.

    Raises:
        OptionError: There is no such setting, or it cannot have this value.
    """
    document = load_object(config.to_bytes(), "config.json", LARGEST)
    fixed = {"format", "limits", PINNED}
    known = [*sorted(document.keys() - fixed), *sorted(document["limits"])]
    for name, value in settings.items():
        if name not in known:
            action = "Use `edgecl-device pin`." if name == PINNED else f"Use {', '.join(known)}."
            raise OptionError("a setting must be one of the store's", repr(name), action)
        place = document["limits"] if name in document["limits"] else document
        place[name] = value
    try:
        return parse_config(canonical(document))
    except (ManifestError, ValueError) as error:
        raise OptionError(
            "every setting must be one that config.json may have",
            one_line(error),
            "`edgecl-device config STORE` shows the settings as they are.",
        ) from error
