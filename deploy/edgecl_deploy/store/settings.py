"""Changes the operator's settings of a store."""

import os
from collections.abc import Mapping
from typing import Any

from edgecl_deploy.errors import DeployError, OptionError, one_line
from edgecl_deploy.files import read_bundle
from edgecl_deploy.manifest.canonical import canonical, load_object
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.store.records import Config, read_config
from edgecl_deploy.store.sealed import LARGEST

PINNED = "pinned"  # a setting that has a command of its own


def configured(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return changed settings, checked as any config.json is.

    A bundle that is named anew is read, and from then on the device runs this one and no other.

    Args:
        config: The settings as they are.
        settings: New values by name: fields of the configuration or of its limits.

    Raises:
        OptionError: There is no such setting, or it cannot have this value.
    """
    document = load_object(canonical(config.to_json()), "config.json", LARGEST)
    fixed = {"limits", PINNED, "bundle_digest", "root_digest"}
    known = [*sorted(document.keys() - fixed), *sorted(document["limits"])]
    for name, value in settings.items():
        if name not in known:
            action = "Use `edgecl-device pin`." if name == PINNED else f"Use {', '.join(known)}."
            raise OptionError("a setting must be one of the store's", repr(name), action)
        place = document["limits"] if name in document["limits"] else document
        place[name] = value
    try:
        if "bundle" in settings:
            document["bundle"] = os.path.abspath(settings["bundle"])
            document["bundle_digest"] = read_bundle(document["bundle"]).digest
        checked = load_object(canonical(document), "config.json", LARGEST)
        return read_config(Fields(checked, "config.json"))
    except (DeployError, OSError, TypeError, ValueError) as error:
        raise OptionError(
            "every setting must be one that config.json may have",
            one_line(error),
            "`edgecl-device config STORE` shows the settings as they are.",
        ) from error
