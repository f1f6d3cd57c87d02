"""Reads and writes manifests as strict JSON, and checks their digests and versions.

Laws of reading: UTF-8, one object, no key twice, no NaN or infinity, bounded size and depth.
"""

import hashlib
import json
import math
import re
from typing import Any, NoReturn

from edgecl_deploy.errors import (
    DigestError,
    DuplicateKeyError,
    FormatVersionError,
    LimitError,
    ManifestError,
    SizeError,
    shown,
)
from edgecl_deploy.manifest import limits

_MARK = re.compile(r'\\.|["\[\]{}]', re.DOTALL)  # the characters that end strings and nesting
_LONGEST_NUMBER = 32  # characters of a number: more is an attack on the parser
REEXPORT = "Make the file again with this version of edgecl-export."


def canonical(value: object) -> bytes:
    """Write a JSON value in the one form that digests are taken over.

    Keys are sorted, nothing is between the tokens, the text is UTF-8. ValueError if a number is
    not finite.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(data: bytes) -> str:
    """Return the SHA-256 of the bytes of a file: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def verify(data: bytes, sha256: str, size: int | None, what: str) -> None:
    """Check bytes against the digest and the size that a manifest declares.

    Args:
        data: The bytes that arrived.
        sha256: The digest that they must have.
        size: The size in bytes that they must have, None if only the digest is known.
        what: The name of the file in messages.

    Raises:
        SizeError: They are shorter or longer.
        DigestError: They are other bytes.
    """
    if size is not None and len(data) != size:
        raise SizeError(
            f"{what} must have the {size} bytes of its manifest",
            f"{len(data)} bytes",
            "Copy the file again from where it was published.",
        )
    if digest(data) != sha256:
        raise DigestError(
            f"{what} must have the SHA-256 {sha256}",
            digest(data),
            "Copy the file again from where it was published.",
        )


def load_object(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """Parse one JSON object under the laws of this module.

    Returns:
        The object, plain Python values.

    Raises:
        ManifestError: It is not one JSON object in UTF-8 with finite numbers.
    """
    check_bytes(data, what, limit)
    _check_counts(data, what)
    try:
        text = data.decode("utf-8")
        _check_depth(text, what)
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _no_duplicates(pairs, what),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
        if "\\u" in text:
            canonical(value)  # a lone surrogate parses, but no file can hold it
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise ManifestError(
            f"{what} must be one JSON object in UTF-8", shown(str(error)), REEXPORT
        ) from error
    if not isinstance(value, dict):
        raise ManifestError(f"{what} must be one JSON object in UTF-8", shown(value), REEXPORT)
    return value


def check_bytes(data: bytes, what: str, limit: int) -> None:
    """Check how many bytes a manifest has.

    Raises:
        LimitError: Too many.
    """
    if len(data) > limit:
        raise LimitError(
            f"{what} must have at most {limit} bytes",
            f"{len(data)} bytes",
            "Split the task, or shorten the class names, and export it again.",
        )


def _check_counts(data: bytes, what: str) -> None:
    """Check what the parser would make objects of, before it does.

    Raises:
        LimitError: There is too much.
    """
    for mark, most in (
        (b",", limits.MAX_VALUES),
        (b'"', 4 * limits.MAX_VALUES),
        (b"[", limits.MAX_OPENED),
        (b"{", limits.MAX_OPENED),
        (b"\\", limits.MAX_OPENED),
    ):
        found = data.count(mark)
        if found > most:
            raise LimitError(
                f"{what} must hold the character {mark.decode()} at most {most} times",
                str(found),
                REEXPORT,
            )


def _check_depth(text: str, what: str) -> None:
    depth, quoted = 0, False
    for match in _MARK.finditer(text):
        mark = match[0]
        if mark == '"':
            quoted = not quoted
        elif not quoted and len(mark) == 1:
            depth += 1 if mark in "[{" else -1
        if depth > limits.MAX_DEPTH:
            raise LimitError(
                f"{what} must nest at most {limits.MAX_DEPTH} objects and lists",
                "more",
                REEXPORT,
            )


def _no_duplicates(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise DuplicateKeyError(
                f"{what} must hold each key once", f"{shown(key)} twice", REEXPORT
            )
        result[key] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def _finite_float(text: str) -> float:
    value = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("a number out of range")
    return int(text)


def check_version(value: object, expected: str, what: str) -> None:
    """Check the `format` field of a manifest: kind/version.

    Args:
        expected: The one that this release reads, such as `edgecl-pack/1`.
        what: The name of the file in messages.

    Raises:
        ManifestError: It is another kind of file.
        FormatVersionError: It is another version of this kind.
    """
    kind = expected.partition("/")[0]
    if value == expected:
        return
    if isinstance(value, str) and value.partition("/")[0] == kind:
        raise FormatVersionError(
            f"{what} must have the format {expected}, which edgecl-deploy 0.1 reads",
            shown(value),
            f"Install the edgecl-deploy release whose notes say that it reads {shown(value)}, "
            "or export the file again with edgecl-export 0.1.",
        )
    raise ManifestError(
        f'{what} must hold "format": "{expected}"',
        shown(value),
        "Pass the right file: bundle, packs and release are different directories.",
    )
