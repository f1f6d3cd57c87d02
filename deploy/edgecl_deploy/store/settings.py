"""Changes the operator's settings of a store."""

from collections.abc import Mapping
from typing import Any

from edgecl_deploy.errors import ManifestError, OptionError, one_line
from edgecl_deploy.manifest.canonical import canonical, load_object
from edgecl_deploy.store.records import LARGEST, Config, parse_config

PINNED = "pinned"  # a setting that has a command of its own


def configured(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return changed settings, checked as any config.json is.

    Args:
        config: The settings as they are.
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
