"""The documents of a store: written, read, and refused when they are malformed."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.deploy.support.store_damage import NAME

from edgecl_deploy.errors import DeployError
from edgecl_deploy.manifest.canonical import canonical
from edgecl_deploy.store.layout import (
    CONFIG,
    CURRENT,
    DENIED,
    GENERATIONS,
    HEALTH,
    INHIBIT,
    LOCAL,
    LOCK,
    OBJECTS,
    RESERVE,
    ROOT,
    SPARE,
    STAGING,
    STATE,
    TUF,
)
from edgecl_deploy.store.log import LOG
from edgecl_deploy.store.records import (
    Config,
    Denied,
    Generation,
    Limits,
    Phase,
    State,
    parse_config,
    parse_denied,
    parse_generation,
    parse_state,
)
from edgecl_deploy.store.sealed import SEAL, seal
from edgecl_deploy.update.floor import Floor, parse_floor

CONFIGURED = Config("/bundle", "https://x", "stable", "me", 3, Limits(rate_kbps=9), ("a", "b"))
DOCUMENTS = [
    (parse_config, CONFIGURED),
    (parse_state, State(Phase.TRIAL, 3, 4, NAME, 1, 7, 2, 1, 3)),
    (parse_state, State()),
    (parse_state, State(Phase.ROLLBACK, 3, 4, NAME, denying="it is bad", held=9)),
    (parse_denied, Denied(3, {NAME: "why"})),
    (parse_generation, Generation(3, 4, NAME, {NAME: 5}, 6)),
    (parse_floor, Floor(NAME, 1, 2, 3)),
]
PARSERS = dict.fromkeys(parse for parse, _ in DOCUMENTS)
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_a_document_round_trips(parse, document):
    assert parse(document.to_bytes()) == document


def sealed(fields: dict[str, Any]) -> bytes:
    """The document with its checksum made anew, so that the fields themselves are judged."""
    body = {name: value for name, value in fields.items() if name not in {"format", SEAL}}
    return seal(str(fields.get("format")), body)


def judged(parse, data: bytes) -> None:
    with suppress(DeployError):
        found = parse(data)
        assert parse(found.to_bytes()) == found


@pytest.mark.parametrize("parse", PARSERS)
@quick
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_document_or_an_error(parse, data):
    judged(parse, data)


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
@quick
@given(data=st.data())
def test_a_document_with_any_value_in_it_is_a_document_or_an_error(parse, document, data):
    fields = json.loads(document.to_bytes())
    holder = fields
    if isinstance(fields.get("limits"), dict) and data.draw(st.booleans()):
        holder = fields["limits"]
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(values)
    judged(parse, json.dumps(fields).encode())
    with suppress(ValueError):  # of canonical JSON, which has no infinity
        judged(parse, sealed(fields))


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_a_document_of_another_version_is_refused(parse, document):
    fields = json.loads(document.to_bytes())
    name, _, version = fields["format"].partition("/")
    with pytest.raises(DeployError):
        parse(canonical({**fields, "format": f"{name}/{int(version) + 1}"}))
    for field in fields:
        missing = {key: value for key, value in fields.items() if key != field}
        judged(parse, canonical(missing))
        judged(parse, sealed(missing))


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_every_flipped_bit_of_a_document_is_found(parse, document):
    data = document.to_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DeployError):
            parse(bytes(flipped))


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_a_document_of_the_first_version_is_read(parse, document):
    """Without a checksum, and without the fields of version 2."""
    fields = json.loads(document.to_bytes())
    later = {SEAL, "held", "denying", "bundle_digest", "root_digest", "signed"}
    fields = {key: value for key, value in fields.items() if key not in later}
    fields["format"] = fields["format"].replace("/2", "/1")
    if "limits" in fields:
        del fields["limits"]["untested"]
    read = parse(canonical(fields))
    absent = {"held": 0, "denying": None, "signed": 0}
    assert read == replace(
        document, **{key: value for key, value in absent.items() if hasattr(document, key)}
    )


def test_a_store_reads_only_documents_of_its_size(store):
    (store.path / STATE).write_bytes(b" " * (1024 * 1024 + 1))
    assert store.state is None
    for folder in (store.path, store.path / SPARE):
        (folder / ROOT).write_bytes(b" " * 512_001)
    with pytest.raises(DeployError):
        _ = store.root


def test_what_a_store_holds(store):
    assert sorted(os.listdir(store.path)) == sorted([
        CONFIG, CURRENT, DENIED, GENERATIONS, HEALTH, INHIBIT, LOCAL, LOCK, LOG, OBJECTS, RESERVE,
        ROOT, SPARE, STAGING, STATE, TUF,
    ])  # fmt: skip
    assert sorted(os.listdir(store.path / SPARE)) == [CONFIG, DENIED, ROOT]
    assert (store.path / CURRENT).readlink() == Path("generations/000000.json")
