"""Bodies that nobody would send: an answer below 500, and nothing that is left."""

import gc
import gzip
import json
import random

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.deploy.support.asking import INFER, PIXELS, png, prefixed
from tests.deploy.support.world import SIDE, picture

from edgecl_deploy.server.binary import HEADER

HEAD = HEADER.replace("-", "_")
GROWTH = 50e6  # bytes
IMAGE = png("red")
_WORDS = st.sampled_from([
    "image",
    "BYTES",
    "UINT8",
    "label",
    "scores",
    "base64",
    "\0",
    "é",
    "",
    "../../etc/passwd",
])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def documents(draw):
    """A request of which some fields are something else."""
    data = prefixed(IMAGE)
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    entry["parameters"] = {"binary_data_size": len(data)}
    outer = {"id": "1", "inputs": [entry], "outputs": [{"name": "label"}], "parameters": {}}
    for place, keys in (
        (entry, ["name", "datatype", "shape", "parameters", "data"]),
        (entry["parameters"], ["binary_data_size", "content_type"]),
        (outer["parameters"], ["binary_data_output", "timeout", "top_k"]),
        (outer, ["id", "inputs", "outputs", "parameters"]),
    ):
        for key in draw(st.lists(st.sampled_from(keys), max_size=2, unique=True)):
            place[key] = draw(_VALUES)
    text = json.dumps(outer).encode()
    return text + data, str(len(text))


def check(found):
    """An answer, or an error of the caller in words."""
    assert found.status < 500, found.body
    assert found.status == 200 or found.error


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(documents(), st.sampled_from([INFER, PIXELS]))
def test_fields_that_are_something_else(server, document, path):
    body, length = document
    check(server.post(path, body, **{HEAD: length}))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", ""]), st.integers(-1, 300))
def test_bytes_of_any_kind(server, body, encoding, length):
    headers = {"Content_Encoding": encoding} if encoding else {}
    check(server.post(INFER, body, **headers, **({HEAD: str(length)} if length >= 0 else {})))


def mutated(rng):
    """A body of a request in which some bytes are others, and its headers."""
    data = prefixed(IMAGE) if rng.random() < 0.5 else picture("red").tobytes()
    files = data[4:].startswith(b"\x89PNG")
    entry = {
        "name": "image",
        "datatype": "BYTES" if files else "UINT8",
        "shape": [1] if files else [1, SIDE, SIDE, 3],
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"inputs": [entry]}).encode()
    body = bytearray(text + data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(body))
        kind = rng.random()
        if kind < 0.6:
            body[place] = rng.randrange(256)
        elif kind < 0.8:
            del body[place : place + rng.randint(1, 40)]
        else:
            body[place:place] = rng.randbytes(rng.randint(1, 40))
    headers = {HEAD: str(len(text) + rng.choice([0, 0, 0, -1, 1, 10_000]))}
    if rng.random() < 0.1:
        body, headers["Content_Encoding"] = gzip.compress(bytes(body)), "gzip"
    return (INFER if files else PIXELS), bytes(body), headers


@pytest.mark.slow
def test_ten_thousand_bodies_leave_nothing(server):
    rng = random.Random(0)  # noqa: S311  bytes to order
    process = psutil.Process()

    def some(count):
        for _ in range(count):
            path, body, headers = mutated(rng)
            check(server.post(path, body, **headers))
        gc.collect()
        return process.memory_info().rss

    before = some(500)
    assert some(10_000) - before < GROWTH
    assert server.image(IMAGE).output("label")[0] == "red"
