"""Pin the other distributions of the repository to this one's version."""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Pins(MetadataHookInterface):
    """Fill `{version}` into the dependencies; an sdist already holds the result."""

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [
            each.format(version=metadata["version"]) for each in self.config["dependencies"]
        ]
