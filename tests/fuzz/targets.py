"""What is fuzzed: every function that reads bytes which others made.

A target gets any bytes. It may raise a DeployError, and nothing else; what it accepts it writes and
reads again, and both must agree.
"""

from collections.abc import Callable
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

Target = Callable[[bytes], None]
SQUARE = formats.Preprocessing(
    size=16, resize=18, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    background=(255, 255, 255), window=(0.0, 4095.0),
)  # fmt: skip


def round_trip(parse: Callable[[bytes], Any]) -> Target:
    """Return a target: what is read is written, and read again."""

    def run(data: bytes) -> None:
        try:
            read = parse(data)
        except DeployError:
            return
        if hasattr(read, "to_bytes") and not isinstance(read, int):
            written = read.to_bytes()
            assert parse(written).to_bytes() == written

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


TARGETS: dict[str, Target] = {
    "bundle": round_trip(formats.parse_bundle),
    "channel": round_trip(formats.parse_channel),
    "config": round_trip(records.parse_config),
    "denied": round_trip(records.parse_denied),
    "floor": round_trip(parse_floor),
    "generation": round_trip(records.parse_generation),
    "image": image,
    "index": round_trip(formats.parse_index),
    "json": round_trip(lambda data: load_object(data, "a document", 1 << 20)),
    "merges": round_trip(lambda data: formats.parse_merges(data, 1000)),
    "pack": round_trip(formats.parse_pack),
    "release": round_trip(formats.parse_release),
    "root": round_trip(check_root),
    "shown": text,
    "state": round_trip(records.parse_state),
    "tensors": tensors,
    "text": round_trip(formats.parse_text),
    "url": url,
}
