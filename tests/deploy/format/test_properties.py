"""Whatever the bytes are: a valid object or a DeployError, never anything else."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecl_deploy.errors import DeployError, DigestError, ImageError
from edgecl_deploy.format import (
    Preprocessing,
    digest,
    learned_from,
    parse_bundle,
    parse_index,
    parse_pack,
    parse_release,
    parse_text,
    read_tensors,
    verify,
    write_tensors,
)
from edgecl_deploy.images import prepare

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
PARSERS = {
    "bits.json": parse_pack,
    "bundle.json": parse_bundle,
    "bundle.int8.json": parse_bundle,
    "pack.json": parse_pack,
    "release.json": parse_release,
    "release.int8.json": parse_release,
    "index.json": parse_index,
    "text.json": parse_text,
}
BLOB = (GOLDEN / "blob.safetensors").read_bytes()
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


def read_or_refuse(reader, data):
    try:
        return reader(data)
    except DeployError as error:
        refused = error
    assert refused.must
    assert refused.action.endswith(".")
    assert "\n" not in str(refused)
    return None


@quick
@given(data=st.binary(max_size=300))
def test_any_bytes(data):
    for reader in (*PARSERS.values(), read_tensors):
        read_or_refuse(reader, data)


@quick
@given(value=json_values)
def test_any_json(value):
    data = json.dumps(value).encode()
    for reader in PARSERS.values():
        read_or_refuse(reader, data)
    read_or_refuse(read_tensors, len(data).to_bytes(8, "little") + data)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))
        else:
            yield (*path, key)


@pytest.mark.parametrize("name", PARSERS)
@quick
@given(data=st.data())
def test_any_value_in_any_place_of_a_manifest(name, data):
    value = json.loads((GOLDEN / name).read_bytes())
    path = data.draw(st.sampled_from([each for each in places(value) if each]))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(json_values)
    parsed = read_or_refuse(PARSERS[name], json.dumps(value).encode())
    if parsed is not None:  # what is accepted is understood: it survives a rewrite
        assert PARSERS[name](parsed.to_bytes()) == parsed


@pytest.mark.parametrize("name", PARSERS)
@quick
@given(data=st.data())
def test_any_changed_byte_of_a_manifest(name, data):
    original = (GOLDEN / name).read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(original)
    changed[position] ^= flip
    read_or_refuse(PARSERS[name], bytes(changed))


@quick
@given(position=st.integers(0, len(BLOB) - 1), flip=st.integers(1, 255))
def test_one_changed_byte_of_a_blob_never_passes(position, flip):
    changed = bytearray(BLOB)
    changed[position] ^= flip
    data = bytes(changed)
    with pytest.raises(DigestError, match="Copy the file again"):
        verify(data, digest(BLOB), len(BLOB), "blob")
    pack = parse_pack((GOLDEN / "pack.json").read_bytes())
    program = parse_bundle((GOLDEN / "bundle.json").read_bytes()).programs["pool"]
    learned = read_or_refuse(lambda each: learned_from(program, [pack], {digest(BLOB): each}), data)
    if learned is not None:  # the digest is what refuses it; even without, it is sound
        assert all(np.isfinite(array).all() for array in learned.values())


@quick
@given(end=st.integers(0, len(BLOB) - 1))
def test_a_truncated_blob_never_passes(end):
    with pytest.raises(DeployError, match="Copy the blob again"):
        read_tensors(BLOB[:end])


@quick
@given(
    tensors=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
        st.sampled_from(["f2", "f4", "f8", "i8", "i4", "i1", "u1"]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
        ),
        max_size=4,
    )
)
def test_tensors_round_trip(tensors):
    data = write_tensors(tensors)
    found = read_tensors(data)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    assert write_tensors(found) == data


@quick
@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_image_or_an_image_error(data):
    spec = Preprocessing(8, 8, "bicubic", (0, 0, 0), (1, 1, 1), (255, 255, 255))
    with contextlib.suppress(ImageError):
        assert prepare(data, spec).shape == (8, 8, 3)
