"""The bytes of a body: a JSON head, then tensors, compressed or not.

The layout is that of Triton's binary tensor data extension: the head's length is in a header, the
tensors follow in order, little-endian, an element of BYTES after its length of 4 bytes.
"""

import base64
import struct
import zlib
from collections.abc import Iterable

import numpy as np

from edgecl_deploy.errors import RequestError, shown
from edgecl_deploy.server.limits import MAX_BODY

HEADER = "Inference-Header-Content-Length"
DTYPES = {"FP32": "<f4", "INT64": "<i8", "UINT8": "u1", "BOOL": "?"}  # of tensors of numbers
ENCODINGS = {"gzip": 31, "deflate": 15}  # by Content-Encoding: the window bits of zlib
_LENGTH = struct.Struct("<I")


def inflate(body: bytes, encoding: str) -> bytes:
    """Return what a body was before it was compressed, within the limit of any other body.

    Args:
        body: As it came.
        encoding: Content-Encoding; empty for none.

    Raises:
        RequestError: It is too large, damaged, or compressed in another way.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in ENCODINGS:
        raise RequestError(
            415,
            f"a body must be plain or compressed by {' or '.join(ENCODINGS)}",
            shown(encoding),
            "Leave out Content-Encoding.",
        )
    machine = zlib.decompressobj(ENCODINGS[encoding])
    try:
        data = machine.decompress(body, MAX_BODY)
        if not machine.eof and machine.decompress(machine.unconsumed_tail, 1):
            raise RequestError(
                413,
                f"a body must have at most {MAX_BODY} bytes when it is inflated",
                "more",
                "Send fewer images, or smaller ones.",
            )
    except zlib.error as error:
        raise RequestError(
            400, f"a body must be a complete {encoding} stream", shown(str(error)), "Send it again."
        ) from error
    if not machine.eof or machine.unused_data:
        raise RequestError(
            400,
            f"a body must be one complete {encoding} stream",
            "more after it" if machine.eof else "the begin of one",
            "Send it again.",
        )
    return data


def split(body: bytes, length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON head of a body and the tensors after it.

    Args:
        body: Not compressed.
        length: The header that says how long the head is; None if the body is all head.

    Raises:
        RequestError: The header is no number, or longer than the body.
    """
    if length is None:
        return body, memoryview(b"")
    number = int(length) if length.isascii() and length.isdigit() and len(length) < 12 else -1
    if not 0 <= number <= len(body):
        raise RequestError(
            400,
            f"{HEADER} must be the length of the JSON at the begin of the body, in bytes",
            f"{shown(length)}, of a body of {len(body)} bytes",
            "Leave it out for a body that is JSON alone, or set it to 0 for one that is an image.",
        )
    return body[:number], memoryview(body)[number:]


def elements(data: memoryview, count: int) -> list[bytes]:
    """Return the elements of a tensor of BYTES.

    Args:
        data: All of the tensor.
        count: How many it must have.

    Raises:
        RequestError: It has another number of elements, or a length leads out of it.
    """
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) <= count:
        end = at + _LENGTH.size
        if end <= len(data):
            end += _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            raise RequestError(
                400,
                "an element of BYTES must be its length in 4 bytes, little-endian, and so many "
                "bytes",
                f"{len(data) - at} bytes for element {len(found)}",
                f"Write the length before each, or send one file alone with {HEADER}: 0.",
            )
        found.append(bytes(data[at + _LENGTH.size : end]))
        at = end
    if len(found) != count or at != len(data):
        raise RequestError(
            400,
            f"a tensor of BYTES must have the {count} elements of its shape",
            "more" if len(found) > count else str(len(found)),
            "Correct the shape.",
        )
    return found


def from_base64(texts: Iterable[object], action: str) -> list[bytes]:
    """Return the files that texts of a JSON document hold.

    Args:
        texts: As the document has them.
        action: What to do where they hold none.

    Raises:
        RequestError: One is no text in base64.
    """
    try:
        return [base64.b64decode(each, validate=True) for each in texts]  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:  # a binascii.Error is a ValueError
        raise RequestError(
            400, "an image file in JSON must be a text in base64", shown(str(error)), action
        ) from error


def pack_texts(texts: Iterable[str]) -> bytes:
    """Return a tensor of BYTES."""
    parts = []
    for text in texts:
        data = text.encode("utf-8", "backslashreplace")
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def pack_numbers(values: np.ndarray, datatype: str) -> bytes:
    """Return a tensor of numbers.

    Args:
        values: Of any layout.
        datatype: One of `DTYPES`.
    """
    return np.ascontiguousarray(values, np.dtype(DTYPES[datatype])).tobytes()
