"""Bodies that nobody would send: an answer below 500, and nothing that is left."""

import gc
import gzip
import json
import random
from functools import cache

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


@cache
def bomb():
    """A small body that is more than a body may be once it is inflated."""
    return gzip.compress(bytes(40_000_000))


def lying(rng):
    """A body that says what is not so, is far larger than it seems, or is deep."""
    data = prefixed(IMAGE)
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    entry["parameters"] = {"binary_data_size": len(data)}
    outer = {"inputs": [entry]}
    kind = rng.randrange(8)
    if kind == 0 and rng.random() < 0.2:
        return INFER, bomb(), {"Content_Encoding": "gzip"}
    if kind <= 1:
        depth, (left, right) = rng.choice([13, 500, 100_000]), rng.choice(["[]", ('{"a":', "}")])
        return INFER, (left * depth + "1" + right * depth).encode(), {}
    if kind == 2:
        entry["parameters"]["binary_data_size"] = rng.choice([-1, -(2**63), 2**63, 10**30, 0])
    elif kind == 3:
        entry["shape"] = [rng.choice([-1, 0, 2**31, 2**63, 10**30])]
    elif kind == 4:
        data = rng.choice([2**32 - 1, 2**31, 0]).to_bytes(4, "little") + data[4:]
    elif kind == 5:
        entry["name"] = outer["id"] = rng.choice(["\0", "image\0", "\0" * 1000, "\ud800"])
    elif kind == 6:
        entry["data"] = ["0" * rng.choice([1, 10**4])] * rng.choice([1, 33, 100])
        del entry["parameters"]
        data = b""
    else:
        outer["outputs"] = [{"name": rng.choice(["feature", "x"])}] * rng.choice([1, 300])
    text = json.dumps(outer).encode()
    length = rng.choice([len(text)] * 4 + [-1, 2**31, "x", len(text) + len(data) + 1])
    return INFER, text + data, {HEAD: str(length)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_bodies_leave_nothing(server):
    rng = random.Random(0)  # noqa: S311  bytes to order
    process = psutil.Process()

    def some(count):
        for _ in range(count):
            path, body, headers = rng.choice([mutated, lying])(rng)
            check(server.post(path, body, **headers))
        gc.collect()
        return process.memory_info().rss

    before = some(1000)  # until the parser of JSON has what it keeps
    assert some(10_000) - before < GROWTH
    assert server.image(IMAGE).output("label")[0] == "red"
