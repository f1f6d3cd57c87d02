"""What a release has forgotten: digests of class names, so that no reader sees the names.

A digest hides a name from a reader, not from a guess: whoever has a name in mind can check it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from edgecl_deploy.manifest import limits, names
from edgecl_deploy.manifest.fields import Fields

_SALT = re.compile("[0-9a-f]{32}")


def hidden(name: str, salt: str) -> str:
    """Return the digest of a name, whatever its case and spelling.

    Args:
        name: Of a class.
        salt: 16 random bytes in hexadecimal.
    """
    return sha256(bytes.fromhex(salt) + names.folded(name).encode()).hexdigest()


@dataclass(frozen=True)
class Hidden:
    """Names of classes that are forgotten."""

    salt: str
    digests: tuple[str, ...]

    @classmethod
    def read(cls, fields: Fields) -> "Hidden":
        """Read it from the fields of a manifest."""
        salt = fields.matching("salt", _SALT, "16 bytes in hexadecimal")
        return cls(salt, fields.digests("digests", limits.MAX_ROWS))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {"salt": self.salt, "digests": list(self.digests)}

    def hides(self, name: str) -> bool:
        """Return whether a name is one of them."""
        return hidden(name, self.salt) in self.digests

    def without(self, classes: Iterable[str]) -> "Hidden | None":
        """Leave out names that are classes again; None if none is left."""
        again = {hidden(name, self.salt) for name in classes}
        left = tuple(each for each in self.digests if each not in again)
        return Hidden(self.salt, left) if left else None
