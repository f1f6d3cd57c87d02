"""Documents that carry their own checksum: one flipped bit anywhere in them is an error.

Laws: a sealed document is canonical JSON and nothing else is accepted, so every byte of it counts;
its field `sha256` is the digest of the document without that field.
"""

from collections.abc import Mapping
from typing import Any

from edgecl_deploy.errors import DigestError, FormatVersionError
from edgecl_deploy.manifest.canonical import canonical, check_version, digest, load_object
from edgecl_deploy.manifest.fields import Fields

SEAL = "sha256"
LARGEST = 1024 * 1024  # bytes of a document


def seal(version: str, fields: Mapping[str, Any]) -> bytes:
    """Write a document.

    Args:
        version: Its format, such as `edgecl-state/2`.
        fields: Everything else in it.
    """
    body = {**fields, "format": version}
    return canonical({**body, SEAL: digest(canonical(body))})


def unseal(data: bytes, what: str, version: str) -> Fields:
    """Check a document and return its fields, without the format and the seal.

    Of a format that was sealed later, version 1 has no seal; it is read too, and written anew by
    the next update.

    Args:
        what: Its name, for messages.
        version: The format that is read.

    Raises:
        DigestError: It is not as it was written.
    """
    document = load_object(data, what, LARGEST)
    fields = Fields(document, what)
    found = fields.take("format")
    kind = version.partition("/")[0]
    if found == f"{kind}/1" != version and SEAL not in document:
        return fields
    check_version(found, version, what)
    sealed = fields.take(SEAL)
    body = {name: value for name, value in document.items() if name != SEAL}
    if sealed != digest(canonical(body)) or data != canonical(document):
        raise DigestError(
            f"{what} must be as it was written",
            "other bytes",
            "Run `edgecl-device fsck --repair`. Settings are changed by `edgecl-device config`.",
        )
    return fields


def is_old(data: bytes, what: str, version: str) -> bool:
    """Return whether a document that could be read is of version 1, without a seal."""
    try:
        check_version(load_object(data, what, LARGEST).get("format"), version, what)
    except FormatVersionError:
        return True
    return False
