"""What is fuzzed: every function that reads bytes which others made.

A target gets any bytes. It may raise a DeployError, and nothing else; what it accepts it writes and
reads again, where there is a writer, and both must agree.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from edgecl_deploy import format as formats
from edgecl_deploy.errors import DeployError, ImageError, OptionError, shown
from edgecl_deploy.images import prepare
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store import records
from edgecl_deploy.update.access import check_url, plain_url
from edgecl_deploy.update.floor import parse_floor
from edgecl_deploy.update.provision import check_root

Parse = Callable[[bytes], Any]
Target = Callable[[bytes], None]
BITS = 64  # numbers
SQUARE = formats.Preprocessing(
    size=16, resize=18, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    background=(255, 255, 255), window=(0.0, 4095.0),
)  # fmt: skip


def round_trip(parse: Parse) -> Target:
    """Return a target: what is read is written, and read again."""

    def run(data: bytes) -> None:
        try:
            read = parse(data)
        except DeployError:
            return
        written = read.to_bytes()
        assert parse(written).to_bytes() == written

    return run


def reading(parse: Parse) -> Target:
    """Return a target: what nothing of ours writes is read."""

    def run(data: bytes) -> None:
        with suppress(DeployError):
            parse(data)

    return run


def url(data: bytes) -> None:
    """A URL keeps no secret: what is left needs no second cleaning."""
    text = data.decode("utf-8", "replace")
    plain = plain_url(text)
    assert plain_url(plain) == plain
    try:
        check_url(text)
    except OptionError:
        refused = True
    else:
        refused = False
    assert refused is (plain != text)


def tensors(data: bytes) -> None:
    """A blob that is read is written, and read again."""
    try:
        read = formats.read_tensors(data)
    except DeployError:
        return
    again = formats.read_tensors(formats.write_tensors(read))
    assert {name: each.shape for name, each in again.items()} == {
        name: each.shape for name, each in read.items()
    }


def bits(data: bytes) -> None:
    """Bits that are read are written, and read again."""
    try:
        read = formats.read_bits(data, BITS)
    except DeployError:
        return
    assert (abs(read) < 1 << 22).all()
    again = formats.read_bits(formats.write_bits(read.astype("int64")), BITS)
    assert (again == read).all()


def image(data: bytes) -> None:
    """A file is one prepared square, or refused."""
    for fit, decode in (("crop", "full"), ("pad", "draft2")):
        try:
            found = prepare(data, replace(SQUARE, fit=fit, decode=decode))
        except ImageError:
            return
        assert found.shape == (16, 16, 3)


def text(data: bytes) -> None:
    """An untrusted value in a message is one bounded line."""
    for value in (data, data.decode("utf-8", "replace")):
        assert len(shown(value)) < 100
        assert "\n" not in shown(value)


WRITTEN: dict[str, Parse] = {  # by what a document is read, which `to_bytes` writes
    "bundle": formats.parse_bundle,
    "channel": formats.parse_channel,
    "config": records.parse_config,
    "denied": records.parse_denied,
    "floor": parse_floor,
    "generation": records.parse_generation,
    "index": formats.parse_index,
    "pack": formats.parse_pack,
    "release": formats.parse_release,
    "state": records.parse_state,
    "statistics": formats.parse_statistics,
    "text": formats.parse_text,
}
READ: dict[str, Parse] = {
    "json": lambda data: load_object(data, "a document", 1 << 20),
    "merges": lambda data: formats.parse_merges(data, 1000),
    "root": check_root,
}
TARGETS: dict[str, Target] = {
    **{name: round_trip(parse) for name, parse in WRITTEN.items()},
    **{name: reading(parse) for name, parse in READ.items()},
    "bits": bits,
    "image": image,
    "shown": text,
    "tensors": tensors,
    "url": url,
}
